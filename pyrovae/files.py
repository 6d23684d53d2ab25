"""Files that are written whole or not at all."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, with null for what is not finite, of which JSON knows nothing."""
    with whole(path) as beside:
        beside.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was before it was written as JSON."""
    return {key: math.nan if value is None else value for key, value in row.items()}
