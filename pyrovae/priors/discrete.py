"""Priors over bits and one-hot vectors, and over their continuous relaxations."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from pyrovae.arguments import number
from pyrovae.distributions import relaxed
from pyrovae.priors.prior import Prior

__all__ = ["Bernoulli", "OneHotCategorical", "RelaxedBernoulli", "RelaxedOneHotCategorical"]


class _Logits(Prior):
    """Abstract: a prior with a learned logit for each dimension."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(latent_dim))


class _Relaxed(_Logits):
    """Abstract: one with a temperature besides."""

    def __init__(self, latent_dim: int, temperature: float) -> None:
        super().__init__(latent_dim)
        self.temperature = number("temperature", temperature, above=0)


class Bernoulli(_Logits):
    """p(z) = prod_d Bernoulli(z_d; sigmoid(a_d)), for z_d in {0, 1}, the logits a learned.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        latent_dim: D, dimensions of z.

    References:
        Neal (1992), Connectionist learning of belief networks, https://doi.org/10.1016/0004-3702(92)90065-6
        Mnih and Gregor (2014), Neural variational inference and learning in belief networks,
        https://arxiv.org/abs/1402.0030

    Example:
        >>> Bernoulli(3)().log_prob(torch.tensor([0.0, 1.0, 1.0])).exp()
        tensor(0.1250, grad_fn=<ExpBackward0>)
    """

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


class OneHotCategorical(_Logits):
    """p(z) = prod_d pi_d^(z_d), for one-hot vectors z, with pi = softmax(a), the logits a learned.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        latent_dim: D, the number of classes.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models, https://arxiv.org/abs/1406.5298

    Example:
        >>> OneHotCategorical(4)().log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0])).exp()
        tensor(0.2500, grad_fn=<ExpBackward0>)
    """

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.OneHotCategorical(logits=self.logits)


class RelaxedBernoulli(_Relaxed):
    """p(z) = prod_d Concrete(z_d; a_d, T): z_d = sigmoid((a_d + log u - log(1 - u)) / T), u ~ U(0, 1), a learned.

    A density on the open cube, so that with an encoder of the same kind the bound is one on log p(x) of the relaxed
    model. What floating point cannot tell from 0 or 1 has a probability, see `pyrovae.distributions.relaxed`; at
    T = 0.1 in float32 that is much of it, and pathwise gradients, which see no probability on a bound, go wrong.

    Args:
        latent_dim: D, dimensions of z.
        temperature: T.

    Raises:
        ValueError: if T is not positive.

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712

    Example:
        >>> RelaxedBernoulli(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, temperature: float = 0.5) -> None:
        super().__init__(latent_dim, temperature)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return relaxed.RelaxedBernoulli(self.temperature, self.logits).to_event(1)


class RelaxedOneHotCategorical(_Relaxed):
    """p(z) = Concrete(z; a, T): z = softmax((a + g) / T), g_d ~ Gumbel, the logits a learned.

    A density on the open simplex, so that with an encoder of the same kind the bound is one on log p(x) of the relaxed
    model. Elements too small for floating point have a probability, see `pyrovae.distributions.relaxed`.

    Args:
        latent_dim: D, the number of classes.
        temperature: T.

    Raises:
        ValueError: if T is not positive.

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712

    Example:
        >>> RelaxedOneHotCategorical(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, latent_dim: int, temperature: float = 0.5) -> None:
        super().__init__(latent_dim, temperature)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return relaxed.RelaxedOneHotCategorical(self.temperature, self.logits)
