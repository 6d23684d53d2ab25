"""Two inputs of a network as one."""

import torch
from torch import Tensor, nn

from pyrovae.networks.network import Shape, as_shape

__all__ = ["Join"]


class Join(nn.Module):
    """(a, b) as one input: b is stacked under a along a's first dimension, `out_shape[0] = a[0] + b's share`.

    A vector b is repeated for each pixel of an image a, so that convolutions see it everywhere; a b with a's pixels is
    stacked as channels; and any b is flattened for a vector a. Leading dimensions broadcast.

    Args:
        a: shape of one a.
        b: shape of one b.

    Raises:
        ValueError: if b is neither a vector nor of a's pixels, where a is no vector.

    Example:
        >>> Join(4, (1, 8, 8))(torch.zeros(20, 5, 4), torch.zeros(5, 1, 8, 8)).shape
        torch.Size([20, 5, 68])
        >>> Join((1, 8, 8), 10).out_shape, Join((1, 8, 8), (3, 8, 8)).out_shape
        ((11, 8, 8), (4, 8, 8))
    """

    def __init__(self, a: Shape, b: Shape) -> None:
        super().__init__()
        self.a, self.b = as_shape(a), as_shape(b)
        if len(self.a) > 1 and len(self.b) > 1 and self.a[1:] != self.b[1:]:
            raise ValueError(f"something of shape {self.b} is neither a vector nor of the pixels of {self.a}")
        channels = self.b[0] if len(self.a) > 1 else torch.Size(self.b).numel()
        self.out_shape = (self.a[0] + channels, *self.a[1:])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One input, `(..., *out_shape)`, of a `(..., *a)` and b `(..., *b)`."""
        for given, shape in ((a, self.a), (b, self.b)):
            if given.shape[given.dim() - len(shape) :] != shape:
                raise ValueError(f"an input should be (..., *{shape}), but was given {tuple(given.shape)}")
        lead = torch.broadcast_shapes(a.shape[: a.dim() - len(self.a)], b.shape[: b.dim() - len(self.b)])
        b = b.to(a.dtype)
        if len(self.a) == 1:
            b = b.flatten(b.dim() - len(self.b))
        elif len(self.b) == 1:
            b = b.reshape(*b.shape, *(1,) * (len(self.a) - 1)).expand(*b.shape, *self.a[1:])
        return torch.cat([t.expand(*lead, *t.shape[t.dim() - len(self.a) :]) for t in (a, b)], -len(self.a))
