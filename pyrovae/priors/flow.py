"""Priors by normalizing flows, and the layers of which they are made."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import Permute
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform

from pyrovae import flows
from pyrovae.arguments import whole, wholes
from pyrovae.networks import MLP
from pyrovae.priors.prior import Prior

__all__ = ["AffineAutoregressive", "AffineCoupling", "FlowPrior", "Layer", "SplineAutoregressive", "SplineCoupling"]

_BINS = 8
_UNIT_SLOPE = math.log(math.expm1(1 - 1e-3))  # of which `flows.spline` makes a slope of 1


def _affine(parameters: Tensor) -> tuple[Tensor, ...]:
    """Location and log-scale of `flows.affine`, the latter in (-2, 2), of parameters `(..., 2, D)`."""
    loc, a = parameters.unbind(-2)
    return loc, 2 * torch.tanh(a / 2)


def _spline(parameters: Tensor) -> tuple[Tensor, ...]:
    """Widths, heights and slopes of `flows.spline`, of parameters `(..., 3 bins - 1, D)`; of zeros, the identity."""
    widths, heights, slopes = parameters.transpose(-1, -2).split([_BINS, _BINS, _BINS - 1], -1)
    return widths, heights, slopes + _UNIT_SLOPE


class Layer(nn.Module, ABC):
    """Abstract layer of a flow: a map from z to x that starts near the identity; called, gives the `Transform`.

    Args:
        latent_dim: D, dimensions of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> Transform:
        """The map from z to x, with the parameters as they are now."""


class _Coupling(Layer):
    """x = (z_a, g(z_b; theta(z_a))), the halves a and b of the dimensions, theta by a network with tanh units."""

    def __init__(self, latent_dim: int, hidden: Sequence[int], parameters: int) -> None:
        super().__init__(latent_dim)
        if latent_dim < 2:
            raise ValueError(
                f"{type(self).__name__} couples one half of the dimensions to the other, but latent_dim is 1: use "
                f"AffineAutoregressive or SplineAutoregressive"
            )
        half = latent_dim // 2
        self.network = MLP(half, (parameters, latent_dim - half), hidden, nn.Tanh)


class _Autoregressive(Layer):
    """x_d = g(z_d; theta(z_1 ... z_(d-1))), theta by a masked network with tanh units (MADE)."""

    def __init__(self, latent_dim: int, hidden: Sequence[int], parameters: int) -> None:
        super().__init__(latent_dim)
        hidden = wholes("hidden", hidden)
        if not hidden or min(hidden) < latent_dim:
            raise ValueError(f"each hidden layer needs at least latent_dim = {latent_dim} units, not {hidden}")
        with warnings.catch_warnings():  # in one dimension theta is the bias alone, as it should
            warnings.filterwarnings("ignore", message="ConditionalAutoRegressiveNN input_dim = 1")
            self.network = AutoRegressiveNN(
                latent_dim, list(hidden), [parameters], torch.arange(latent_dim), nonlinearity=nn.Tanh()
            )
        with torch.no_grad():
            self.network.layers[-1].weight.mul_(0.1)
            self.network.layers[-1].bias.zero_()


class AffineCoupling(_Coupling):
    """x = (z_a, m(z_a) + s(z_a) z_b), the halves a and b of the dimensions: RealNVP; s is within exp(-2) and exp(2).

    Args:
        latent_dim: D, dimensions of z, at least 2.
        hidden: units of the hidden layers of the network that gives m and log s.

    Raises:
        ValueError: in one dimension.

    References:
        Dinh et al. (2017), Density estimation using Real NVP, https://arxiv.org/abs/1605.08803

    Example:
        >>> AffineCoupling(3)()(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, hidden, parameters=2)

    def forward(self) -> Transform:
        """The map from z to x, with the parameters as they are now."""
        return Coupling(flows.affine, lambda a: _affine(self.network(a)))


class SplineCoupling(_Coupling):
    """x = (z_a, g(z_b; theta(z_a))), the halves a and b of the dimensions, g a rational quadratic spline.

    Each g has 8 bins on [-5, 5], and is the identity outside.

    Args:
        latent_dim: D, dimensions of z, at least 2.
        hidden: units of the hidden layers of the network that gives theta.

    Raises:
        ValueError: in one dimension.

    References:
        Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032

    Example:
        >>> SplineCoupling(3)()(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, hidden, parameters=3 * _BINS - 1)

    def forward(self) -> Transform:
        """The map from z to x, with the parameters as they are now."""
        return Coupling(flows.spline, lambda a: _spline(self.network(a)))


