"""The multinomial distribution of counts whose total differs from datum to datum."""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

__all__ = ["Multinomial"]


class Multinomial(TorchDistribution):
    """P(x | n) = n! / prod_i x_i! prod_i p_i^x_i, with n = sum_i x_i the datum's own and p = softmax(logits).

    Pyro's needs one total for all data; here the total only says how much `sample` draws, and of how much the mean is.

    Args:
        logits: unnormalised log-probabilities, `(..., *event)`, normalised over the event.
        total_count: n of draws and of the mean.
        event_dim: dimensions of an event.
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    Example:
        >>> p = Multinomial(torch.zeros(3), total_count=6)
        >>> p.mean, p.log_prob(torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])).exp()
        (tensor([2., 2., 2.]), tensor([0.2222, 0.1111]))
    """

    arg_constraints: ClassVar = {"logits": constraints.real}

    def __init__(
        self, logits: Tensor, total_count: int | Tensor = 1, event_dim: int = 1, validate_args: bool | None = None
    ) -> None:
        self.logits, self.total_count = logits, total_count
        super().__init__(logits.shape[:-event_dim], logits.shape[-event_dim:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0, in each element."""
        return constraints.independent(constraints.nonnegative_integer, self.event_dim)

    def expand(self, batch_shape: Size, _instance: "Multinomial | None" = None) -> "Multinomial":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.logits, new.total_count = self.logits.expand(*batch_shape, *self.event_shape), self.total_count
        super(Multinomial, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x | n)."""
        if self._validate_args:
            self._validate_sample(value)
        first = -self.event_dim
        x, logits = value.flatten(first), self.logits.flatten(first)
        terms = x * logits.log_softmax(-1) - torch.lgamma(x + 1)
        return torch.lgamma(x.sum(-1) + 1) + terms.sum(-1)

    @property
    def mean(self) -> Tensor:
        """E[x | n] = n p, for n = total_count."""
        return self.total_count * self.logits.flatten(-self.event_dim).softmax(-1).reshape(self.logits.shape)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x of sum total_count, `(*sample_shape, ..., *event)`."""
        logits = self.logits.flatten(-self.event_dim)
        x = torch.distributions.Multinomial(int(self.total_count), logits=logits, validate_args=False)
        return x.sample(sample_shape).reshape(self._extended_shape(sample_shape))
