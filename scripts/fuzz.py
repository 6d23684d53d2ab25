"""Give damaged and hostile files to all readers, and tell what became of each: `python scripts/fuzz.py --seconds 600`.

Small valid files of each format are changed at random, input i by the seed and i alone, and read in a process with a
limit of memory and of time. An input is read alike or otherwise, or refused in one sentence; any other end is bad: the
input is kept in the folder of `--out`, and the exit code is 1.
"""

import io
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
import torch

from pyrovae import files, options
from pyrovae.hostile_files import Format, changed, formats

GOOD = ("alike", "otherwise", "refused")
BAD = ("traceback", "memory", "hang", "crash")


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
