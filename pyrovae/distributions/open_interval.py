"""The open interval (0, 1), for densities that have no value at its ends."""

from pyro.distributions import constraints
from torch import Tensor

__all__ = ["OpenUnitInterval"]


class OpenUnitInterval(constraints.Constraint):
    """The constraint 0 < x < 1.

    Example:
        >>> import torch
        >>> OpenUnitInterval().check(torch.tensor([0.0, 1e-30, 1.0]))
        tensor([False,  True, False])
    """

    def check(self, value: Tensor) -> Tensor:
        """Whether each value lies strictly between 0 and 1."""
        return (value > 0) & (value < 1)

    def __str__(self) -> str:
        return "0 < x < 1"
