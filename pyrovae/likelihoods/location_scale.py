"""Likelihoods of real numbers: a location that depends on z, and a scale."""

from abc import abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.arguments import number
from pyrovae.conditional import Build
from pyrovae.distributions import normal
from pyrovae.likelihoods.likelihood import Elementwise
from pyrovae.scale import MIN_SCALE, positive, unconstrained

__all__ = ["Laplace", "Normal", "StudentT"]


class LocationScale(Elementwise):
    """Abstract p(x | z) = prod_i f((x_i - mu_i(z)) / s_i) / s_i, with one scale s for all elements, or one for each.

    Args:
        network: maps z to mu, `(..., *event)`, or to mu and the unconstrained s `(..., 2 C, ...)` if `scale` is None;
            or a function that builds it, given `num_outputs`.
        scale: s, or None for one for each element, computed by the network.
        learned: whether an s given as a number is where it starts, or stays.

    Raises:
        ValueError: if the scale is not finite or not above its floor.
    """

    support = constraints.real
    remedy = "remove or impute it"

    def __init__(self, network: nn.Module | Build, scale: float | None = 1.0, learned: bool = True) -> None:
        super().__init__(network, num_parameters=2 if scale is None else 1)
        if scale is not None:
            value = unconstrained(torch.tensor(float(number("scale", scale, above=MIN_SCALE))))
            if learned:
                self.unconstrained_scale = nn.Parameter(value)
            else:
                self.register_buffer("unconstrained_scale", value)

    def element(self, loc: Tensor, scale: Tensor | None = None) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its P parameters, each `(..., *event)`."""
        return self.family(loc, positive(self.unconstrained_scale if scale is None else scale))

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of this location and scale."""

    @abstractmethod
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of data `(N, ...)`, each `(...)`, of greatest likelihood, or nearly so."""

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        loc, scale = self.fitted(x)
        # An element that never varies would start with a scale of 0, which the least error makes costly.
        return (loc, unconstrained(scale.clamp(min=0.1 * x.std().item())))[: self.num_parameters]


class Normal(LocationScale):
    """p(x | z) = prod_i N(x_i; mu_i(z), sigma_i^2), with one sigma for all elements, or one for each.

    Squared error is this likelihood with the scale fixed at sqrt(1/2), and hides a weight between the two terms of the
    ELBO; a learned scale finds that weight.

    Args:
        network: maps z to mu, `(..., *event)`, or to mu and the unconstrained sigma `(..., 2 C, ...)` if `scale` is
            None; or a function that builds it, given `num_outputs`.
        scale: sigma, or None for one for each element, computed by the network.
        learned: whether a sigma given as a number is where it starts, or stays.

    References:
        Rybkin et al. (2021), Simple and effective VAE training with calibrated decoders,
        https://arxiv.org/abs/2006.13202

    Example:
        >>> from pyrovae import networks
        >>> Normal(networks.MLP(2, 3), scale=0.5, learned=False)(torch.zeros(20, 2)).stddev[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of this location and scale."""
        return normal.Normal(loc, scale)

    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of data `(N, ...)`, each `(...)`."""
        return x.mean(0), x.std(0, correction=0)


class Laplace(LocationScale):
    """p(x | z) = prod_i exp(-|x_i - mu_i(z)| / b_i) / (2 b_i), with one b for all elements, or one for each.

    Absolute error is this likelihood with b fixed at 1.

    Args:
        network: maps z to mu, `(..., *event)`, or to mu and the unconstrained b `(..., 2 C, ...)` if `scale` is None;
            or a function that builds it, given `num_outputs`.
        scale: b, or None for one for each element, computed by the network.
        learned: whether a b given as a number is where it starts, or stays.

    Example:
        >>> from pyrovae import networks
        >>> Laplace(networks.MLP(2, 3), scale=0.5)(torch.zeros(20, 2)).variance[0]
        tensor([0.5000, 0.5000, 0.5000], ...)
    """

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of this location and scale."""
        return dist.Laplace(loc, scale)

    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Median and mean absolute deviation from it of data `(N, ...)`, each `(...)`."""
        median = x.median(0).values
        return median, (x - median).abs().mean(0)


class StudentT(LocationScale):
    """p(x | z) = prod_i t_df(x_i; mu_i(z), s_i), Student's t, whose tails make outliers cheap.

    Args:
        network: maps z to mu, `(..., *event)`, or to mu and the unconstrained s `(..., 2 C, ...)` if `scale` is None;
            or a function that builds it, given `num_outputs`.
        df: degrees of freedom, above 1, so that there is a mean, at most 1000; fewer have heavier tails.
        scale: s, or None for one for each element, computed by the network.
        learned: whether an s given as a number is where it starts, or stays.

    Raises:
        ValueError: if there is no mean, or the scale is not finite or not above its floor.

    References:
        Takahashi et al. (2018), Student-t variational autoencoder for robust density estimation,
        https://doi.org/10.24963/ijcai.2018/374

    Example:
        >>> from pyrovae import networks
        >>> StudentT(networks.MLP(2, 3), df=4)(torch.zeros(20, 2)).variance[0]
        tensor([2., 2., 2.], ...)
    """

    def __init__(
        self, network: nn.Module | Build, df: float = 4.0, scale: float | None = 1.0, learned: bool = True
    ) -> None:
        super().__init__(network, scale, learned)
        self.df = number("df", df, above=1, most=1000)  # from where it has a mean to where float32 has log Gamma

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of this location and scale."""
        return dist.StudentT(self.df, loc, scale)

    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Median and mean absolute deviation from it of data `(N, ...)`, each `(...)`."""
        median = x.median(0).values
        return median, (x - median).abs().mean(0)
