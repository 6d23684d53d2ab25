"""The Bernoulli distribution, its log-probability in few passes over memory."""

from pyro.distributions import Bernoulli as PyroBernoulli
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["Bernoulli"]


class Bernoulli(PyroBernoulli):
    """p(x) = sigmoid(a)^x sigmoid(-a)^(1 - x), with logit a, for x in {0, 1}; arguments as those of Pyro's.

    Example:
        >>> import torch
        >>> Bernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor(1.0))  # log 1/2
        tensor(-0.6931)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """a x - log(1 + exp(a)), off by no more than the rounding of a."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - softplus(self.logits, threshold=40.0)  # where exp(-a) no longer counts
