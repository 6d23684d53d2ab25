"""What every encoder is: q(z | x), an amortised posterior family, whose parameters a network computes from x."""

from abc import abstractmethod

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.conditional import Build, Conditional

__all__ = ["Encoder"]


class Encoder(Conditional):
    """Abstract q(z | x); arguments as those of `Conditional`.

    A subclass sets `support`, where z lies, unless that is all of R^D.
    """

    support: constraints.Constraint = constraints.real_vector

    def __init__(self, network: nn.Module | Build, num_parameters: int = 1) -> None:
        super().__init__(network, num_parameters)
        if self.event_shape is not None and len(self.event_shape) > 1:
            raise ValueError(f"z is a vector, but the network of {type(self).__name__} gives {self.network.out_shape}")

    def forward(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(...)`, event `(D,)`, of data x `(..., *event)`."""
        return self.distribution(self.output(x, dim=-1))

    @abstractmethod
    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
