"""Give damaged and hostile files to all readers, and tell what became of each: `python scripts/fuzz.py --seconds 600`.

Small valid files of each format are changed at random, input i by the seed and i alone, and read in a process with a
limit of memory and of time. An input is read alike or otherwise, or refused in one sentence; any other end is bad: the
input is kept in the folder of `--out`, and the exit code is 1.
"""

import contextlib
import io
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import pandas as pd
import torch
from PIL import Image

from pyrovae import checkpoint, data, files, options, runs

GOOD = ("alike", "otherwise", "refused")
BAD = ("traceback", "memory", "hang", "crash")
# What texts, headers and pickles take for more than bytes.
TOKENS = (
    *(b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 30, b"2147483648", b"4294967295", b"-9223372036854775808", b"null"),
    *(b'"', b"'", b",", b";", b"\n", b"\r", b"\t", b"\0", b"(" * 500, b"[" * 500, b"{", b"}", b"\xef\xbb\xbf", b"\xff"),
    *(b"!!python/object/apply:os.getcwd []", b"&a [*a, *a]", b"<<: *b", b"- ", b": ", b"%", b"|O", b"<f8", b">c16"),
    *(b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8, b"\xff" * 8, b"True", b"1_000", b"\xd9\xa1", b"PK\3\4", b"\x80\2c"),
)


class Format(NamedTuple):
    """Valid files, which of them is changed, how they are read, and what else than its bytes is changed."""

    content: dict[str, bytes]
    target: str
    read: Callable[[Path], str]  # a digest of what is read from the folder
    inside: Callable[[bytes, np.random.Generator], bytes] | None = None


def changed(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes after one to four changes: bits flipped, tokens put in, and slices left out, repeated, moved or cut off."""
    found = bytearray(content)
    for _ in range(random.integers(1, 5)):
        start, stop = sorted(random.integers(0, len(found) + 1, 2))
        stop = min(stop, start + int(2 ** random.uniform(0, 12)))
        token = TOKENS[random.integers(len(TOKENS))]
        match random.integers(8):
            case 0 if found:
                found[random.integers(len(found))] ^= 1 << random.integers(8)
            case 1:
                found[start:stop] = random.bytes(stop - start)
            case 2:
                found[start:start] = token
            case 3:
                found[start : start + len(token)] = token
            case 4:
                del found[start:stop]
            case 5:
                found[start:start] = found[start:stop] * int(random.integers(1, 4))
            case 6:
                del found[start:]
            case _:  # a number in decimal digits, as headers and texts have them
                digits = [i for i, byte in enumerate(found) if 48 <= byte < 58]
                if digits:
                    found[digits[random.integers(len(digits))]] = 48 + random.integers(10)
    return bytes(found)


def in_zip(content: bytes, random: np.random.Generator) -> bytes:
    """A zip file with one member changed, and all checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    which, buffer = random.integers(len(members)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, (member, inner) in enumerate(members):
            archive.writestr(member.filename, changed(inner, random) if i == which else inner, member.compress_type)
    return buffer.getvalue()


def in_png(content: bytes, random: np.random.Generator) -> bytes:
    """A PNG file with one chunk changed, and all checksums right."""
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4])
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + size]])
        at += size + 12
    chunk = chunks[random.integers(len(chunks))]
    chunk[1] = changed(chunk[1], random)
    sums = ((len(inner), kind + inner, zlib.crc32(kind + inner)) for kind, inner in chunks)
    return content[:8] + b"".join(n.to_bytes(4) + inner + crc.to_bytes(4) for n, inner, crc in sums)


