"""Claims: which of several processes, on one machine or on many that share a folder, does a piece of work.

A claim is a lock (flock) on a file. The system lets go of it when the process ends, however it ends, so no claim is
ever stale. It reaches over machines if the file system carries locks from one to the other, as NFS 4 does, which lets
go of those of a machine that died after its lease of about 90 seconds; a mount with local locks (NFS with `nolock` or
`local_lock`, Lustre with `localflock`) does not, and there machines would do the same work, each of them.
"""

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["claimed", "holder"]


@contextmanager
def claimed(path: str | Path, wait: bool = False) -> Iterator[bool]:
    """Claim a piece of work until the block or the process ends; give whether it was had, so that nobody else has it.

    Args:
        path: the file that stands for the work. It stays, and tells who has the claim, or had it last.
        wait: whether to wait for whoever has it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "work"
        >>> with claimed(path) as mine, claimed(path) as another:
        ...     mine, another
        (True, False)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # NFS locks files that are open for writing, and neither others nor folders
        if not _lock(file.fileno(), path, wait):
            yield False
            return
        file.truncate(0)
        file.write(f"{platform.node()}, process {os.getpid()}\n")
        file.flush()
        yield True


def holder(path: str | Path) -> str:
    """Who has the claim, or had it last: machine and process."""
    return Path(path).read_text().strip() or "another process"  # that is just writing it


def _lock(descriptor: int, path: Path, wait: bool) -> bool:
    try:
        import fcntl  # which Windows has not

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        warnings.warn(f"'{path.parent}' cannot be locked here: let one process alone work in it", stacklevel=4)
    return True
