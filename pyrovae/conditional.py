"""Conditional densities: a family of distributions whose parameters a network computes."""

from abc import ABC
from bisect import bisect_left
from collections.abc import Callable

from torch import Tensor, nn

from pyrovae.arguments import parts
from pyrovae.precision import of_networks

Build = Callable[[Callable[[int], int]], nn.Module]


class Conditional(nn.Module, ABC):
    """Abstract p(a | b): the network maps b to the parameters of a.

    For an event of shape `(C, H, W)` the network's output is `(num_outputs(C), H, W)`: most families need P parameters
    for each element, stacked along the first dimension, the first C channels being the first parameter, and so on.

    Args:
        network: maps b to the parameters; or a function that builds it, given `num_outputs`.
        num_parameters: P, how many parameters each element of a needs, for a family that does not say otherwise.

    Raises:
        ValueError: if no event has as many parameters as the network's output holds.
    """

    def __init__(self, network: nn.Module | Build, num_parameters: int = 1) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        parts(network=network)
        self.network = network if isinstance(network, nn.Module) else network(self.num_outputs)
        if not isinstance(self.network, nn.Module):
            raise ValueError(f"a function that builds a network gives a module, not {self.network!r}")
        if (shape := getattr(self.network, "out_shape", None)) is not None:
            self._size(shape)

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for events whose first dimension is `size`; it rises with it."""
        return self.num_parameters * size

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one a, or None for a network that does not tell its `out_shape`."""
        shape = getattr(self.network, "out_shape", None)
        return None if shape is None else (self._size(shape), *shape[1:])

    def output(self, b: Tensor, dim: int) -> Tensor:
        """What the network gives, `(..., num_outputs(C), *rest)`, where the event begins at dimension `dim`.

        Raises:
            ValueError: if no event has as many parameters.
        """
        with of_networks(b.device):
            output = self.network(b).to(b.dtype)
        if getattr(self.network, "out_shape", None) is None:  # else that is known
            self._size(output.shape[dim:])
        return output

    def _size(self, shape: tuple[int, ...]) -> int:
        """The first dimension of an event whose parameters have this shape."""
        size = 1 + bisect_left(range(1, shape[0] + 2), shape[0], key=self.num_outputs)  # it rises
        if self.num_outputs(size) != shape[0]:
            raise ValueError(
                f"{type(self).__name__} needs {self.num_outputs(size)} parameters for events of shape "
                f"{(size, *shape[1:])}, but its network {type(self.network).__name__} gives {tuple(shape)}: build it "
                f"with the output shape {(self.num_outputs(size), *shape[1:])}"
            )
        return size
