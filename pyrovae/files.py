"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; what was written there becomes `path` if the block ends well, and vanishes if not."""
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}-{path.name}")  # the ending tells figures their format
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
