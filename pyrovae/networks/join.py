"""Two inputs of a network as one, and a network of two inputs."""

from math import prod

import torch
from torch import Tensor, nn

from pyrovae.networks.network import Shape, as_shape

__all__ = ["Join", "Joined"]


class Join(nn.Module):
    """(a, b) as one input, of the shape `out_shape`; leading dimensions broadcast.

    A vector b is repeated for each pixel of an image a, so that convolutions see it everywhere, as channels; a b with
    a's pixels becomes channels as it is; anything else is flattened and put after a, flattened.

    Args:
        a: shape of one a.
        b: shape of one b.

    Example:
        >>> Join(4, (1, 8, 8))(torch.zeros(20, 5, 4), torch.zeros(5, 1, 8, 8)).shape
        torch.Size([20, 5, 68])
        >>> Join((1, 8, 8), 10).out_shape, Join((1, 8, 8), (3, 8, 8)).out_shape
        ((11, 8, 8), (4, 8, 8))
    """

    def __init__(self, a: Shape, b: Shape) -> None:
        super().__init__()
        self.a, self.b = as_shape(a), as_shape(b)
        self.as_channels = len(self.a) > 1 and (len(self.b) == 1 or self.b[1:] == self.a[1:])
        pixels = self.a[1:] if self.as_channels else ()
        sizes = (self.a[0], self.b[0]) if self.as_channels else (prod(self.a), prod(self.b))
        self.out_shape = (sum(sizes), *pixels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One input, `(..., *out_shape)`, of a `(..., *a)` and b `(..., *b)`."""
        for given, shape in ((a, self.a), (b, self.b)):
            if given.shape[given.dim() - len(shape) :] != shape:
                raise ValueError(f"an input should be (..., *{shape}), but was given {tuple(given.shape)}")
        b = b.to(a.dtype)
        lead = torch.broadcast_shapes(a.shape[: a.dim() - len(self.a)], b.shape[: b.dim() - len(self.b)])
        a, b = a.expand(*lead, *self.a), b.expand(*lead, *self.b)
        if not self.as_channels:
            return torch.cat([t.flatten(len(lead)) for t in (a, b)], -1)
        if len(self.b) == 1:
            b = b.reshape(*b.shape, *(1,) * (len(self.a) - 1)).expand(*b.shape, *self.a[1:])
        return torch.cat([a, b], len(lead))


class Joined(nn.Module):
    """f(a, x) = head(a, features(x)), a network of a vector a and an x of any shape.

    Features are computed once for each x, however many a there are.

    Args:
        features: a network from x to a vector.
        head: a network from a and the features, as one vector.

    Raises:
        ValueError: if the head does not take what the features give, and more.

    Example:
        >>> from pyrovae import networks
        >>> f = Joined(networks.MLP((1, 8, 8), 16), networks.MLP(2 + 16, 3))
        >>> f(torch.zeros(20, 5, 2), torch.zeros(5, 1, 8, 8)).shape
        torch.Size([20, 5, 3])
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        given, takes = features.out_shape, head.in_shape
        if len(given) != 1 or len(takes) != 1 or takes[0] <= given[0]:
            raise ValueError(f"the head takes {takes}, which is no vector with room for features of shape {given}")
        self.features, self.head = features, head
        self.join = Join(takes[0] - given[0], given)
        self.out_shape = head.out_shape

    def forward(self, a: Tensor, x: Tensor) -> Tensor:
        """What the head gives, `(..., *out_shape)`, of a `(..., n)` and x `(..., *event)`."""
        return self.head(self.join(a, self.features(x)))
