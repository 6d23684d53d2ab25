"""What is hidden of data, so that it can be filled in and compared."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyrovae.columns import columns
from pyrovae.runs import Run

__all__ = ["Hide", "hidden", "known_values"]

Hide = Literal["left", "right", "top", "bottom", "random", "none"]


def hidden(x: Tensor, hide: Hide, fraction: float, fields: Sequence[int], seed: int) -> Tensor:
    """Which elements are hidden, booleans `(N, *event)`.

    Args:
        x: data, `(N, *event)`.
        hide: the half of an image, random elements, or none.
        fraction: of the elements that are hidden at random.
        fields: columns of a table that are hidden, from 0, in place of all that.
        seed: of those at random.
    """
    which = torch.zeros_like(x, dtype=torch.bool)
    if fields:
        if x.dim() != 2 or not all(0 <= field < x.shape[1] for field in fields):
            raise ValueError(f"fields are columns of a table, from 0, not {list(fields)} of data {tuple(x.shape[1:])}")
        which[:, list(fields)] = True
    elif hide == "random":
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < fraction
    elif hide != "none":
        if x.dim() != 4:
            raise ValueError(f"the {hide} half is one of an image, not of data {tuple(x.shape[1:])}: hide at random")
        height, width = x.shape[2] // 2, x.shape[3] // 2
        halves = {"top": slice(height), "bottom": slice(height, None)}
        if hide in halves:
            which[:, :, halves[hide]] = True
        else:
            which[..., slice(width) if hide == "left" else slice(width, None)] = True
    return which


def known_values(run: Run, part: str) -> tuple[Tensor, Tensor]:
    """Data, and which of their elements are known at all, of which a model of incomplete data may be shown fewer."""
    x, observed = columns(getattr(run.dataset, part))[0], run.dataset.observed
    return x, torch.ones_like(x, dtype=torch.bool) if observed is None else getattr(observed, part)
