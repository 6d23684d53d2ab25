"""Concrete distributions whose draws may saturate: what floating point cannot tell from 0 or 1 has a probability.

Draws are clamped to bounds. A draw on a bound stands for all that lie beyond, and `log_prob` gives it the logarithm of
their probability, in place of a density. So KL(q || p) remains that of what is drawn, and at least 0. With the density
at the bound instead, log q(z) - log p(z) falls without limit as the logits of q grow, and the ELBO is no bound.
"""

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["RelaxedBernoulli", "RelaxedOneHotCategorical"]


def _uniform(like: Tensor, shape: torch.Size) -> Tensor:
    """Uniform draws from (0, 1), which never are 0 or 1."""
    info = torch.finfo(like.dtype)
    return like.new_empty(shape).uniform_().clamp(info.tiny, 1 - info.eps)


class RelaxedBernoulli(TorchDistribution):
    """z = sigmoid((a + log u - log(1 - u)) / T), u ~ U(0, 1), for logits a: near 0 or 1 as the temperature T is low.

    Draws lie in [e, 1 - e], where e is 10 times the dtype's resolution at 1: 1.2e-6 in float32, 2.2e-15 in float64.
    Their probability on the bounds is sigmoid(±a - T log(1 / e)), hardly anything unless |a| is large or T is low.

    Args:
        temperature: T, positive.
        logits: a, of any shape, which is that of the batch.
        validate_args: whether `log_prob` refuses what is not in [0, 1].

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> RelaxedBernoulli(0.5, torch.zeros(2)).log_prob(torch.tensor([0.5, 1.0]))
        tensor([-0.6931, -6.8210])
    """

    arg_constraints: dict = {}  # noqa: RUF012 as in PyTorch
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, temperature: float | Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        self.logits = logits
        super().__init__(torch.Size(broadcast_shape(self.temperature.shape, logits.shape)), validate_args=validate_args)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the draws lie."""
        e = 10 * torch.finfo(self.logits.dtype).eps
        return e, 1 - e

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape)`, with a gradient to the logits."""
        u = _uniform(self.logits, self._extended_shape(sample_shape))
        return torch.sigmoid((self.logits + u.log() - torch.log1p(-u)) / self.temperature).clamp(*self.bounds)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density; on and beyond a bound, the logarithm of the probability there."""
        if self._validate_args:
            self._validate_sample(value)
        low, high = self.bounds
        inside = (value > low) & (value < high)
        z = torch.where(inside, value, value.detach().clamp(low, high))
        d = self.logits - self.temperature * torch.logit(z)
        density = self.temperature.log() + logsigmoid(d) + logsigmoid(-d) - z.log() - torch.log1p(-z)
        return torch.where(inside, density, logsigmoid(torch.where(value >= high, d, -d)))

    def expand(self, batch_shape: tuple[int, ...], _instance: "RelaxedBernoulli | None" = None) -> "RelaxedBernoulli":
        """The same for a batch of this shape."""
        new = self._get_checked_instance(RelaxedBernoulli, _instance)
        new.temperature, new.logits = self.temperature, self.logits.expand(batch_shape)
        super(RelaxedBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class RelaxedOneHotCategorical(TorchDistribution):
    """z = softmax((a + g) / T), g_k ~ Gumbel, for logits a: near a one-hot vector as the temperature T is low.

    log p(z) = log Gamma(n) + (n-1) log T + sum_k (s_k - log z_k) - n log sum_j exp(s_j), s_k = a_k - T log z_k, for n
    elements. Draws are at least e, the square of the dtype's resolution at 1: 1.4e-14 in float32, 4.9e-32 in float64.
    With elements of the draw at e, the same formula, its n and its sum over k of the others alone, is the density of
    these times the probability that those are e or less.

    Args:
        temperature: T, positive, a number or a tensor that broadcasts with the batch.
        logits: a, `(..., K)`, of which the dimensions but the last are the batch.
        validate_args: whether `log_prob` refuses what is not on the simplex.

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> RelaxedOneHotCategorical(1.0, torch.zeros(3)).log_prob(torch.tensor([0.2, 0.3, 0.5]))
        tensor(0.7001)
    """

    arg_constraints: dict = {}  # noqa: RUF012 as in PyTorch
    support = constraints.simplex
    has_rsample = True

    def __init__(self, temperature: float | Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        self.logits = logits.log_softmax(-1)
        batch_shape = torch.Size(broadcast_shape(self.temperature.shape, logits.shape[:-1]))
        super().__init__(batch_shape, logits.shape[-1:], validate_args=validate_args)

    @property
    def bound(self) -> float:
        """Below which no element of a draw lies."""
        return torch.finfo(self.logits.dtype).eps ** 2

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, K)`, with a gradient to the logits."""
        gumbel = -torch.log(-_uniform(self.logits, self._extended_shape(sample_shape)).log())
        return ((self.logits + gumbel) / self.temperature[..., None]).softmax(-1).clamp(min=self.bound)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, times the probability that the elements at the bound lie there or below."""
        if self._validate_args:
            self._validate_sample(value)
        inside = value > self.bound
        log_z = torch.where(inside, value, self.bound).log()
        score = self.logits - self.temperature[..., None] * log_z
        share = score.log_softmax(-1)
        n = inside.sum(-1).to(value.dtype)
        terms = torch.where(inside, share - log_z, 0.0).sum(-1)
        return torch.lgamma(n) + (n - 1) * self.temperature.log() + terms

    def expand(
        self, batch_shape: tuple[int, ...], _instance: "RelaxedOneHotCategorical | None" = None
    ) -> "RelaxedOneHotCategorical":
        """The same for a batch of this shape."""
        new = self._get_checked_instance(RelaxedOneHotCategorical, _instance)
        new.temperature, new.logits = self.temperature, self.logits.expand(*batch_shape, -1)
        super(RelaxedOneHotCategorical, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
