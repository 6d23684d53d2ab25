"""Likelihoods of elements in {0, 1} and in [0, 1]."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.conditional import Build
from pyrovae.distributions import bernoulli, continuous_bernoulli
from pyrovae.distributions.open_interval import OpenUnitInterval
from pyrovae.likelihoods.likelihood import Elementwise
from pyrovae.likelihoods.likelihood import Likelihood as Likelihood
from pyrovae.scale import positive, unconstrained

__all__ = ["Bernoulli", "Beta", "ContinuousBernoulli"]


class Bernoulli(Elementwise):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(logit_i(z))), for x_i in {0, 1}.

    Args:
        network: maps z to the logits, `(..., *event)`; or a function that builds it, given `num_outputs`.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyrovae import networks
        >>> p = Bernoulli(networks.MLP(2, (1, 8, 8)))(torch.zeros(20, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([20]), torch.Size([1, 8, 8]))
    """

    support = constraints.boolean
    remedy = (
        "grey values have no Bernoulli density, so binarize them (data.load(..., binarize='dynamic'), or "
        "data.Intensities(x), which fit draws anew each epoch), or take another likelihood such as Normal"
    )

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=1)

    def element(self, logits: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its logit, `(..., *event)`."""
        return bernoulli.Bernoulli(logits=logits)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        return (torch.logit(x.mean(0), eps=1e-3),)


class ContinuousBernoulli(Elementwise):
    """p(x | z) = prod_i a_i exp(a_i x_i) / (exp(a_i) - 1), with logits a_i(z), for x_i in [0, 1].

    Bernoulli's formula, a x - log(1 + exp(a)), does not integrate to 1 over grey values; this one does.

    Args:
        network: maps z to the logits, `(..., *event)`; or a function that builds it, given `num_outputs`.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, https://arxiv.org/abs/1907.06845

    Example:
        >>> from pyrovae import networks
        >>> p = ContinuousBernoulli(networks.MLP(2, (1, 8, 8)))(torch.zeros(20, 2))
        >>> p.log_prob(torch.rand(20, 1, 8, 8)).shape
        torch.Size([20])
    """

    support = constraints.unit_interval
    remedy = "scale the data to [0, 1], images of 0..255 by x.float() / 255"

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=1)

    def element(self, logits: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its logit, `(..., *event)`."""
        return continuous_bernoulli.ContinuousBernoulli(logits)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        return (continuous_bernoulli.logits_of_mean(x.mean(0)),)


class Beta(Elementwise):
    """p(x | z) = prod_i Beta(x_i; a_i(z), b_i(z)), with a and b softplus(.) + 1e-4, for 0 < x_i < 1.

    Args:
        network: maps z to the unconstrained a and b, `(..., 2 C, ...)`; or a function that builds it, given
            `num_outputs`.

    Example:
        >>> from pyrovae import networks
        >>> p = Beta(networks.MLP(2, (2, 8, 8)))(torch.zeros(20, 2))
        >>> p.event_shape, p.mean.shape
        (torch.Size([1, 8, 8]), torch.Size([20, 1, 8, 8]))
    """

    support = OpenUnitInterval()
    remedy = (
        "the density of 0 and of 1 is 0 or infinite, so dequantize grey values (data.load(..., dequantize=True), which "
        "gives (255 x + u) / 256 with u uniform), or take another likelihood such as ContinuousBernoulli"
    )

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=2)

    def element(self, a: Tensor, b: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its two parameters, each `(..., *event)`."""
        return dist.Beta(positive(a), positive(b))

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that give the mean and variance of data `(N, *event)` when z tells nothing, each `event`."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        # E[x] = a / (a + b), Var[x] = E[x] (1 - E[x]) / (a + b + 1); an element that never varies has no a + b.
        total = (mean * (1 - mean) / variance.clamp(min=1e-6) - 1).clamp(0.1, 1e3)
        return unconstrained(mean * total), unconstrained((1 - mean) * total)
