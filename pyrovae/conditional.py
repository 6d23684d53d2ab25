"""Conditional densities: a family of distributions whose parameters a network computes."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution

Build = Callable[[int], nn.Module]


class Conditional(nn.Module, ABC):
    """Abstract p(a | b): the network maps b to the parameters of a, stacked along the first dimension of a's event.

    A family that needs P parameters for each element of an event of shape `(C, H, W)` takes a network whose output is
    `(P * C, H, W)`, the first C channels being the first parameter, and so on.

    Args:
        network: maps b to the parameters; or a function that builds it, given P.
        num_parameters: P, how many parameters each element of a needs.

    Raises:
        ValueError: if the network's output cannot be split into P parameters.
    """

    def __init__(self, network: nn.Module | Build, num_parameters: int = 1) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.network = network if isinstance(network, nn.Module) else network(num_parameters)
        self._check_divisible(getattr(self.network, "out_shape", (num_parameters,)))

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one a, or None for a network that does not tell its `out_shape`."""
        first, *rest = getattr(self.network, "out_shape", (0,))
        return (first // self.num_parameters, *rest) if first else None

    def parameters_of(self, b: Tensor, dim: int) -> tuple[Tensor, ...]:
        """The P parameters of p(a | b), each `(..., *event_shape)`, where the event begins at dimension `dim`."""
        output = self.network(b)
        self._check_divisible(output.shape[dim:])
        return output.chunk(self.num_parameters, dim)

    def _check_divisible(self, shape: tuple[int, ...]) -> None:
        if shape[0] % self.num_parameters:
            raise ValueError(
                f"{type(self).__name__} needs {self.num_parameters} parameters for each element, but its network "
                f"{type(self.network).__name__} gives {tuple(shape)}: for events of that shape build it with the "
                f"output shape {(self.num_parameters * shape[0], *shape[1:])}"
            )

    @abstractmethod
    def forward(self, b: Tensor) -> Distribution:
        """The distribution p(a | b)."""
