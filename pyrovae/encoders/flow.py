"""Encoders by normalizing flows: z = mu(x) + sigma(x) f(eps; x) of standard normal noise eps, with f invertible."""

from abc import abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import AffineTransform, Transform
from torch import Tensor, nn

from pyrovae import flows
from pyrovae.arguments import whole
from pyrovae.conditional import Build
from pyrovae.encoders.encoder import Encoder
from pyrovae.scale import positive

__all__ = ["FlowEncoder", "Planar", "Radial", "Sylvester"]


class FlowEncoder(Encoder):
    """Abstract q(z | x) = N(eps; 0, I) / |det dz/deps|, with z = mu(x) + sigma(x) f(eps; x).

    The affine map comes last, so that f, which a subclass gives, acts on a variable of mean 0 and variance 1 wherever
    the posterior lies. Of the network's outputs the first D are mu, the next D give sigma, and the rest belong to f.
    """

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for z of dimension `size`; it rises with it."""
        return 2 * size + self.flow_outputs(size)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        size = self._size(output.shape[-1:])
        loc, unconstrained_scale, rest = output.split([size, size, self.flow_outputs(size)], -1)
        base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        affine = AffineTransform(loc, positive(unconstrained_scale), event_dim=1, cache_size=1)
        return dist.TransformedDistribution(base, [*self.transforms(rest, size), affine])

    @abstractmethod
    def flow_outputs(self, size: int) -> int:
        """How many of the network's outputs f needs, for z of dimension `size`."""

    @abstractmethod
    def transforms(self, parameters: Tensor, size: int) -> list[Transform]:
        """The layers of f, given the outputs that belong to it, `(..., flow_outputs(size))`."""


class Amortized(FlowEncoder):
    """Abstract: a flow whose layers have no weights of their own: all their parameters are outputs of the network.

    Its layers have no analytic inverse, so that q(z | x) can score none but its last draw.

    Args:
        network: maps x to mu, a and each layer's parameters, `(..., 2 D + layers * layer_outputs(D))`; or a function
            that builds it, given `num_outputs`.
        layers: how many.

    Raises:
        ValueError: if there are less than one.
    """

    def __init__(self, network: nn.Module | Build, layers: int) -> None:
        self.layers = whole("layers", layers)  # num_outputs is asked for it by the class above
        super().__init__(network)

    def flow_outputs(self, size: int) -> int:
        """How many of the network's outputs f needs, for z of dimension `size`."""
        return self.layers * self.layer_outputs(size)

    def transforms(self, parameters: Tensor, size: int) -> list[Transform]:
        """The layers of f, given the outputs that belong to it, `(..., flow_outputs(size))`."""
        return [self.layer(p, size, index) for index, p in enumerate(parameters.chunk(self.layers, -1))]

    @abstractmethod
    def layer_outputs(self, size: int) -> int:
        """How many parameters a layer has, for z of dimension `size`."""

    @abstractmethod
    def layer(self, parameters: Tensor, size: int, index: int) -> Transform:
        """A layer, the `index`-th, given its parameters, `(..., layer_outputs(size))`."""


class Planar(Amortized):
    """q(z | x): z = mu + sigma f_T(... f_1(eps)), f_t(v) = v + u tanh(w . v + b), with w . u > -1.

    All of mu, sigma and each layer's u, w and b are functions of x. There is no analytic inverse, so q(z | x) can score
    none but its last draw.

    Args:
        network: maps x to mu, a and u, w and b of each layer, `(..., 2 D + T (2 D + 1))`; or a function that
            builds it, given `num_outputs`.
        layers: T.

    Raises:
        ValueError: if there are less than one.

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Planar(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build, layers: int = 4) -> None:
        super().__init__(network, layers)

    def layer_outputs(self, size: int) -> int:
        """How many parameters a layer has, for z of dimension `size`."""
        return 2 * size + 1

    def layer(self, parameters: Tensor, size: int, index: int) -> Transform:
        """A layer, the `index`-th, given its parameters, `(..., layer_outputs(size))`."""
        return flows.Planar(*parameters.split([size, size, 1], -1))


class Radial(Amortized):
    """q(z | x): z = mu + sigma f_T(... f_1(eps)), f_t(v) = c + (v - c) (s + r) / (a + r), r = |v - c|.

    All of mu, sigma and each layer's c, a and s are functions of x. There is no analytic inverse, so q(z | x) can score
    none but its last draw.

    Args:
        network: maps x to mu, a and c, a and s of each layer, `(..., 2 D + T (D + 2))`; or a function that
            builds it, given `num_outputs`.
        layers: T.

    Raises:
        ValueError: if there are less than one.

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Radial(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build, layers: int = 4) -> None:
        super().__init__(network, layers)

    def layer_outputs(self, size: int) -> int:
        """How many parameters a layer has, for z of dimension `size`."""
        return size + 2

    def layer(self, parameters: Tensor, size: int, index: int) -> Transform:
        """A layer, the `index`-th, given its parameters, `(..., layer_outputs(size))`."""
        center, a, s = parameters.split([size, 1, 1], -1)
        return flows.Radial(center, positive(a), positive(s))


class Sylvester(Amortized):
    """q(z | x): z = mu + sigma f_T(... f_1(eps)), f_t(v) = v + R tanh(S v + b), with R and S triangular.

    All of mu, sigma and each layer's R, S and b are functions of x; the triangles of every other layer are lower ones.
    There is no analytic inverse, so q(z | x) can score none but its last draw.

    Args:
        network: maps x to mu, a and R, S and b of each layer, `(..., 2 D + T (D (D + 1) + D))`; or a function that
            builds it, given `num_outputs`.
        layers: T.

    Raises:
        ValueError: if there are less than one.

    References:
        van den Berg et al. (2018), Sylvester normalizing flows for variational inference (its triangular form),
        https://arxiv.org/abs/1803.05649

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Sylvester(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build, layers: int = 4) -> None:
        super().__init__(network, layers)

    def layer_outputs(self, size: int) -> int:
        """How many parameters a layer has, for z of dimension `size`."""
        return size * (size + 1) + size

    def layer(self, parameters: Tensor, size: int, index: int) -> Transform:
        """A layer, the `index`-th, given its parameters, `(..., layer_outputs(size))`."""
        both, s_diagonal, b = parameters.split([size * size, size, size], -1)
        r = both.unflatten(-1, (size, size))  # one triangle with the diagonal for R, the other for S
        s = r.mT.tril(-1) + r.mT.triu(1) + s_diagonal.diag_embed()
        return flows.Sylvester(r, s, b, backwards=index % 2 == 1)
