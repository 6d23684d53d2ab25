"""What every gradient estimator is: for each datum, a scalar with an objective's value and an estimated gradient."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.densities import LogDensities
from pyrovae.draws import has_score, scores_any

if TYPE_CHECKING:
    from pyrovae.objective import Objective

__all__ = ["Gradient", "mean_over_groups", "with_value"]


class Gradient(nn.Module, ABC):
    """Abstract: a scalar for each datum with the value of an objective and an estimate of its gradient."""

    needs: str | None = None  # said where an objective is refused that does not list it; None is for any objective
    faithful = True  # whether its draws are draws of q(z | x), which the bound can be computed from
    routed = False  # whether it weights the gradients by theta and through z differently
    copies = 1  # how many values of z it takes for each of the objective's K

    def draws(self, first_dim: int) -> Messenger | None:
        """How latent values are drawn, if not by the guide's own distributions; `first_dim` is left of all plates."""
        return None

    def check(self, objective: "Objective") -> None:
        """Refuse an objective with which it makes no sense."""

    @classmethod
    def takes(cls, fn: TorchDistributionMixin) -> bool:
        """Whether it works for a latent site of this distribution: by default one with a score that is 0 on average."""
        return has_score(fn) and scores_any(fn)

    @abstractmethod
    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""


def with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with the value of the one and the gradient of the other."""
    return _WithValue.apply(surrogate, value)


class _WithValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def mean_over_groups(t: Tensor) -> Tensor:
    """The mean over groups of draws, `(..., B)` to `(B,)`."""
    return t.flatten(0, -2).mean(0) if t.dim() > 1 else t