def formats(folder: Path) -> dict[str, Format]:
    """All formats that are read, by name; a run is trained in the folder for its files."""
    random = np.random.default_rng(0)
    grey, classes = random.integers(0, 256, (24, 8, 8), dtype=np.uint8), np.arange(24) % 3
    table = pd.DataFrame(random.normal(size=(24, 4)).round(3), columns=list("abcd")).assign(label=classes)
    table.loc[:, "c"] = np.arange(24)
    found = {
        "npy": Format({"x.npy": _bytes(np.save, grey)}, "x.npy", _read("x.npy")),
        "csv": Format({"x.csv": table.to_csv(index=False).encode()}, "x.csv", _read("x.csv")),
        "csv, missing": Format(
            {"x.csv": table.to_csv(index=False, header=False).encode()}, "x.csv", _read("x.csv", missing=True)
        ),
    }
    for name, save in {"npz": np.savez, "npz, deflated": np.savez_compressed}.items():
        content = _bytes(save, x_train=grey, y_train=classes, x_test=grey[:12], y_test=classes[:12])
        found[name] = Format({"x.npz": content}, "x.npz", _read("x.npz"), in_zip)
    for ending in ("png", "jpeg", "bmp", "tiff", "webp", "ppm"):
        content = {
            f"{i:02}.{ending}": _bytes(Image.fromarray(x.repeat(3).reshape(8, 8, 3)).save, format=ending)
            for i, x in enumerate(grey[:12])
        }
        inside = in_png if ending == "png" else None
        found[ending] = Format(content, f"07.{ending}", _read("."), inside)
    idx = {
        f"MNIST/raw/{part}-{kind}-ubyte": bytes([0, 0, 8, x.ndim])
        + b"".join(n.to_bytes(4) for n in x.shape)
        + x.tobytes()
        for part in ("train", "t10k")
        for kind, x in {"images-idx3": grey, "labels-idx1": classes.astype(np.uint8)}.items()
    }
    for kind in ("images-idx3", "labels-idx1"):
        found[kind] = Format(idx, f"MNIST/raw/train-{kind}-ubyte", _read("mnist"))
    (folder / "data").mkdir()
    np.save(folder / "data" / "x.npy", grey)
    small = ["--latent_dim=2", "--encoder_network.hidden=[4]", "--decoder_network.hidden=[4]", "--epochs=1"]
    with contextlib.redirect_stderr(io.StringIO()):  # no bar of its progress
        runs.train(runs.parser().parse_args([f"--data={folder / 'data' / 'x.npy'}", *small]), folder / "run")
    run = {name: (folder / "run" / name).read_bytes() for name in (runs.CHECKPOINT, runs.CONFIG)}
    found["checkpoint"] = Format(run, runs.CHECKPOINT, _read_checkpoint, in_zip)
    found["run's checkpoint"] = Format(run, runs.CHECKPOINT, _read_run, in_zip)
    found["run's options"] = Format(run, runs.CONFIG, _read_run)
    return found


def _bytes(save: Callable, *args: object, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def _read(name: str, missing: bool = False) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        path = name if name in data.NAMES else str(folder / name)
        found = data.load(path, root=folder, missing=missing)
        return found.protocol.checksum + (data.fingerprint(*found.labels) if found.labels else "")

    return read


def _read_checkpoint(folder: Path) -> str:
    return repr(checkpoint.read(folder / runs.CHECKPOINT))


def _read_run(folder: Path) -> str:
    return data.fingerprint(*runs.load(folder).vae.state_dict().values())


def outcome(read: Callable[[Path], str], folder: Path, expected: str) -> tuple[str, str]:
    """What became of an input, one of `GOOD` or `BAD`, and what was said of it."""
    try:
        found = read(folder)
    except SystemExit as end:  # how a wrong option ends, in one line
        return ("refused", "") if end.code == 2 else ("traceback", f"exit code {end.code}")
    except Exception as error:
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(cause, MemoryError) for cause in causes):
            return "memory", str(error)
        # As the command line tells it: `options.command`.
        if isinstance(error, options.MISTAKES) and len(str(error).splitlines()) == 1:
            return "refused", str(error)
        return "traceback", traceback.format_exc()
    return ("alike" if found == expected else "otherwise"), ""


