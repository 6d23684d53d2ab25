"""Likelihoods of values on a grid: grey levels 0, 1/255, ..., 1 of images, and classes 0, 1, ..., n - 1."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.conditional import Build
from pyrovae.distributions import discretized_logistic
from pyrovae.distributions.grid import Grid, GridCategorical
from pyrovae.likelihoods.likelihood import Elementwise, Likelihood
from pyrovae.scale import positive, unconstrained

__all__ = ["Categorical", "DiscretizedLogistic", "DiscretizedLogisticMixture"]

_REMEDY = (
    "grey values must be multiples of 1 / (levels - 1) from 0 to 1, as bytes divided by 255 are: load them as they are "
    "(data.load(..., binarize='none'), not dequantized) and set the number of levels to theirs"
)


def fitted(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Location and scale of the discretised logistic of data `(N, ...)`, each `(...)`.

    logit P(x <= t) = (t - mu) / s is linear in t: least squares over some t between the grey values, with the weights
    P (1 - P) that make up for the logits' variances. Unlike the moments, it stands much data at 0 or 1.
    """
    between = torch.linspace(0, grid.levels - 2, min(grid.levels - 1, 15)).round().tolist()
    t = x.new_tensor([(k + 0.5) * grid.step for k in between]).reshape(-1, *[1] * (x.dim() - 1))
    p = torch.stack([(x <= level).to(x).mean(0) for level in t.flatten().tolist()]).clamp(
        0.5 / len(x), 1 - 0.5 / len(x)
    )
    weight = p * (1 - p) / (p * (1 - p)).sum(0)
    mean_t, mean_logit = (weight * t).sum(0), (weight * p.logit()).sum(0)
    variance = (weight * (t - mean_t).square()).sum(0).clamp(min=grid.step**2)  # not 0 where there are two values
    slope = (weight * (t - mean_t) * (p.logit() - mean_logit)).sum(0) / variance
    scale = 1 / slope.clamp(min=1)  # an element that never varies has the slope 0
    return mean_t - scale * mean_logit, scale


