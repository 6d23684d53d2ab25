"""Distributions that can be drawn from, but whose density is known by an estimate alone."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

__all__ = ["Implicit"]


class Implicit(TorchDistribution):
    """z = g(eps), eps random: log q(z) has no formula, `log_prob` is an estimate of it. Vectors z in R^D.

    As an estimate is no density, no bound is told from it: the library reports the ELBO of such a guide as NaN.

    Args:
        draw: gives draws with gradient for a batch, `(*batch, D)`, called on the batch's shape, of any length.
        log_density: estimates log q(z), for z `(*batch, D)`: `(*batch,)`.
        batch_shape: of the distribution.
        event_shape: `(D,)`.

    References:
        Mohamed and Lakshminarayanan (2016), Learning in implicit generative models, https://arxiv.org/abs/1610.03483

    Example:
        >>> q = Implicit(lambda batch: torch.rand(*batch, 2).logit(), lambda z: -z.square().sum(-1), (5,), (2,))
        >>> q.rsample().shape, q.expand((3, 5)).sample((4,)).shape
        (torch.Size([5, 2]), torch.Size([4, 3, 5, 2]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        draw: Callable[[torch.Size], Tensor],
        log_density: Callable[[Tensor], Tensor],
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
    ) -> None:
        self.draw, self.log_density = draw, log_density
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws with gradient, `(*sample_shape, *batch, D)`, each from a noise of its own."""
        return self.draw(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The estimate of log q(z) of z `(..., *batch, D)`: `(..., *batch)`."""
        return self.log_density(value)

    def expand(self, batch_shape: tuple[int, ...], _instance: Any = None) -> "Implicit":
        """The same for each element of a batch."""
        return Implicit(self.draw, self.log_density, batch_shape, self.event_shape)