class AffineAutoregressive(_Autoregressive):
    """x_d = m_d(z_<d) + s_d(z_<d) z_d, masked autoregressive flow; s is within exp(-2) and exp(2).

    A density takes one pass through the network, a draw D passes.

    Args:
        latent_dim: D, dimensions of z.
        hidden: units of the hidden layers of the network that gives m and log s, at least D in each.

    Raises:
        ValueError: if a hidden layer is too small.

    References:
        Papamakarios et al. (2017), Masked autoregressive flow for density estimation, https://arxiv.org/abs/1705.07057

    Example:
        >>> AffineAutoregressive(3)()(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, hidden, parameters=2)

    def forward(self) -> Transform:
        """The map from z to x, with the parameters as they are now."""
        return flows.Autoregressive(flows.affine, lambda z: _affine(self.network(z)))


class SplineAutoregressive(_Autoregressive):
    """x_d = g(z_d; theta_d(z_<d)), g a rational quadratic spline of 8 bins on [-5, 5], the identity outside.

    A density takes one pass through the network, a draw D passes.

    Args:
        latent_dim: D, dimensions of z.
        hidden: units of the hidden layers of the network that gives theta, at least D in each.

    Raises:
        ValueError: if a hidden layer is too small.

    References:
        Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032

    Example:
        >>> SplineAutoregressive(3)()(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, hidden, parameters=3 * _BINS - 1)

    def forward(self) -> Transform:
        """The map from z to x, with the parameters as they are now."""
        return flows.Autoregressive(flows.spline, lambda z: _spline(self.network(z)))


class Coupling(flows.Flow):
    """y = (x_a, g(x_b; theta(x_a))), the halves a and b of the dimensions; log |det dy/dx| = sum_b log g'(x_b).

    Args:
        g: the map of one dimension, such as `flows.affine` or `flows.spline`.
        parameters: maps x_a `(..., D // 2)` to theta.
    """

    def __init__(
        self, g: Callable[..., tuple[Tensor, Tensor]], parameters: Callable[[Tensor], Sequence[Tensor]]
    ) -> None:
        super().__init__()
        self.g, self.parameters = g, parameters

    def evaluate(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, or the x of y if `inverse`; and log |det dy/dx|, `(...)`."""
        a, b = x.tensor_split([x.shape[-1] // 2], -1)
        b, log_slope = self.g(b, *self.parameters(a), inverse=inverse)
        return torch.cat([a, b], -1), log_slope.sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        x, self._log_det = self.evaluate(y, inverse=True)
        return x


class _Flow(dist.TransformedDistribution):
    """A `TransformedDistribution` that computes each z's inverse anew.

    The one that it keeps of a draw that was made without gradient would have none, and the density a wrong one.

    References:
        https://github.com/pytorch/pytorch/issues/59822
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of z `(..., D)`."""
        return super().log_prob(value.view_as(value))  # another object, which is not in the cache


class FlowPrior(Prior):
    """p(z) = N(f(z); 0, I) |det df/dz|, f a chain of invertible layers, learned.

    Between the layers the dimensions are reversed and shuffled in turn. The density of any z takes one pass.

    Args:
        latent_dim: D, dimensions of z.
        flow: makes a layer for D dimensions: SplineCoupling, AffineCoupling, SplineAutoregressive,
            AffineAutoregressive, or a `Layer` of your own.
        layers: how many.

    Raises:
        ValueError: without layers, or for a coupling in one dimension.

    References:
        Chen et al. (2017), Variational lossy autoencoder, https://arxiv.org/abs/1611.02731
        Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032

    Example:
        >>> FlowPrior(3, flow=AffineCoupling, layers=2)().sample((5,)).shape
        torch.Size([5, 3])
    """

    loc: Tensor
    orders: Tensor

    def __init__(self, latent_dim: int, flow: Callable[[int], Layer] = SplineCoupling, layers: int = 4) -> None:
        super().__init__(latent_dim)
        self.layers = nn.ModuleList(flow(latent_dim) for _ in range(whole("layers", layers)))
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        reversed_ = torch.arange(latent_dim).flip(0)
        orders = [reversed_ if i % 2 == 0 else torch.randperm(latent_dim) for i in range(layers)]
        self.register_buffer("orders", torch.stack(orders))  # (layers, D)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        transforms = [t for layer, o in zip(self.layers, self.orders, strict=True) for t in (Permute(o), layer().inv)]
        return _Flow(dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1), transforms)
