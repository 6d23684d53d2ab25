"""What every model of the family is: two Pyro programs over the same data."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae import arguments
from pyrovae.parameters import unique_name

__all__ = ["Kind", "Model"]

Kind = Literal["mean", "sample"]


class Model(nn.Module, ABC):
    """Abstract p(x, z) and q(z | x), as programs whose data and latent variables sit in one plate.

    A subclass has two parts that others look at: `prior`, p(z) of what depends on nothing, called without an argument,
    and `likelihood`, p(x | z) of the latent variables that x depends on. Parameters belong to the module; in Pyro's
    store they go by a name that no other object has.
    """

    prior: nn.Module
    likelihood: nn.Module
    guide_parts: tuple[str, ...] = ("encoder",)  # whose parameters the guide has for itself

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        arguments.parts(**parts)  # before anything is asked of them

    @abstractmethod
    def model(self, x: Tensor) -> None:
        """p(x, z), x observed: data `(B, *event)`."""

    @abstractmethod
    def guide(self, x: Tensor) -> None:
        """q(z | x), for data `(B, *event)`."""

    @abstractmethod
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw z ~ p(z) n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""

    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """What this model tells of data beside its bound, by flat names; by default nothing.

        Args:
            x: data, `(N, *event)`.
            given: further arguments of the programs, for a model whose programs have them.
            labels: classes of the data, where they are known, `(N,)`.
        """
        return {}

    def check(self, x: Tensor, *given: Tensor, name: str = "x") -> None:
        """Refuse data `(N, *event)`, called `name` in the message, to which p(x | z) gives no density.

        Args:
            x: the data.
            given: further arguments of the programs, for a model whose programs have them.
            name: what the message calls x.
        """
        if hasattr(self.likelihood, "check"):
            self.likelihood.check(x, name)

    def guide_parameters(self) -> list[nn.Parameter]:
        """The parameters that the guide has for itself; all others are the model's."""
        return [p for part in self.guide_parts for p in getattr(self, part).parameters()]

    @property
    def name(self) -> str:
        """What Pyro's store calls this object; no other object, a copy of this one included, is called so."""
        return unique_name(self)


@torch.no_grad()
def drawn(distribution: TorchDistribution, kind: Kind) -> Tensor:
    """A draw or the mean of p(x | z)."""
    if kind not in ("mean", "sample"):
        raise ValueError(f"kind is 'mean' or 'sample', not {kind!r}")
    return distribution.mean if kind == "mean" else distribution.sample()
