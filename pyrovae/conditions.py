"""Conditions: what a model is given of each datum beside x, as its networks see it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.arguments import whole
from pyrovae.networks.network import Shape, as_shape

__all__ = ["Features", "OneHot", "Quadrants"]


class OneHot(nn.Module):
    """A class 0, ..., C - 1 as a vector, 1 at the class and 0 elsewhere.

    Args:
        classes: C.

    Example:
        >>> OneHot(3)(torch.tensor([2]))
        tensor([[0, 0, 1]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.out_shape = (whole("classes", classes),)

    def forward(self, y: Tensor) -> Tensor:
        """Vectors `(..., C)` of classes `(...)`, whole numbers."""
        return F.one_hot(y.long(), *self.out_shape)

    def check(self, y: Tensor) -> None:
        """Refuse what is no class."""
        [classes] = self.out_shape
        if y.is_floating_point() or y.dim() != 1:
            raise ValueError(f"classes are whole numbers, (N,), not {y.dtype} of shape {tuple(y.shape)}")
        if len(y) and not (y.min() >= 0 and y.max() < classes):
            raise ValueError(f"classes are from 0 to {classes - 1}, but these go from {y.min()} to {y.max()}")


class Features(nn.Module):
    """Numbers, as they are.

    Args:
        shape: of those of one datum.

    Example:
        >>> Features(3)(torch.ones(1, 3))
        tensor([[1., 1., 1.]])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.out_shape = as_shape(shape)

    def forward(self, y: Tensor) -> Tensor:
        """The same, `(..., *shape)`."""
        return y

    def check(self, y: Tensor) -> None:
        """Refuse what is of another shape, or not finite."""
        if not y.is_floating_point() or tuple(y.shape[1:]) != self.out_shape:
            raise ValueError(f"a condition is (N, *{self.out_shape}), floating point, not {y.dtype} {tuple(y.shape)}")
        if not y.isfinite().all():
            raise ValueError("a condition holds NaN or infinity: remove or impute it")


class Quadrants(nn.Module):
    """Images of which some quadrants are given, and the others, hidden, are to be filled in.

    Quadrants are given in the order lower left, upper left, lower right.

    Args:
        shape: of an image, `(C, H, W)`.
        visible: how many quadrants are given, 1 to 3.

    References:
        Sohn et al. (2015), Learning structured output representation using deep conditional generative models,
        https://papers.nips.cc/paper/5775

    Example:
        >>> quadrants, x = Quadrants((1, 8, 8), visible=1), torch.rand(5, 1, 8, 8)
        >>> hidden, visible = quadrants.split(x)
        >>> hidden.shape, visible.shape, torch.equal(quadrants.merge(hidden, visible), x)
        (torch.Size([5, 1, 48]), torch.Size([5, 1, 16]), True)
    """

    mask: Tensor  # of the pixels that are visible, (H, W)

    def __init__(self, shape: tuple[int, int, int], visible: int = 1) -> None:
        super().__init__()
        if visible not in (1, 2, 3) or len(shape) != 3 or min(shape[1:]) < 2:
            raise ValueError(f"1 to 3 quadrants of images (C, H, W) are visible, not {visible} of {tuple(shape)}")
        channels, h, w = shape
        mask = torch.zeros(h, w, dtype=torch.bool)
        lower, upper, left, right = slice(h // 2, h), slice(h // 2), slice(w // 2), slice(w // 2, w)
        for place in [(lower, left), (upper, left), (lower, right)][:visible]:
            mask[place] = True
        self.register_buffer("mask", mask)
        self.out_shape = (channels, int(mask.sum()))

    def forward(self, y: Tensor) -> Tensor:
        """Visible pixels as they are, `(..., C, pixels)`."""
        return y

    def check(self, y: Tensor) -> None:
        """Refuse what are no visible pixels."""
        Features(self.out_shape).check(y)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and visible pixels of images `(N, C, H, W)`, each `(N, C, pixels)`."""
        mask = self.mask.to(x.device)
        return x[:, :, ~mask], x[:, :, mask]

    def merge(self, hidden: Tensor, visible: Tensor) -> Tensor:
        """Images `(N, C, H, W)` of their parts."""
        mask = self.mask.to(hidden.device)
        x = hidden.new_empty(*hidden.shape[:2], *mask.shape)
        x[:, :, ~mask], x[:, :, mask] = hidden, visible.to(hidden)
        return x
