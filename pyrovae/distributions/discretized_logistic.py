"""Discretised logistic distributions of grey values: one, and mixtures that channels share."""

from collections.abc import Callable
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

from pyrovae.distributions.grid import Grid

__all__ = ["DiscretizedLogistic", "DiscretizedLogisticMixture"]


class DiscretizedLogistic(TorchDistribution):
    """P(x) = sigmoid((x + d/2 - mu) / s) - sigmoid((x - d/2 - mu) / s), on the grid 0, d, ..., 1.

    The cells of 0 and of 1 reach to minus and plus infinity, so that the probabilities sum to 1. The logarithm is taken
    of the product sigmoid(u) sigmoid(-l) (1 - exp(l - u)), equal to the difference, in which nothing cancels.

    Args:
        loc: mu, `(...)`.
        scale: s > 0, `(...)`.
        levels: values of x, from 0 to 1, so that d = 1 / (levels - 1).
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    References:
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
        https://arxiv.org/abs/1606.04934
        Salimans et al. (2017), PixelCNN++, https://arxiv.org/abs/1701.05517

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(0.5), torch.tensor(0.1), levels=3)
        >>> p.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.0759, 0.8483, 0.0759])
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.grid = Grid(levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grid."""
        return self.grid

    def expand(self, batch_shape: Size, _instance: "DiscretizedLogistic | None" = None) -> "DiscretizedLogistic":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.loc, new.scale, new.grid = self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.grid
        super(DiscretizedLogistic, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        step, error = self.grid.step, value - self.loc
        at_most = logsigmoid((error + step / 2) / self.scale)  # log sigmoid(u)
        at_least = logsigmoid((step / 2 - error) / self.scale)  # log sigmoid(-l)
        both = at_most + at_least + torch.log(-torch.expm1(-step / self.scale))
        return torch.where(value < step / 2, at_most, torch.where(value > 1 - step / 2, at_least, both))

    @property
    def mean(self) -> Tensor:
        """E[x] = d sum_k P(x >= k d), k = 1, ..., levels - 1."""
        step = self.grid.step
        cells = range(1, self.grid.levels)  # one by one, as all at once would take levels times the memory
        return sum(torch.sigmoid((self.loc - (k - 0.5) * step) / self.scale) for k in cells) * step

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x, `(*sample_shape, ...)`: a logistic draw, rounded to the nearest value of the grid."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            logistic = self.loc + self.scale * torch.logit(u, eps=torch.finfo(u.dtype).tiny)
            return self.grid.index(logistic.clamp(0, 1)) / (self.grid.levels - 1)


class DiscretizedLogisticMixture(TorchDistribution):
    """P(x) = prod_pixels sum_m pi_m prod_c DiscretizedLogistic(x_c; mu_mc + sum_(j<c) k_mcj (x_j - 1/2), s_mc).

    The channels of a pixel share the component, and the location of a later one is linear in the earlier ones.

    Args:
        logits: of the components, `(..., M, 1, *rest)`.
        loc: mu, `(..., M, C, *rest)`.
        scale: s > 0, `(..., M, C, *rest)`.
        coefficients: k_21, k_31, k_32, k_41, ..., `(..., M, C (C - 1) / 2, *rest)`.
        levels: values of each x_c, from 0 to 1.
        event_dim: dimensions of an event `(C, *rest)`.
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    References:
        Salimans et al. (2017), PixelCNN++, https://arxiv.org/abs/1701.05517

    Example:
        >>> loc, scale = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.1], [0.1]])  # (M, C)
        >>> p = DiscretizedLogisticMixture(torch.zeros(2, 1), loc, scale, torch.zeros(2, 0), levels=3)
        >>> p.log_prob(torch.tensor([[0.0], [0.5], [1.0]])).exp(), p.mean
        (tensor([0.4623, 0.0753, 0.4623]), tensor([0.5000]))
    """

    arg_constraints: ClassVar = {
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
        "coefficients": constraints.real,
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        levels: int = 256,
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.coefficients = logits, loc, scale, coefficients
        self.levels = levels
        batch, event = loc.shape[: -event_dim - 1], loc.shape[-event_dim:]
        super().__init__(batch, event, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """The grid, in each element."""
        return constraints.independent(Grid(self.levels), self.event_dim)

    def expand(
        self, batch_shape: Size, _instance: "DiscretizedLogisticMixture | None" = None
    ) -> "DiscretizedLogisticMixture":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.levels = self.levels
        for name in self.arg_constraints:
            value = getattr(self, name)
            setattr(new, name, value.expand(*batch_shape, *value.shape[len(self.batch_shape) :]))
        super(DiscretizedLogisticMixture, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        channel = -self.event_dim
        x = value.unsqueeze(channel - 1)  # (..., 1, C, *rest)
        shifts = [self._shift(self.coefficients, x, c) for c in range(x.shape[channel])]
        loc = self.loc + torch.cat(shifts, channel)  # (..., M, C, *rest)
        elements = DiscretizedLogistic(loc, self.scale, self.levels, validate_args=False).log_prob(x)
        joint = elements.sum(channel, keepdim=True) + self.logits.log_softmax(channel - 1)  # (..., M, 1, *rest)
        return joint.logsumexp(channel - 1).flatten(channel).sum(-1)

    @property
    def mean(self) -> Tensor:
        """E[x], exact for one channel; a later channel's is taken where the earlier have their component's mean."""
        component = -self.event_dim - 1
        means = self._channel_by_channel(self.loc, self.scale, self.coefficients, lambda p: p.mean)
        return (self.logits.softmax(component) * means).sum(component)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x, `(*sample_shape, ..., C, *rest)`: a component for each pixel, then channel after channel."""
        component = -self.event_dim - 1
        with torch.no_grad():
            logits = self.logits.expand(*sample_shape, *self.logits.shape)
            gumbel = -torch.empty_like(logits).exponential_().log()
            chosen = (logits + gumbel).argmax(component, keepdim=True)  # (..., 1, 1, *rest)

            def pick(parameter: Tensor) -> Tensor:
                shape = list(parameter.shape)
                shape[component] = 1
                index = chosen.expand(*sample_shape, *shape)
                return parameter.expand(*sample_shape, *parameter.shape).gather(component, index)

            parameters = map(pick, (self.loc, self.scale, self.coefficients))
            return self._channel_by_channel(*parameters, lambda p: p.sample()).squeeze(component)

    def _shift(self, coefficients: Tensor, x: Tensor, c: int) -> Tensor:
        """sum_(j<c) k_cj (x_j - 1/2), `(..., M, 1, *rest)`."""
        channel = -self.event_dim
        k = coefficients.narrow(channel, c * (c - 1) // 2, c)
        return (k * (x.narrow(channel, 0, c) - 0.5)).sum(channel, keepdim=True)

    def _channel_by_channel(
        self, loc: Tensor, scale: Tensor, coefficients: Tensor, value: Callable[[DiscretizedLogistic], Tensor]
    ) -> Tensor:
        """The value of each channel's distribution, given those of the earlier ones, `(..., M, C, *rest)`."""
        channel = -self.event_dim
        x = loc.narrow(channel, 0, 0)
        for c in range(self.event_shape[0]):
            shifted = loc.narrow(channel, c, 1) + self._shift(coefficients, x, c)
            p = DiscretizedLogistic(shifted, scale.narrow(channel, c, 1), self.levels, validate_args=False)
            x = torch.cat([x, value(p)], channel)
        return x
