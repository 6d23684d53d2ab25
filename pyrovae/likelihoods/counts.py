"""Likelihoods of counts: whole numbers from 0, in floating point."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.arguments import number, whole
from pyrovae.conditional import Build
from pyrovae.data import Dataset
from pyrovae.distributions import multinomial
from pyrovae.distributions.zero_inflated import ZeroInflated
from pyrovae.likelihoods.likelihood import Elementwise, Likelihood
from pyrovae.scale import MIN_SCALE, positive, unconstrained

__all__ = ["Multinomial", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

_REMEDY = (
    "counts are the whole numbers 0, 1, 2, ... in floating point; counts saved as bytes are taken for grey values and "
    "divided by 255, so save them as int32 or float"
)
_BEND = 10.0


def log_mean(a: Tensor) -> Tensor:
    """The log mean of an unconstrained a: a itself where |a| <= 10, beyond that sign(a) (10 + log(1 + |a| - 10)).

    So exp(log_mean(a)) is the usual exp(a) from 5e-5 to 22026, goes on without a jump in its slope, and neither
    overflows nor reaches 0.
    """
    excess = (a.abs() - _BEND).clamp(min=0)
    return torch.where(a.abs() <= _BEND, a, a.sign() * (_BEND + torch.log1p(excess)))


def unconstrained_mean(mean: Tensor) -> Tensor:
    """The a of which `exp(log_mean(a))` is the mean, for one of at least 0.001."""
    log = mean.clamp(min=1e-3).log()
    return torch.where(log <= _BEND, log, _BEND + torch.expm1(log - _BEND))


class Poisson(Elementwise):
    """p(x | z) = prod_i Poisson(x_i; rate_i(z)), for counts x_i.

    rate = exp(a), which grows more slowly beyond exp(10), see `log_mean`.

    Args:
        network: maps z to a, `(..., *event)`; or a function that builds it, given `num_outputs`.

    Example:
        >>> from pyrovae import networks
        >>> Poisson(networks.MLP(2, 5))(torch.zeros(20, 2)).mean.shape
        torch.Size([20, 5])
    """

    support = constraints.nonnegative_integer
    remedy = _REMEDY

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=1)

    def element(self, a: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its log rate, `(..., *event)`."""
        return dist.Poisson(log_mean(a).exp())

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        return (unconstrained_mean(x.mean(0)),)


class OverDispersed(Elementwise):
    """Abstract: counts of mean mu_i(z) and variance mu_i + mu_i^2 / r_i, from which a family is made.

    Args:
        network: maps z to the parameters; or a function that builds it, given `num_outputs`.
        inverse_dispersion: where the learned r of each element starts, or None for r(z), computed by the network.
        num_parameters: P, how many parameters an element needs without r.

    Raises:
        ValueError: if r is not finite or not above its floor.
    """

    support = constraints.nonnegative_integer
    remedy = _REMEDY

    def __init__(self, network: nn.Module | Build, inverse_dispersion: float | None, num_parameters: int) -> None:
        super().__init__(network, num_parameters + (inverse_dispersion is None))
        if inverse_dispersion is not None:
            number("inverse_dispersion", inverse_dispersion, above=MIN_SCALE, most=1000)  # float32 has log Gamma
            start = unconstrained(torch.tensor(float(inverse_dispersion)))
            self.unconstrained_dispersion = nn.Parameter(start.repeat(self.event_shape or ()))

    def negative_binomial(self, a: Tensor, dispersion: Tensor | None) -> TorchDistribution:
        """NB(x; mu, r), of the unconstrained mu and r."""
        r = positive(self.unconstrained_dispersion if dispersion is None else dispersion)
        return dist.NegativeBinomial(r, logits=log_mean(a) - r.log())  # mu = r exp(logits)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unconstrained r of data `(N, ...)`, each `(...)`."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        r = mean.square() / (variance - mean).clamp(min=1e-6)
        return mean, unconstrained(r.clamp(0.01, 100))


