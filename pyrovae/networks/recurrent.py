"""Networks between sequences and vectors."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.networks.network import Hidden, Initializer, Network, Normalization, Shape, as_shape

__all__ = ["Recurrent", "RecurrentTranspose"]


class Recurrent(Network):
    """Sequence to vector: h_0 = 0, h_t = GRU(x_t, h_(t-1)), output W h_T + b.

    A gated recurrent unit: reset r = sigmoid(A_r x_t + B_r h + b_r), update u = sigmoid(A_u x_t + B_u h + b_u),
    proposal n = tanh(A_n x_t + a_n + r * (B_n h + b_n)), new state (1 - u) * n + u * h. A's start by Xavier, B's
    orthogonal, biases at 0.

    Args:
        in_shape: shape of a sequence, `(C, T)`: C numbers at each of T steps.
        out_shape: shape of one output, of any number of dimensions.
        hidden: units of the state h.
        initializer: fills a weight in place, each gate's on its own; by default as above.
        normalization: of the last state, `batch` or `layer`.
        dropout: probability that a unit of the last state is left out in training.

    Raises:
        ValueError: if the input is no sequence.

    References:
        Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, https://arxiv.org/abs/1406.1078
        Saxe et al. (2014), Exact solutions to the nonlinear dynamics of learning, https://arxiv.org/abs/1312.6120

    Example:
        >>> Recurrent((3, 28), 16)(torch.zeros(5, 20, 3, 28)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: int = 128,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        channels, _ = _sequence(in_shape, hidden)
        follow = Hidden(nn.Identity, normalization, dropout)
        layers = [
            _Read(_cell(channels, hidden, initializer)),
            *follow(hidden),
            nn.Linear(hidden, prod(as_shape(out_shape))),
        ]
        super().__init__(in_shape, out_shape, layers, nn.Identity, initializer)


class RecurrentTranspose(Network):
    """Vector to sequence: h_0 = tanh(W_0 z + b_0), h_t = GRU(z, h_(t-1)), output x_t = W h_t + b.

    With `per_step`, z holds the values of L functions at the T steps, those of the first one first, as a draw of
    `priors.GaussianProcess` does: step t takes z_t, `(L,)`, in place of z, and h_0 = 0. The unit is that of
    `Recurrent`.

    Args:
        in_shape: shape of one input, of any number of dimensions; L T numbers if they are `per_step`.
        out_shape: shape of a sequence, `(C, T)`: C numbers at each of T steps.
        hidden: units of the state h.
        per_step: whether each step takes numbers of its own.
        initializer: fills a weight in place, each gate's on its own; by default as in `Recurrent`.
        normalization: of the states before the output map, `batch` (over rows and steps) or `layer` (of each step).
        dropout: probability that a unit of a state is left out of the output map in training.

    Raises:
        ValueError: if the output is no sequence, or the input cannot be split into its steps.

    References:
        Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, https://arxiv.org/abs/1406.1078

    Example:
        >>> RecurrentTranspose(8, (3, 28))(torch.zeros(5, 20, 8)).shape
        torch.Size([5, 20, 3, 28])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: int = 128,
        per_step: bool = False,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        channels, steps = _sequence(out_shape, hidden)
        size = prod(as_shape(in_shape))
        follow = Hidden(nn.Identity, normalization, dropout)(hidden)
        layers = [nn.Flatten()]
        if per_step:
            if size % steps:
                raise ValueError(f"{size} numbers cannot be split among {steps} steps: make them a multiple of these")
            layers += [nn.Unflatten(1, (-1, steps)), _Write(_cell(size // steps, hidden, initializer), follow)]
        else:
            start = nn.Sequential(nn.Linear(size, hidden), nn.Tanh())
            layers += [_Write(_cell(size, hidden, initializer), follow, start, steps)]
        super().__init__(in_shape, out_shape, [*layers, nn.Conv1d(hidden, channels, 1)], nn.Identity, initializer)


class _Read(nn.Module):
    """x_1..T, `(N, C, T)`, to the last state, `(N, H)`."""

    def __init__(self, cell: nn.GRUCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return _states(self.cell, x.unbind(-1), None)[-1]


class _Write(nn.Module):
    """z, `(N, D)`, or z_1..T, `(N, L, T)` for want of a start, to states, `(N, H, T)`, each followed by modules."""

    def __init__(
        self, cell: nn.GRUCell, follow: Sequence[nn.Module], start: nn.Module | None = None, steps: int = 0
    ) -> None:
        super().__init__()
        self.cell, self.follow, self.start, self.steps = cell, nn.Sequential(*follow), start, steps

    def forward(self, z: Tensor) -> Tensor:
        inputs, h = (z.unbind(-1), None) if self.start is None else ([z] * self.steps, self.start(z))
        states = torch.cat(_states(self.cell, inputs, h))  # (T N, H)
        return self.follow(states).unflatten(0, (len(inputs), len(z))).movedim(0, -1)  # (N, H, T)


def _states(cell: nn.GRUCell, inputs: Sequence[Tensor], h: Tensor | None) -> list[Tensor]:
    """h_1, ..., h_T, each `(N, H)`, from inputs `(N, L)` each, and h_0, by default 0.

    A loop, as fast as `nn.GRU` on CPU, whose gradient on GPU cuDNN knows in training mode alone.
    """
    states = []
    for step in inputs:
        h = cell(step, h)
        states.append(h)
    return states


def _cell(channels: int, hidden: int, initializer: Initializer | None) -> nn.GRUCell:
    """A gated recurrent unit, whose gates' matrices are initialised one by one."""
    cell = nn.GRUCell(channels, hidden)
    for weight, default in ((cell.weight_ih, nn.init.xavier_uniform_), (cell.weight_hh, nn.init.orthogonal_)):
        for gate in weight.detach().chunk(3):
            (initializer or default)(gate)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


def _sequence(shape: Shape, hidden: int) -> tuple[int, int]:
    """C and T of a sequence; refuses what makes no network."""
    shape = as_shape(shape)
    if len(shape) != 2:
        raise ValueError(f"a recurrent network needs a sequence (C, T), not {shape}: use MLP for other data")
    whole("hidden", hidden)
    return shape
