"""Damaged and hostile files: small valid ones of each format that is read, and random changes of them."""

import contextlib
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from pyrovae import checkpoint, data, runs

__all__ = ["Format", "changed", "formats", "in_checkpoint", "in_png", "in_zip"]

# What texts, headers and pickles take for more than bytes.
TOKENS = (
    *(b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 30, b"2147483648", b"4294967295", b"-9223372036854775808", b"null"),
    *(b'"', b"'", b",", b";", b"\n", b"\r", b"\t", b"\0", b"(" * 500, b"[" * 500, b"{", b"}", b"\xef\xbb\xbf", b"\xff"),
    *(b"!!python/object/apply:os.getcwd []", b"&a [*a, *a]", b"<<: *b", b"- ", b": ", b"%", b"|O", b"<f8", b">c16"),
    *(b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8, b"\xff" * 8, b"True", b"1_000", b"\xd9\xa1", b"PK\3\4", b"\x80\2c"),
)
# What stands in checkpoints in place of states.
VALUES = (
    *(None, True, -1, 0, 2**70, 0.5, math.nan, math.inf, "", "x", [], {}, [1, [2]], {"x": 1}, (3, "y")),
    *(torch.zeros(0), torch.zeros(2, 3), torch.full((8,), math.nan), torch.tensor(2**40), torch.zeros(5000).byte()),
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


def in_checkpoint(content: bytes, random: np.random.Generator) -> bytes:
    """A checkpoint with one member of the archive or one value of its states changed, and all checksums right."""
    if random.integers(2):
        return checkpoint.signed(in_zip(content, random))
    buffer = io.BytesIO()
    torch.save(_with_another(torch.load(io.BytesIO(content), weights_only=True), random), buffer)
    return checkpoint.signed(buffer.getvalue())


def _with_another(state: Any, random: np.random.Generator) -> Any:
    """Nested states with one of them replaced or, in a dictionary, left out."""
    if not isinstance(state, dict | list | tuple) or not state or random.random() < 0.1:
        return VALUES[random.integers(len(VALUES))]
    key = list(state if isinstance(state, dict) else range(len(state)))[random.integers(len(state))]
    if key == "optimizer":  # of which PyTorch believes whatever it is told
        return state
    if not isinstance(state, dict):
        return [*state[:key], _with_another(state[key], random), *state[key + 1 :]]
    if random.random() < 0.1:
        return {name: value for name, value in state.items() if name != key}
    return {**state, key: _with_another(state[key], random)}


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
        "npy, mapped": Format({"x.npy": _bytes(np.save, grey)}, "x.npy", _read("x.npy", memory_map=True)),
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
    small = ["--latent_dim=2", "--encoder_network.hidden=[4]", "--decoder_network.hidden=[4]", "--epochs=1", "--keep=1"]
    with contextlib.redirect_stderr(io.StringIO()):  # no bar of its progress
        runs.train(runs.parser().parse_args([f"--data={folder / 'data' / 'x.npy'}", *small]), folder / "run")
    run = {name: (folder / "run" / name).read_bytes() for name in (runs.CHECKPOINT, runs.CONFIG)}
    found["checkpoint"] = Format(run, runs.CHECKPOINT, _read_checkpoint, in_checkpoint)
    found["run's checkpoint"] = Format(run, runs.CHECKPOINT, _read_run, in_checkpoint)
    found["run that goes on"] = Format(run, runs.CHECKPOINT, _read_on, in_checkpoint)
    found["run's options"] = Format(run, runs.CONFIG, _read_run)
    return found


def _bytes(save: Callable, *args: Any, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def _read(name: str, **options: bool) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        path = name if name in data.NAMES else str(folder / name)
        found = data.load(path, root=folder, **options)
        return found.protocol.checksum + (data.fingerprint(*found.labels) if found.labels else "")

    return read


def _read_checkpoint(folder: Path) -> str:
    return repr(checkpoint.read(folder / runs.CHECKPOINT))


def _read_run(folder: Path) -> str:
    return data.fingerprint(*runs.load(folder).vae.state_dict().values())


def _read_on(folder: Path) -> str:
    options = runs.parser().parse_path(folder / runs.CONFIG)
    options.epochs = 2
    with warnings.catch_warnings(action="ignore"):
        return data.fingerprint(*runs.train(options, folder, resume=True).vae.state_dict().values())
