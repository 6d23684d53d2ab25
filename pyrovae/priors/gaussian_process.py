"""Gaussian process priors: latents that are correlated across a sequence or an angle."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import number, tensor
from pyrovae.priors.prior import Prior
from pyrovae.scale import positive, unconstrained

if TYPE_CHECKING:
    from pyrovae.data import Dataset

__all__ = ["GaussianProcess"]

_NUGGET = (
    1e-4  # share of the variance that is white noise: without it, float32 has no Cholesky factor of smooth kernels
)


class GaussianProcess(Prior):
    """p(z) = prod_l N(f_l; 0, K), K_ts = exp(-|t - s|^2 / 2 l^2): z holds D / T functions f_l at T points t each.

    With a period P, K_ts = exp(-2 sin^2(pi |t - s| / P) / l^2). A datum is a sequence (or a turn of an object), so that
    the correlation lies within it, and data remain independent of each other, in one plate. z is function by function:
    `z.unflatten(-1, (-1, T))` is `(..., D / T, T)`. The variance is 1, a ten-thousandth of it white noise.

    Args:
        latent_dim: D, dimensions of z, a multiple of T.
        index: the points t, `(T,)` or `(T, n)` for points in n dimensions, in any unit; by default the `index` of the
            data from which training starts, and of data without one 0, 1, ..., D - 1, for one function.
        length_scale: l at the start of training, in the unit of the index; in that of radius 1 if there is a period.
        period: P, in the unit of the index; by default the kernel is not periodic.

    Raises:
        ValueError: if D is no multiple of T, or a number is not positive.

    References:
        Casale et al. (2018), Gaussian process prior variational autoencoders, https://arxiv.org/abs/1810.11738
        Fortuin et al. (2020), GP-VAE: deep probabilistic time series imputation, https://arxiv.org/abs/1907.04155
        MacKay (1998), Introduction to Gaussian processes, https://www.inference.org.uk/mackay/gpB.pdf

    Example:
        >>> prior = GaussianProcess(2 * 8, index=range(0, 360, 45), period=360)
        >>> prior().sample((5,)).unflatten(-1, (-1, 8)).shape
        torch.Size([5, 2, 8])
    """

    index: Tensor

    def __init__(
        self,
        latent_dim: int,
        index: Sequence[float] | Tensor | None = None,
        length_scale: float = 1.0,
        period: float | None = None,
    ) -> None:
        super().__init__(latent_dim)
        self.given, self.period = index is not None, None if period is None else number("period", period, above=0)
        length_scale = torch.tensor(float(number("length_scale", length_scale, above=0)))
        self.unconstrained_length_scale = nn.Parameter(unconstrained(length_scale))
        self._hold(range(latent_dim) if index is None else index)

    def start_from(self, dataset: "Dataset") -> None:
        """Take the points from the data, if they have an `index` and the prior was given none."""
        index = getattr(dataset, "index", None)
        if index is not None and not self.given:
            self._hold(index)

    def kernel(self) -> Tensor:
        """The covariance K of a function's values at the points, `(T, T)`."""
        difference = self.index[:, None] - self.index  # (T, T, n)
        length_scale = positive(self.unconstrained_length_scale)
        if self.period is not None:  # on a circle of radius 1, chords in place of differences
            difference = 2 * torch.sin(math.pi * difference / self.period)
        smooth = torch.exp(-0.5 * (difference / length_scale).square().sum(-1))
        return (1 - _NUGGET) * smooth + _NUGGET * torch.eye(len(smooth), dtype=smooth.dtype, device=smooth.device)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        factor = torch.linalg.cholesky(self.kernel())
        scale_tril = torch.block_diag(*[factor] * (self.latent_dim // len(factor)))  # (D, D), a block for each function
        return dist.MultivariateNormal(scale_tril.new_zeros(self.latent_dim), scale_tril=scale_tril)

    def _hold(self, index: Sequence[float] | Tensor) -> None:
        like = self.unconstrained_length_scale
        if not isinstance(index, Tensor | Iterable):
            raise ValueError(f"index must be numbers, or a tensor of them, not {index!r}")
        points = torch.as_tensor(index if isinstance(index, Tensor) else list(index), dtype=like.dtype).to(like.device)
        points = tensor("index", points)
        points = points[:, None] if points.dim() == 1 else points
        if points.dim() != 2 or len(points) == 0 or self.latent_dim % len(points) != 0:
            raise ValueError(
                f"a Gaussian process needs points (T,) or (T, n) and latent_dim a multiple of T, but the index has the "
                f"shape {tuple(points.shape)} and latent_dim is {self.latent_dim}"
            )
        self.register_buffer("index", points)
