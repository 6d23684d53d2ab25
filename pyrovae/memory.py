"""Memory: how much is free, and one sentence, before it is exceeded, where there is not enough."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["available", "explained", "limited"]


def available() -> int | None:
    """Bytes of main memory that this process can still get, of the machine and of its control group; None if unknown.

    Example:
        >>> available() > 0
        True
    """
    try:
        found = [1024 * int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1])]
    except (OSError, TypeError):
        return None
    for group in _groups():
        try:
            most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            cached = int(re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)[1])
            found.append(most - used + cached)
        except (OSError, TypeError, ValueError):  # no such group, or one without a limit
            pass
    return max(min(found), 0)


def _groups() -> list[Path]:
    """Folders of this process's control group and of those that it is within, whose limits hold for it, too."""
    root = Path("/sys/fs/cgroup")
    try:
        path = re.search(r"^0::/(.*)", Path("/proc/self/cgroup").read_text(), re.MULTILINE)[1]
    except (OSError, TypeError):
        return [root]
    own = root / path
    return [group for group in (own, *own.parents) if group.is_relative_to(root)]


@contextmanager
def limited() -> Iterator[None]:
    """Within, what is asked for beyond the memory that is free now fails at once: the system would end the process.

    Where there is a GPU, whose driver reserves more than it takes, nothing is limited.

    Example:
        >>> with limited(), explained():
        ...     torch.empty(2**50)
        Traceback (most recent call last):
        MemoryError: not enough memory: 4194304.0 GiB more were needed, ...
    """
    free = available()
    if free is None or torch.cuda.is_available():
        yield
        return
    import resource  # which Windows has not

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    held = 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    soft = min([held + free, *(limit for limit in (before, most) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (soft, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


@contextmanager
def explained(**sizes: Any) -> Iterator[None]:
    """Within, a lack of memory is told in one sentence, with how much was needed and which options make it less.

    Args:
        sizes: what takes the memory, such as batch_size=64, by the option's name.

    Raises:
        MemoryError: if there is not enough, on the CPU or a GPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lack = isinstance(error, MemoryError | torch.OutOfMemoryError) or _LACK.search(str(error))
        if not lack or "not enough memory: " in str(error):  # which was told already
            raise
        raise MemoryError(_sentence(str(error), sizes)) from error


_LACK = re.compile("can't allocate memory|not enough memory|Storage size calculation overflowed")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def _sentence(text: str, sizes: dict[str, Any]) -> str:
    on_gpu = "GPU" in text
    free = torch.cuda.mem_get_info()[0] if on_gpu else available()
    told = [] if free is None else [f"{free / 2**30:.1f} GiB of {'the GPU' if on_gpu else 'main memory'} are free"]
    if needed := re.search(rf"allocate:? ([\d.]+) ({'|'.join(_UNITS)})", text):
        told.insert(0, f"{float(needed[1]) * _UNITS[needed[2]] / 2**30:.1f} GiB more were needed")
    given = [f"{name} (which is {value})" for name, value in sizes.items()]
    what = ", ".join(given) or "batch_size, num_particles, num_samples, latent_dim or what the networks have of units"
    return f"not enough memory: {', '.join(told)}; lower {what}, or give the objective a chunk of draws"
