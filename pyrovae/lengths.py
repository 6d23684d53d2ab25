"""Sequences as the rows of data, each of a length of its own: of what is past its end nothing counts."""

from contextlib import AbstractContextManager, nullcontext

import torch
from pyro import poutine
from torch import Tensor

__all__ = ["check_lengths", "counted", "steps_of"]


def steps_of(x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The steps of data, which are their rows, and which of them come before the end.

    Args:
        x: sequences `(B, T, F)`, or images `(B, C, T, W)`.
        lengths: L of each, from 1 to T, `(B,)`; None is T.

    Returns:
        The steps, `(B, T, F)` or `(B, T, C, W)`, the first put for all past the end, as there anything may be; and
        whether t <= L, `(B, T)`, or None.

    Example:
        >>> steps, seen = steps_of(torch.tensor([[[5.0], [6.0], [torch.nan]]]), torch.tensor([2]))
        >>> steps.flatten(), seen
        (tensor([5., 6., 5.]), tensor([[ True,  True, False]]))
    """
    steps = x.movedim(-2, 1)
    if lengths is None:
        return steps, None
    seen = torch.arange(steps.shape[1], device=x.device) < lengths[:, None]  # (B, T)
    return torch.where(seen.reshape(*seen.shape, *(1,) * (x.dim() - 2)), steps, steps[:, :1]), seen


def counted(seen: Tensor | None, t: int) -> AbstractContextManager:
    """Within, the log-densities of the data whose end came before step t, counted from 0, are 0.

    Args:
        seen: which steps come before the end, `(B, T)`; None is all.
        t: the step.
    """
    return nullcontext() if seen is None else poutine.mask(mask=seen[:, t])


def check_lengths(lengths: Tensor, x: Tensor, name: str = "x") -> None:
    """Refuse what are no lengths of the data.

    Args:
        lengths: of each datum.
        x: the data, `(B, T, F)` or `(B, C, T, W)`.
        name: what the message calls them.

    Raises:
        ValueError: unless they are whole numbers from 1 to T, one for each datum.
    """
    inside = (lengths > 0) & (lengths <= x.shape[-2])
    if lengths.shape != x.shape[:1] or lengths.is_floating_point() or not inside.all():
        raise ValueError(
            f"lengths must be whole numbers from 1 to {x.shape[-2]}, one for each of the {len(x)} data of {name}, not "
            f"{lengths.dtype} of shape {tuple(lengths.shape)} from {lengths.min()} to {lengths.max()}: give such, or "
            f"leave them out if all sequences are whole"
        )
