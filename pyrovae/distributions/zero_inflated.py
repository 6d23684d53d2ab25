"""Distributions of counts with more zeros than a family has."""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

__all__ = ["ZeroInflated"]


class ZeroInflated(TorchDistribution):
    """P(x) = g [x = 0] + (1 - g) P_base(x), with the gate g = sigmoid(gate_logits).

    Pyro's, once its mean was asked for, cannot be expanded, and takes logarithms of 1 - g, which rounds to 0.

    Args:
        base: the distribution of counts, of batch shape `(...)` and no event shape.
        gate_logits: `(...)`.
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    Example:
        >>> import pyro.distributions as dist
        >>> p = ZeroInflated(dist.Poisson(torch.tensor(2.0)), gate_logits=torch.tensor(0.0))
        >>> p.mean, p.log_prob(torch.tensor([0.0, 1.0])).exp()
        (tensor(1.), tensor([0.5677, 0.1353]))
    """

    arg_constraints: ClassVar = {"gate_logits": constraints.real}

    def __init__(self, base: TorchDistribution, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, gate_logits.shape)
        self.base, self.gate_logits = base.expand(shape), gate_logits.expand(shape)
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """That of the base, which has 0 in it."""
        return self.base.support

    def expand(self, batch_shape: Size, _instance: "ZeroInflated | None" = None) -> "ZeroInflated":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.base, new.gate_logits = self.base.expand(batch_shape), self.gate_logits.expand(batch_shape)
        super(ZeroInflated, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        from_base = logsigmoid(-self.gate_logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate_logits), from_base), from_base)

    @property
    def mean(self) -> Tensor:
        """E[x] = (1 - g) E_base[x]."""
        return torch.sigmoid(-self.gate_logits) * self.base.mean

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x, `(*sample_shape, ...)`."""
        with torch.no_grad():
            x = self.base.sample(sample_shape)
            return x * torch.bernoulli(torch.sigmoid(-self.gate_logits).expand(x.shape))
