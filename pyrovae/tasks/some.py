"""What tasks show and take of the data of a run."""

import torch
from torch import Tensor

from pyrovae.drawn import Drawn

__all__ = ["are_images", "some"]


def some(n: int, seed: int, *data: Tensor) -> tuple[Tensor, ...]:
    """The same n rows of each, at random, or all if there are fewer; of what stands for its draws, a draw.

    Args:
        n: how many.
        seed: of the choice, and of draws.
        data: x `(N, *event)`, and what else there is of each datum.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data[0]), generator=generator)[:n]
    return tuple(t[rows].draw(generator) if isinstance(t, Drawn) else t[rows] for t in data)


def are_images(x: Tensor) -> bool:
    """Whether data `(N, C, H, W)` are images of one channel or of three, which figures can show.

    Args:
        x: data.
    """
    return x.dim() == 4 and x.shape[1] in (1, 3)
