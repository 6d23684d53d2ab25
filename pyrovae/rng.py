# ruff: noqa: NPY002 - as data of users' own may draw from the global generator
"""Random numbers: what is done under a seed gives the same result, and leaves the world's random state alone."""

import operator
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same with NumPy's global generator and Python's, from which data of users' own may be drawn."""
    with isolated(seed):
        kind, of_numpy, of_python = np.random.get_bit_generator(), np.random.get_state(legacy=False), random.getstate()
        np.random.set_bit_generator(np.random.MT19937())  # the usual one, whatever a user has put there
        reseed(seed)
        try:
            yield
        finally:
            np.random.set_bit_generator(kind)
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def reseed(seed: int, purpose: str = "") -> None:
    """Start NumPy's global generator and Python's from a seed."""
    np.random.seed(stream(seed, f"NumPy {purpose}"))
    random.seed(stream(seed, f"Python {purpose}"))


def state() -> dict[str, Any]:
    """Where all generators are, torch's (CPU and CUDA), NumPy's and Python's, in plain values and tensors."""
    _, words, *others = np.random.get_state()
    version, of_python, gauss = random.getstate()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [torch.from_numpy(words.astype(np.int64)), *map(float, others)],
        "python": [version, torch.tensor(of_python), gauss],
    }


def set_state(state: dict[str, Any]) -> None:
    """Bring all generators there; of the GPUs those that there are.

    Raises:
        LookupError, RuntimeError, TypeError, ValueError: if it is none that `state` gave.
    """
    words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    version, of_python, gauss = state["python"]
    random.setstate((version, tuple(of_python.tolist()), gauss))
    torch.set_rng_state(state["cpu"])
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
