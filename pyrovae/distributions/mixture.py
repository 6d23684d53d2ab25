"""Mixtures whose density at many points is fast where the components are normals."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pyrovae.distributions.normal import Normal

__all__ = ["Mixture", "table_size"]

_NORMALS = (Normal, dist.Normal, torch.distributions.Normal)
_CHUNK = 2**21  # numbers of a table of points, components and dimensions at a time


class Mixture(dist.MixtureSameFamily):
    """p(z) = sum_c pi_c p_c(z), one table of points and components of which p_c = N(mu_c, diag(sigma_c^2)) make.

    PyTorch's own keeps several tables of points, components and dimensions for the gradient; this one has none.

    Args:
        mixture_distribution: pi, a `Categorical` of batch `()`.
        component_distribution: p_c, batch `(C,)`, event `(D,)`.

    Example:
        >>> p = Mixture(dist.Categorical(logits=torch.zeros(2)), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1))
        >>> p.log_prob(torch.zeros(3))
        tensor(-2.7568)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z) of z `(..., D)`."""
        components = self.component_distribution
        if not _are_normals(components):
            return super().log_prob(value)
        loc, scale = components.base_dist.loc, components.base_dist.scale  # (C, D) each
        squares = _SquaredDistances.apply(value.reshape(-1, value.shape[-1]), loc, scale.reciprocal())
        constant = scale.log().sum(-1) + loc.shape[-1] / 2 * math.log(2 * math.pi)  # (C,)
        log_p = self.mixture_distribution.logits - constant - squares / 2  # (N, C)
        return log_p.logsumexp(-1).reshape(value.shape[:-1])

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> dist.TorchDistribution:
        """The same for each element of a batch."""
        if not math.prod(batch_shape):  # of no data, which an ExpandedDistribution cannot draw
            return super().expand(batch_shape, _instance)
        return dist.ExpandedDistribution(self, torch.Size(batch_shape))


def table_size(p: dist.TorchDistribution) -> int:
    """How many numbers log p(z) of a z takes: those of z, or of all components of a mixture.

    Args:
        p: of batch `()`.

    Example:
        >>> table_size(Mixture(dist.Categorical(torch.ones(7)), dist.Normal(torch.zeros(7, 3), 1.0).to_event(1)))
        7
    """
    if not isinstance(p, dist.MixtureSameFamily):
        return math.prod(p.event_shape)
    components = p.component_distribution
    number = components.batch_shape[-1]
    return number if isinstance(p, Mixture) and _are_normals(components) else number * math.prod(p.event_shape)


def _are_normals(components: torch.distributions.Distribution) -> bool:
    return (
        isinstance(components, Independent)
        and type(components.base_dist) in _NORMALS
        and components.base_dist.loc.dim() == 2
    )


class _SquaredDistances(torch.autograd.Function):
    """|(z_n - mu_c) / sigma_c|^2, of z `(N, D)`, mu and 1 / sigma `(C, D)`: `(N, C)`.

    The value is summed as it stands; the gradient is made of matrix products, which can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, loc: Tensor, precision: Tensor) -> Tensor:
        ctx.save_for_backward(z, loc, precision)
        result = z.new_empty(len(z), len(loc))
        rows = max(_CHUNK // loc.numel(), 1)
        loc, precision = loc.mT.contiguous(), precision.mT.contiguous()  # (D, C): sums side by side are fast
        for part, out in zip(z.split(rows), result.split(rows), strict=True):
            d = part.unsqueeze(-1) - loc
            d *= precision
            out.copy_(d.square_().sum(1))
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        z, loc, precision = ctx.saved_tensors
        a = precision.square()
        of_points = 2 * (z * (g @ a) - g @ (a * loc))
        if not any(ctx.needs_input_grad[1:]):  # as for chains of z
            return of_points, None, None
        of_z, of_square, total = g.T @ z, g.T @ z.square(), g.sum(0).unsqueeze(-1)  # sums over points, (C, D) or (C, 1)
        return (
            of_points,
            -2 * a * (of_z - total * loc),
            2 * precision * (of_square - 2 * loc * of_z + total * loc.square()),
        )
