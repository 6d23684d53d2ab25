"""The continuous Bernoulli: a density on [0, 1] whose logarithm is linear."""

from collections.abc import Sequence
from math import factorial
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.utils import clamp_probs

__all__ = ["ContinuousBernoulli", "logits_of_mean"]

# log(sinh(a / 2) / (a / 2)) = sum_n c_n a^(2 n), c_n = B_2n / (2 n (2 n)!) with Bernoulli's numbers B; beyond |a| = 1,
# where the closed forms are accurate, the terms left out are below 1e-15 of the sum.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_SERIES = tuple(b / (2 * n * factorial(2 * n)) for n, b in enumerate(_BERNOULLI, start=1))
_SMALL = 1.0
_SMALL_QUANTILE = 0.05


def _series(coefficients: Sequence[float], y: Tensor) -> Tensor:
    """sum_n c_n y^n, n from 0."""
    total = torch.zeros_like(y)
    for c in reversed(coefficients):
        total = total * y + c
    return total


class ContinuousBernoulli(TorchDistribution):
    """p(x) = a exp(a x) / (exp(a) - 1) on [0, 1], with the logit a; uniform where a = 0.

    With the lambda of the paper, a = log(lambda / (1 - lambda)). PyTorch's distribution of the same name clamps lambda,
    so that from |a| = 16 on its density no longer depends on a; this one is accurate for any a.

    Args:
        logits: a, `(...)`.
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, https://arxiv.org/abs/1907.06845

    Example:
        >>> p = ContinuousBernoulli(torch.tensor([0.0, 20.0]))
        >>> p.log_prob(torch.tensor([0.3, 1.0])), p.mean
        (tensor([0.0000, 2.9957]), tensor([0.5000, 0.9500]))
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: "ContinuousBernoulli | None" = None) -> "ContinuousBernoulli":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x): a (x - 1/2) - log(sinh(a/2) / (a/2)), in the form that is accurate for the size of a."""
        if self._validate_args:
            self._validate_sample(value)
        small, b = self._split()
        y = small.square()
        near_0 = small * (value - 0.5) - y * _series(_SERIES, y)
        distance = torch.where(self.logits > 0, 1 - value, value)  # from the end where the density is largest
        away = b.log() - b * distance - torch.log1p(-torch.exp(-b))
        return torch.where(self.logits.abs() < _SMALL, near_0, away)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 - 1/a + 1 / (exp(a) - 1)."""
        small, b = self._split()
        near_0 = 0.5 + small * _series([2 * n * c for n, c in enumerate(_SERIES, start=1)], small.square())
        away = 1 / b - torch.exp(-b) / -torch.expm1(-b)  # from the end where the density is largest
        return torch.where(self.logits.abs() < _SMALL, near_0, torch.where(self.logits > 0, 1 - away, away))

    @property
    def variance(self) -> Tensor:
        """Var[x] = 1 / a^2 - 1 / (4 sinh(a/2)^2)."""
        small, b = self._split()
        terms = [2 * n * (2 * n - 1) * c for n, c in enumerate(_SERIES, start=1)]
        away = b**-2 - torch.exp(-b) / torch.expm1(-b).square()
        return torch.where(self.logits.abs() < _SMALL, _series(terms, small.square()), away)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x) = (exp(a x) - 1) / (exp(a) - 1)."""
        if self._validate_args:
            self._validate_sample(value)
        b = self.logits.abs().clamp(min=torch.finfo(self.logits.dtype).eps)  # so close to 0 it is x
        ratio = torch.expm1(-b * value) / torch.expm1(-b)
        return torch.where(self.logits > 0, ratio * torch.exp(-b * (1 - value)), ratio)

    def icdf(self, value: Tensor) -> Tensor:
        """The x with P(X <= x) = u: log(1 + u (exp(a) - 1)) / a."""
        far = torch.where(self.logits.abs() < _SMALL_QUANTILE, 1, self.logits)
        away = torch.logaddexp(torch.log1p(-value), value.log() + far) / far  # log(1 - u + u exp(a)) / a
        a = self.logits.clamp(-_SMALL_QUANTILE, _SMALL_QUANTILE)
        v = value * (1 - value)  # the cumulants of a Bernoulli variable of mean u follow
        cumulants = [value, v, v * (1 - 2 * value), v * (1 - 6 * v), v * (1 - 2 * value) * (1 - 12 * v)]
        near_0 = sum(k * a**n / factorial(n + 1) for n, k in enumerate(cumulants))
        return torch.where(self.logits.abs() < _SMALL_QUANTILE, near_0, away)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x = icdf(u), u uniform, `(*sample_shape, ...)`, differentiable in the logits."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(clamp_probs(u)).clamp(0, 1)

    def _split(self) -> tuple[Tensor, Tensor]:
        """a for the series near 0 and |a| for the closed forms; each stays where it is defined, used or not."""
        return self.logits.clamp(-_SMALL, _SMALL), self.logits.abs().clamp(min=_SMALL)


def logits_of_mean(mean: Tensor) -> Tensor:
    """The logit a of which E[x] = mean, by bisection in float64; |a| <= 1000, for means from 0.001 to 0.999."""
    target = mean.double()
    low, high = torch.full_like(target, -1e3), torch.full_like(target, 1e3)
    for _ in range(64):
        middle = (low + high) / 2
        above = ContinuousBernoulli(middle, validate_args=False).mean > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).to(mean.dtype)
