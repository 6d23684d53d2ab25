"""Encoders by autoregressive flows, whose layers take one dimension of z after another."""

import math
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from pyro.distributions.transforms import Transform
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyrovae import flows
from pyrovae.arguments import whole, wholes
from pyrovae.conditional import Build
from pyrovae.encoders.flow import FlowEncoder

__all__ = ["IAF", "Spline"]

_UNIT_SLOPE = math.log(math.expm1(1 - 1e-3))  # of which `flows.spline` makes a slope of 1


class _MADE(ConditionalAutoRegressiveNN):
    """Parameters of each dimension from those before it in the order and a context h, which enters as tanh(h).

    The last weights start small, so that what the network gives hardly depends on its input yet.
    """

    def __init__(
        self, latent_dim: int, context_dim: int, hidden: Sequence[int], param_dims: list[int], backwards: bool
    ) -> None:
        order = torch.arange(latent_dim)
        order = order.flip(0) if backwards else order
        with warnings.catch_warnings():  # in one dimension the parameters depend on the context alone, as they should
            warnings.filterwarnings("ignore", message="ConditionalAutoRegressiveNN input_dim = 1")
            super().__init__(
                latent_dim, context_dim, list(hidden), param_dims, permutation=order, nonlinearity=nn.ELU()
            )
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)
            self.layers[-1].bias.zero_()

    def forward(self, x: Tensor, context: Tensor) -> Sequence[Tensor]:
        """Each kind of parameter, `(..., n, D)` or `(..., D)`, given x `(..., D)` and h `(..., context_dim)`."""
        return super().forward(x, context.tanh())


class _AffineMADE(_MADE):
    """Shift and log-scale, the latter in (-2, 2), which bounds by how much a layer and its inverse can grow."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = super().forward(x, context)
        return loc, 2 * (log_scale / 2).tanh()


class _SplineMADE(_MADE):
    """Widths, heights and slopes of splines, that of the identity at the start and each within 4 of it.

    The bound, on numbers that enter a softmax or softplus, keeps the splines invertible in float32.
    """

    def forward(self, x: Tensor, context: Tensor) -> list[Tensor]:
        bounded = (4 * (t / 4).tanh() for t in super().forward(x, context))
        widths, heights, slopes = (t.transpose(-1, -2) for t in bounded)  # (..., D, M)
        return [widths, heights, slopes + _UNIT_SLOPE]


class Autoregressive(FlowEncoder):
    """Abstract: layers in each of which a dimension is transformed given those before it, in alternating order.

    Args:
        network: maps x to mu, a and a context h, `(..., 2 D + context_dim)`; or a function that builds it, given
            `num_outputs`.
        layers: how many.
        context_dim: dimensions of h, by which the layers, whose weights are shared by all x, depend on x.
        hidden: units of the hidden layers of each layer's network, at least D in each.

    Raises:
        ValueError: if the network does not tell its `out_shape`, or a number is too small.
    """

    param_dims: list[int]

    def __init__(
        self, network: nn.Module | Build, layers: int, context_dim: int, hidden: Sequence[int], made: type[_MADE]
    ) -> None:
        whole("layers", layers)
        hidden = wholes("hidden", hidden)
        self.context_dim = whole("context_dim", context_dim)  # num_outputs is asked for it by the class above
        super().__init__(network)
        if self.event_shape is None:
            raise ValueError(
                f"{type(self).__name__} builds its layers for the dimension of z, which the network "
                f"{type(self.network).__name__} does not tell: give it an attribute out_shape, (2 D + {context_dim},)"
            )
        (latent_dim,) = self.event_shape
        if not hidden or min(hidden) < latent_dim:
            raise ValueError(
                f"each hidden layer of {type(self).__name__} needs at least one unit for each of the {latent_dim} "
                f"dimensions of z, not {hidden}"
            )
        self.layers = nn.ModuleList(
            made(latent_dim, context_dim, hidden, self.param_dims, backwards=i % 2 == 1) for i in range(layers)
        )

    def flow_outputs(self, size: int) -> int:
        """How many of the network's outputs f needs: the context."""
        return self.context_dim


class IAF(Autoregressive):
    """q(z | x): z = mu + sigma f_T(... f_1(eps)), f_t(u)_i = m_i(u_<i, h) + s_i(u_<i, h) u_i.

    Inverse autoregressive flow: all of mu, sigma and h are functions of x, and every other layer runs backwards through
    the dimensions. A draw and its density take one pass; the density of another z takes D passes. The layers start near
    the identity, and s is within exp(-2) and exp(2).

    Args:
        network: maps x to mu, a and h, `(..., 2 D + context_dim)`; or a function that builds it, given `num_outputs`.
        layers: T.
        context_dim: dimensions of h, by which the layers, whose weights are shared by all x, depend on x.
        hidden: units of the hidden layers of each layer's network, at least D in each.

    Raises:
        ValueError: if the network does not tell its `out_shape`, or a number is too small.

    References:
        Kingma et al. (2016), Improving variational inference with inverse autoregressive flow,
        https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = IAF(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    param_dims = [1, 1]  # noqa: RUF012

    def __init__(
        self,
        network: nn.Module | Build,
        layers: int = 2,
        context_dim: int = 64,
        hidden: Sequence[int] = (128,),
    ) -> None:
        super().__init__(network, layers, context_dim, hidden, _AffineMADE)

    def transforms(self, parameters: Tensor, size: int) -> list[Transform]:
        """The layers of f, given h, `(..., context_dim)`."""
        return [flows.Autoregressive(flows.affine, partial(made, context=parameters)) for made in self.layers]


class Spline(Autoregressive):
    """q(z | x): z = mu + sigma f_T(... f_1(eps)), f_t(u)_i = g(u_i; theta_i(u_<i, h)), g a monotonic spline.

    Each g is a rational quadratic spline of 8 bins on [-5, 5] and the identity outside; every other layer runs
    backwards through the dimensions. A draw and its density take one pass; the density of another z takes D passes.
    The layers start near the identity.

    Args:
        network: maps x to mu, a and h, `(..., 2 D + context_dim)`; or a function that builds it, given `num_outputs`.
        layers: T.
        context_dim: dimensions of h, by which the layers, whose weights are shared by all x, depend on x.
        hidden: units of the hidden layers of each layer's network, at least D in each.

    Raises:
        ValueError: if the network does not tell its `out_shape`, or a number is too small.

    References:
        Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Spline(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    param_dims = [8, 8, 7]  # noqa: RUF012  # widths, heights and slopes between the bins

    def __init__(
        self,
        network: nn.Module | Build,
        layers: int = 2,
        context_dim: int = 64,
        hidden: Sequence[int] = (128,),
    ) -> None:
        super().__init__(network, layers, context_dim, hidden, _SplineMADE)

    def transforms(self, parameters: Tensor, size: int) -> list[Transform]:
        """The layers of f, given h, `(..., context_dim)`."""
        return [flows.Autoregressive(flows.spline, partial(made, context=parameters)) for made in self.layers]
