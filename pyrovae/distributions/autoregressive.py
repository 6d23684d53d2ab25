"""Categorical variables one after another."""

from collections.abc import Callable
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

__all__ = ["AutoregressiveCategorical"]


class AutoregressiveCategorical(TorchDistribution):
    """p(c) = prod_i Categorical(c_i; logits_i(c_1, ..., c_(i-1))), for whole numbers c_i at positions in order of rows.

    Args:
        network: logits `(..., L, K)` of codes `(..., L)`, of which the i-th depend on codes before the i-th alone.
        shape: of the positions, L in all.
        codes: K.
        device: of the draws.
        validate_args: whether `log_prob` looks at its argument.

    Example:
        >>> p = AutoregressiveCategorical(lambda c: torch.zeros(*c.shape, 5), shape=(2, 3), codes=5)
        >>> p.log_prob(p.sample((7,))).shape
        torch.Size([7])
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        codes: int,
        device: torch.device | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.num_codes, self.device = network, codes, device
        super().__init__(Size(), Size(shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """0, ..., K - 1 at each position."""
        return constraints.independent(constraints.integer_interval(0, self.num_codes - 1), len(self.event_shape))

    def expand(
        self, batch_shape: Size, _instance: "AutoregressiveCategorical | None" = None
    ) -> "AutoregressiveCategorical":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.network, new.num_codes, new.device = self.network, self.num_codes, self.device
        super(AutoregressiveCategorical, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(c)."""
        if self._validate_args:
            self._validate_sample(value)
        lead = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        c = value.expand(*lead, *self.event_shape).reshape(*lead, -1)  # (..., L)
        return self.network(c).log_softmax(-1).gather(-1, c[..., None]).sum((-1, -2))

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw c, one position after another, `(*sample_shape, *batch_shape, *positions)`."""
        shape = self._extended_shape(Size(sample_shape))
        size = self.event_shape.numel()
        c = torch.zeros(shape.numel() // size, size, dtype=torch.long, device=self.device)
        for i in range(size):
            c[:, i] = self.network(c)[:, i].softmax(-1).multinomial(1)[:, 0]
        return c.reshape(shape)
