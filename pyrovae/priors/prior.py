"""What every prior is: p(z), a module whose call gives the distribution."""

from abc import ABC, abstractmethod

from pyro.distributions import TorchDistribution, constraints
from torch import nn

from pyrovae.arguments import whole

__all__ = ["Prior"]


class Prior(nn.Module, ABC):
    """Abstract p(z).

    Args:
        latent_dim: D, dimensions of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole("latent_dim", latent_dim)

    @property
    def support(self) -> constraints.Constraint:
        """Where z lies, a constraint on the whole vector."""
        return self().support

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
