"""The uniform distribution on the unit sphere."""

from math import lgamma, log, pi

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["HypersphericalUniform"]


class HypersphericalUniform(TorchDistribution):
    """p(z) = 1 / area of S^(D-1), area = 2 pi^(D/2) / Gamma(D/2), for unit vectors z in R^D, with respect to area.

    Args:
        dim: D, dimensions of the space around the sphere, at least 2.
        like: a tensor whose dtype and device the draws have; by default PyTorch's default.
        validate_args: whether `log_prob` refuses what is not on the sphere.

    Raises:
        ValueError: if D is less than 2.

    Example:
        >>> HypersphericalUniform(3).log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log(4 pi)
        tensor(-2.5310)
    """

    arg_constraints: dict = {}  # noqa: RUF012 as in PyTorch
    support = constraints.sphere
    has_rsample = True

    def __init__(self, dim: int, like: Tensor | None = None, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"a sphere lies in a space of at least 2 dimensions, not {dim}")
        self.dim = dim
        self.like = torch.empty(0) if like is None else like
        super().__init__(event_shape=(dim,), validate_args=validate_args)

    @property
    def log_area(self) -> float:
        """Log of the area of the sphere."""
        return log(2) + self.dim / 2 * log(pi) - lgamma(self.dim / 2)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Normalised normals, which have no preferred direction, `(*sample_shape, *batch_shape, D)`."""
        return normalize(self.like.new_empty(self._extended_shape(sample_shape)).normal_(), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus log area, of unit vectors `(..., D)`."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -self.log_area)

    def entropy(self) -> Tensor:
        """Log area, `batch_shape`."""
        return self.like.new_full(self.batch_shape, self.log_area)

    def expand(
        self, batch_shape: tuple[int, ...], _instance: "HypersphericalUniform | None" = None
    ) -> "HypersphericalUniform":
        """The same for a batch of this shape."""
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        new.dim, new.like = self.dim, self.like
        super(HypersphericalUniform, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