class DiscretizedLogistic(Elementwise):
    """P(x | z) = prod_i sigmoid((x_i + d/2 - mu_i(z)) / s_i(z)) - sigmoid((x_i - d/2 - mu_i(z)) / s_i(z)).

    For grey values x_i = 0, d, ..., 1; the cells of 0 and of 1 reach to minus and plus infinity.

    Args:
        network: maps z to mu and the unconstrained s, `(..., 2 C, ...)`; or a function that builds it, given
            `num_outputs`.
        levels: grey values, so that d = 1 / (levels - 1).

    References:
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
        https://arxiv.org/abs/1606.04934

    Example:
        >>> from pyrovae import networks
        >>> p = DiscretizedLogistic(networks.MLP(2, (2, 8, 8)))(torch.zeros(20, 2))
        >>> p.event_shape, p.support.check(p.sample()).all()
        (torch.Size([1, 8, 8]), tensor(True))
    """

    remedy = _REMEDY

    def __init__(self, network: nn.Module | Build, levels: int = 256) -> None:
        self.support = Grid(levels)  # before a network is built for what is no grid
        super().__init__(network, num_parameters=2)

    def element(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its two parameters, each `(..., *event)`."""
        return discretized_logistic.DiscretizedLogistic(loc, positive(scale), self.support.levels)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` well when z tells nothing, each `event`."""
        loc, scale = fitted(x, self.support)
        return loc, unconstrained(scale)


class DiscretizedLogisticMixture(Likelihood):
    """P(x | z) = prod_pixels sum_m pi_m prod_c DiscretizedLogistic(x_c; mu_mc + sum_(j<c) k_mcj (x_j - 1/2), s_mc).

    For grey values 0, d, ..., 1 in C channels, the first dimension of a datum: the channels of a pixel share the
    component m, and the location of a later one is linear in the earlier ones, by |k| < 1. All parameters depend on z
    and the pixel. The mean is exact for one channel; a later channel's is taken where the earlier have their
    component's mean, which leaves out that values below 0 and above 1 are cut off.

    Args:
        network: maps z to the parameters, `(..., M (1 + 2 C + C (C - 1) / 2), ...)`; or a function that builds it,
            given `num_outputs`.
        components: M, components of the mixture.
        levels: grey values, so that d = 1 / (levels - 1).

    Raises:
        ValueError: if there is no component, or no event has as many parameters as the network's output holds.

    References:
        Salimans et al. (2017), PixelCNN++, https://arxiv.org/abs/1701.05517

    Example:
        >>> from pyrovae import networks
        >>> likelihood = DiscretizedLogisticMixture(lambda n: networks.MLP(2, (n(3), 8, 8)), components=5)
        >>> likelihood.network.out_shape, likelihood(torch.zeros(20, 2)).event_shape
        ((50, 8, 8), torch.Size([3, 8, 8]))
    """

    remedy = _REMEDY

    def __init__(self, network: nn.Module | Build, components: int = 10, levels: int = 256) -> None:
        self.components = whole("components", components)  # before the builder asks for num_outputs
        self.support = Grid(levels)
        super().__init__(network)

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for events of `size` channels; it rises with it."""
        return self.components * (1 + 2 * size + size * (size - 1) // 2)

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        first = z.dim() - 1
        output = self.output(z, first).unflatten(first, (self.components, -1))  # (..., M, 1 + 2 C + C (C - 1) / 2, ...)
        size = self._size((output.shape[first] * output.shape[first + 1],))
        sizes = [1, size, size, size * (size - 1) // 2]
        logits, loc, scale, coefficients = output.split(sizes, first + 1)
        return discretized_logistic.DiscretizedLogisticMixture(
            logits, loc, positive(scale), coefficients.tanh(), self.support.levels, output.dim() - first - 1
        )

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """Components of equal weight side by side, together about one that fits data `(N, *event)` well."""
        quantiles = torch.logit((torch.arange(self.components, dtype=torch.float64) + 0.5) / self.components)
        between = 0.5 * (1 - 1 / self.components)  # share of the variance
        size, (loc, scale) = x.shape[1], fitted(x, self.support)
        step, inner = math.sqrt(between) * scale, unconstrained(math.sqrt(1 - between) * scale)
        logit, coefficients = x.new_zeros(1, *x.shape[2:]), x.new_zeros(size * (size - 1) // 2, *x.shape[2:])
        return tuple(torch.cat([logit, loc + quantile * step, inner, coefficients]) for quantile in quantiles.tolist())


class Categorical(Likelihood):
    """P(x | z) = prod_i softmax(logits_i(z))_(x_i / step), for x_i = 0, step, ..., (n - 1) step.

    Args:
        network: maps z to the logits, `(..., n C, ...)`, the first C channels being the first value's; or a function
            that builds it, given `num_outputs`.
        categories: n, how many values an element can have.
        step: distance between neighbouring values; by default 1 / (n - 1), grey values from 0 to 1. 1 for classes.

    References:
        van den Oord et al. (2016), Pixel recurrent neural networks, https://arxiv.org/abs/1601.06759

    Example:
        >>> from pyrovae import networks
        >>> p = Categorical(lambda n: networks.MLP(2, n(5)), categories=3, step=1)(torch.zeros(20, 2))
        >>> p.event_shape, p.sample().max()
        (torch.Size([5]), tensor(2.))
    """

    remedy = (
        "values must be multiples of step below categories * step, by default grey values, as bytes divided by 255 "
        "are: load those as they are (data.load(..., binarize='none'), not dequantized), and for classes 0, 1, ... set "
        "step=1"
    )

    def __init__(self, network: nn.Module | Build, categories: int = 256, step: float | None = None) -> None:
        self.support = Grid(categories, step)  # before a network is built for what is no grid
        super().__init__(network, num_parameters=categories)

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        first = z.dim() - 1
        logits = self.output(z, first).unflatten(first, (self.num_parameters, -1)).movedim(first, -1)
        return GridCategorical(logits, self.support.step).to_event(logits.dim() - z.dim())

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logarithms of how often each value is seen in data `(N, *event)`, each `event`."""
        counts = x.new_full((self.num_parameters, *x.shape[1:]), 1 / self.num_parameters)  # one seen before, anywhere
        for part in x.split(1000):
            counts.scatter_add_(0, self.support.index(part).long(), torch.ones_like(part))
        return tuple(counts.log())