class NegativeBinomial(OverDispersed):
    """p(x | z) = prod_i NB(x_i; mu_i(z), r_i), of mean mu_i and variance mu_i + mu_i^2 / r_i, for counts x_i.

    mu = exp(a), which grows more slowly beyond exp(10), see `log_mean`; r = softplus(.) + 1e-4.

    Args:
        network: maps z to a, `(..., *event)`, or to a and the unconstrained r `(..., 2 C, ...)` if
            `inverse_dispersion` is None; or a function that builds it, given `num_outputs`.
        inverse_dispersion: where the learned r of each element starts (one for all where the network does not tell
            the shape of its output), or None for r(z), computed by the network.

    Raises:
        ValueError: if r is not finite or not above its floor.

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
        https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> from pyrovae import networks
        >>> NegativeBinomial(networks.MLP(2, 5), inverse_dispersion=3.0).unconstrained_dispersion.shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module | Build, inverse_dispersion: float | None = 1.0) -> None:
        super().__init__(network, inverse_dispersion, num_parameters=1)

    def element(self, a: Tensor, dispersion: Tensor | None = None) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its P parameters, each `(..., *event)`."""
        return self.negative_binomial(a, dispersion)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that give the mean and variance of data `(N, *event)` when z tells nothing, each `event`."""
        mean, dispersion = self.moments(x)
        return (unconstrained_mean(mean), dispersion)[: self.num_parameters]


class ZeroInflatedNegativeBinomial(OverDispersed):
    """p(x | z) = prod_i pi_i(z) [x_i = 0] + (1 - pi_i(z)) NB(x_i; mu_i(z), r_i), for counts x_i.

    mu and r as in `NegativeBinomial`; pi = sigmoid(.).

    Args:
        network: maps z to the unconstrained mu and pi, `(..., 2 C, ...)`, or to those and the unconstrained r
            `(..., 3 C, ...)` if `inverse_dispersion` is None; or a function that builds it, given `num_outputs`.
        inverse_dispersion: where the learned r of each element starts (one for all where the network does not tell
            the shape of its output), or None for r(z), computed by the network.

    Raises:
        ValueError: if r is not finite or not above its floor.

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
        https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> from pyrovae import networks
        >>> ZeroInflatedNegativeBinomial(networks.MLP(2, 10))(torch.zeros(20, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module | Build, inverse_dispersion: float | None = 1.0) -> None:
        super().__init__(network, inverse_dispersion, num_parameters=2)

    def element(self, a: Tensor, gate_logits: Tensor, dispersion: Tensor | None = None) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its P parameters, each `(..., *event)`."""
        return ZeroInflated(self.negative_binomial(a, dispersion), gate_logits)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The mean of data `(N, *event)`, half of whose zeros are taken to be inflation, each `event`."""
        mean, dispersion = self.moments(x)
        gate = ((x == 0).to(x).mean(0) / 2).clamp(min=1e-3)
        return (unconstrained_mean(mean / (1 - gate)), torch.logit(gate), dispersion)[: self.num_parameters]


class Multinomial(Likelihood):
    """p(x | z, n) = n! / prod_i x_i! prod_i p_i(z)^x_i, with p = softmax(logits(z)), for counts x_i of total n.

    The density is that of a datum given its own total n = sum_i x_i. Draws and the mean are for `total_count`.

    Args:
        network: maps z to the logits, `(..., *event)`, normalised over the whole event; or a function that builds it,
            given `num_outputs`.
        total_count: n of draws and of the mean; by default 1, and from `start_from` on the mean total of the training
            data, rounded.

    Raises:
        ValueError: if the total is not positive.

    References:
        Liang et al. (2018), Variational autoencoders for collaborative filtering, https://arxiv.org/abs/1802.05814
        Miao et al. (2016), Neural variational inference for text processing, https://arxiv.org/abs/1511.06038

    Example:
        >>> from pyrovae import networks
        >>> p = Multinomial(networks.MLP(2, 5), total_count=100)(torch.zeros(20, 2))
        >>> p.sample().sum(-1).unique(), p.log_prob(torch.ones(20, 5)).shape
        (tensor([100.]), torch.Size([20]))
    """

    support = constraints.nonnegative_integer
    remedy = _REMEDY

    def __init__(self, network: nn.Module | Build, total_count: int | None = None) -> None:
        super().__init__(network, num_parameters=1)
        self._total_from_data = total_count is None
        total_count = 1 if total_count is None else whole("total_count", total_count)
        self.register_buffer("total_count", torch.tensor(total_count))

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        (logits,) = self.parameters_of(z)
        return multinomial.Multinomial(logits, self.total_count, logits.dim() - z.dim() + 1)

    def start_from(self, dataset: Dataset) -> None:
        """Start training from the frequencies in the training data; draws are of their mean total."""
        if self._total_from_data:
            self.total_count.copy_(dataset.train.flatten(1).sum(1).mean().round().clamp(min=1))
        super().start_from(dataset)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The log frequencies in data `(N, *event)`; what is hardly seen is taken for a thousandth of the mean."""
        return (x.mean(0).clamp(min=1e-3 * x.mean().item() + 1e-6).log(),)
