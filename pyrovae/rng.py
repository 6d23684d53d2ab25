"""Random numbers: what is done under a seed gives the same result, and leaves the world's random state alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Restore torch's random state (CPU and CUDA) afterwards; within, start from `seed`, or from the state as it is."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            torch.manual_seed(seed)
        yield
