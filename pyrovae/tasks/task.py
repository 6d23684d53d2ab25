"""What a task gives: numbers, what they say, and files to look at."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyrovae.files import whole, write_json

__all__ = ["Result", "write"]


class Result(NamedTuple):
    """What a task found."""

    numbers: dict[str, Any]  # by flat names, as they are kept in numbers.json
    summary: str  # what they say, for whoever reads the terminal
    files: Mapping[str, Callable[[Path], Any]]  # by name, what writes the file at a path: a figure's savefig, say


def write(result: Result, folder: str | Path) -> None:
    """Keep a result in a folder: `numbers.json` and each file, whole or not at all.

    A name that ends with / is of a folder, which its writer makes, and replaces.

    Args:
        result: the result.
        folder: made if it is not there; files that are there and have one of the names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, writer in result.files.items():
        if name.endswith("/"):
            writer(folder / name)
            continue
        with whole(folder / name) as path:
            writer(path)
    write_json(folder / "numbers.json", result.numbers)
