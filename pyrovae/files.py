"""Files that are written whole or not at all, in folders that one process writes to at a time."""

import errno
import json
import math
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; what was written there becomes `path` if the block ends well, and vanishes if not.

    Raises:
        OSError: if it cannot be written, in one sentence where there is no room for it.
    """
    path = Path(path)
    beside = own(path)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise OSError(f"there is no room for '{path}' ({error.strerror}): it is left as it was before") from error
        if error.filename and Path(error.filename) == beside:
            raise type(error)(f"'{path}' cannot be written ({error.strerror}): look for its folder") from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def own(path: Path) -> Path:
    """A name beside a file's, of this process on this machine, as others may share the folder; its ending is the same.

    Example:
        >>> own(Path("runs/figure.png")).name.endswith("-figure.png")
        True
    """
    return path.with_name(f".{os.getpid()}-{platform.node()}-{path.name}")


def _sync(folder: Path) -> None:
    """Let the names in a folder outlast a loss of power."""
    if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Hold a folder, so that no other process, and no other thread, can hold it; within, it can be held again.

    The system lets go of it when the process ends, however it ends. Files that a killed process of this machine left
    half written are removed.

    Args:
        folder: that is there.

    Raises:
        BlockingIOError: if it is held.

    Example:
        >>> import tempfile
        >>> with held(tempfile.mkdtemp()):
        ...     pass
    """
    folder = Path(folder).resolve()
    if folder in _held.get():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        for path in folder.glob(f".*-{platform.node()}-*"):
            process = path.name[1:].partition("-")[0]
            if process.isdecimal() and path.is_file() and not _lives(int(process)):
                path.unlink(missing_ok=True)
        token = _held.set(_held.get() | {folder})
        try:
            yield
        finally:
            _held.reset(token)
    finally:
        os.close(descriptor)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl  # here, as the library is imported on Windows, too

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"another process trains in '{folder}': wait until it ends, or give another folder"
        ) from None
    except OSError:
        warnings.warn(f"'{folder}' cannot be locked here: let no other process train in it", stacklevel=4)


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
