"""Random numbers: what is done under a seed gives the same result, and leaves the world's random state alone."""

import operator
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream(seed: int, purpose: str) -> int:
    """The seed of what is drawn for a purpose, independent of what is drawn for another from the same seed."""
    return zlib.crc32(f"{purpose} {seed}".encode())


@contextmanager
def isolated(seed: int | None = None, purpose: str = "") -> Iterator[None]:
    """Restore torch's random state (CPU and CUDA) afterwards; within, start from `seed`, or from the state as it is.

    What is drawn for one purpose is independent of what is drawn for another, or for none, from the same seed: the
    noise that scores data must not be the noise that made them.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            torch.manual_seed(stream(seed, purpose) if purpose else operator.index(seed) % 2**64)
        yield
