"""Precision: in which number format the matrix products of networks are computed. Log-densities stay as they are."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, get_args

import torch

__all__ = ["Precision", "of_networks", "precision"]

Precision = Literal["float32", "tf32", "bfloat16"]

_active: ContextVar[Precision] = ContextVar("precision", default="float32")


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Within, networks of likelihoods and encoders compute in `float32` (as data and parameters are), or faster.

    Args:
        name: `tf32`, products of float32 rounded to 10 bits of mantissa, on GPUs that have it; `bfloat16`, by autocast:
            8 bits of mantissa, and half of the memory to move.

    Raises:
        ValueError: if there is no such format.

    Example:
        >>> from pyrovae import likelihoods, networks
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(2, 5))
        >>> with precision("bfloat16"):
        ...     likelihood(torch.zeros(1, 2)).log_prob(torch.ones(1, 5)).dtype
        torch.float32
    """
    if name not in get_args(Precision):
        raise ValueError(f"precision is one of {', '.join(get_args(Precision))}, not {name!r}")
    token, before = _active.set(name), torch.get_float32_matmul_precision()
    if name == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if name == "tf32":
            torch.set_float32_matmul_precision(before)
        _active.reset(token)


def of_networks(device: torch.device) -> AbstractContextManager:
    """Around a network: autocast, if that is asked for."""
    return torch.autocast(device.type, torch.bfloat16) if _active.get() == "bfloat16" else nullcontext()