def serve(pipe: Connection, found: dict[str, Format], memory: int) -> None:
    """Read what the pipe names, in the limits of memory, as long as it names anything."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    urllib.request.urlopen = refuse
    torch.set_num_threads(1)
    sys.stderr = io.StringIO()
    while True:
        name, folder, expected = pipe.recv()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, resource.RLIM_INFINITY))
        sys.stderr.seek(0)
        sys.stderr.truncate()
        pipe.send(outcome(found[name].read, folder, expected))


class Reader:
    """A process that reads inputs in limits of memory and time; another takes its place when it ends.

    Args:
        found: formats by name.
        memory: bytes that reading one input may take.
        seconds: that it may take.
    """

    def __init__(self, found: dict[str, Format], memory: int, seconds: float) -> None:
        self.found, self.memory, self.seconds = found, memory, seconds
        self.start()

    def start(self) -> None:
        """Start a process."""
        context = multiprocessing.get_context("fork")  # so that it has imported all
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.found, self.memory), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, name: str, folder: Path, expected: str = "") -> tuple[str, str]:
        """What became of the files in a folder; only what takes too long twice hangs, as a machine may be busy."""
        first = self.once(name, folder, expected)
        return self.once(name, folder, expected) if first[0] == "hang" else first

    def once(self, name: str, folder: Path, expected: str) -> tuple[str, str]:
        """What became of them at the first try."""
        self.pipe.send((name, folder, expected))
        try:
            if self.pipe.poll(self.seconds):
                return self.pipe.recv()
            kind = "hang", f"longer than {self.seconds} seconds"
        except EOFError:
            self.process.join()
            kind = "crash", f"exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return kind


def write(content: dict[str, bytes], folder: Path) -> None:
    """Files with this content."""
    for name, inner in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(inner)


def fuzz(found: dict[str, Format], seed: int, seconds: float, out: Path, memory: int, limit: float) -> pd.DataFrame:
    """How many inputs of each format had which outcome; the bad ones are kept in a folder.

    Args:
        found: formats by name.
        seed: of the inputs.
        seconds: for how long.
        out: the folder.
        memory: bytes that reading one input may take.
        limit: seconds that it may take.
    """
    counts = {name: Counter() for name in found}
    read, end, number = Reader(found, memory, limit), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as kept:
        folders = {name: Path(kept) / str(i) for i, name in enumerate(found)}
        expected = {}
        for name, form in found.items():
            write(form.content, folders[name])
            expected[name] = form.read(folders[name])
        while time.monotonic() < end:
            for name, form in found.items():
                random = np.random.default_rng([seed, number])
                change = form.inside if form.inside and random.integers(2) else changed
                content = change(form.content[form.target], random)
                (folders[name] / form.target).write_bytes(content)
                kind, said = read(name, folders[name], expected[name])
                counts[name][kind] += 1
                if kind in BAD:
                    out.mkdir(parents=True, exist_ok=True)
                    stem = f"{seed}-{number}-{kind}"
                    with files.whole(out / f"{stem}-{Path(form.target).name}") as path:
                        path.write_bytes(content)
                    with files.whole(out / f"{stem}.txt") as path:
                        path.write_text(f"{name}: {kind}\n{said}\n")
                number += 1
    return pd.DataFrame(counts, index=[*GOOD, *BAD]).fillna(0).astype(int).T


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder of the inputs that end badly")
    parser.add_argument("--memory", type=float, default=1.0, help="GiB that reading one input may take")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that it may take")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = formats(Path(folder))
        table = fuzz(found, chosen.seed, chosen.seconds, chosen.out, int(chosen.memory * 2**30), chosen.limit)
    table.loc["all"] = table.sum()
    print(table.to_markdown())
    if table.loc["all", list(BAD)].any():
        print(f"what ended badly is kept in {chosen.out}")
        sys.exit(1)


if __name__ == "__main__":
    options.command(main)
