"""Data that programs take as one argument, or as several: x alone, or x with what else is known of each datum."""

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrovae.model import Model

__all__ = ["Data", "arguments", "arity", "columns", "moved", "split"]

Data = Tensor | tuple[Tensor, ...]


def columns(data: Data) -> tuple[Tensor, ...]:
    """The arguments of the programs, each with a row for each datum.

    Args:
        data: x `(N, *event)`, or a tuple that begins with it.

    Raises:
        ValueError: if they are no dense tensors with a row for each datum, or not of the same data.

    Example:
        >>> [len(t) for t in columns((torch.zeros(3, 5), torch.ones(3)))]
        [3, 3]
    """
    found = data if isinstance(data, tuple) else (data,)
    if not found or not all(isinstance(t, Tensor) and t.dim() for t in found):
        raise ValueError("data are a tensor (N, ...), or a tuple of such that begins with x")
    if any(t.layout is not torch.strided or t.is_meta for t in found):
        raise ValueError("data must be dense tensors that hold values: give x.to_dense() in place of a sparse x")
    if len({len(t) for t in found}) != 1:
        raise ValueError(f"what is known of the data has {', '.join(str(len(t)) for t in found)} rows: give each one")
    return found


def arity(model: Model) -> int:
    """How many arguments the programs take at most: of data with more columns, such as labels, the first are theirs."""
    return len(inspect.signature(model.model).parameters)


def arguments(model: Model, data: Data) -> tuple[Tensor, ...]:
    """The columns of the data that the programs take.

    Args:
        model: the model.
        data: x `(N, *event)`, or a tuple that begins with it.
    """
    return columns(data)[: arity(model)]


def split(data: Data, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of the data, in their order."""
    return zip(*(t.split(batch_size) for t in columns(data)), strict=True)


def moved(data: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """The same on the device of a parameter, and in its precision if they are in floating point."""
    return tuple(t.to(like) if t.is_floating_point() else t.to(like.device) for t in data)
