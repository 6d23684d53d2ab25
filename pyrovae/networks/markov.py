"""Networks of a deep Markov model: its gated transition, and the two parts of its structured inference network."""

import torch
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.networks.network import Shape, as_shape
from pyrovae.networks.recurrent import _cell

__all__ = ["BackwardRecurrent", "Combiner", "GatedTransition"]


class GatedTransition(nn.Module):
    """z to (mu, a) of the next z: mu = (1 - g) * (W z + b) + g * h, a = V relu(h) + c, with g = sigmoid(MLP(z)).

    A gate chooses, for each dimension, between a linear step, at the start z itself, and the proposal h = MLP(z), each
    network with a hidden layer of rectifiers.
    With `encoders.DiagonalNormal` it is the paper's p(z_t | z_(t-1)), which starts as a slow walk: the gates near 1/4,
    the scale near 0.2, so that what one step tells is passed on to the next ones.

    Args:
        latent_dim: D, dimensions of z.
        hidden: units of the hidden layer of g's and of h's network.

    References:
        Krishnan et al. (2017), Structured inference networks for nonlinear state space models, section 5,
        https://arxiv.org/abs/1609.09869

    Example:
        >>> GatedTransition(8)(torch.zeros(5, 20, 8)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(self, latent_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.in_shape, self.out_shape = (latent_dim,), (2 * latent_dim,)
        self.hidden = nn.Linear(latent_dim, 2 * hidden)  # of g's and of h's network, one after the other
        self.gate, self.proposal = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.linear, self.scale = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        nn.init.eye_(self.linear.weight)
        for layer in (self.gate, self.proposal, self.scale):
            nn.init.xavier_uniform_(layer.weight, gain=0.1)
        starts = {self.hidden: 0.0, self.gate: -1.0, self.proposal: 0.0, self.linear: 0.0, self.scale: -1.5}
        for layer, bias in starts.items():
            nn.init.constant_(layer.bias, bias)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., 2 D)`."""
        of_gate, of_proposal = self.hidden(z).relu().chunk(2, -1)
        g, h = self.gate(of_gate).sigmoid(), self.proposal(of_proposal)
        return torch.cat([torch.lerp(self.linear(z), h, g), self.scale(h.relu())], -1)


class BackwardRecurrent(nn.Module):
    """A sequence read from its end: h_t = GRU(x_t, h_(t+1)), so that h_t tells of x_t, ..., x_L; h_(L+1) = 0.

    The unit is that of `Recurrent`. L is a sequence's own length, and what comes after it is not read.

    Args:
        in_shape: shape of one step.
        hidden: H, units of the state.

    References:
        Krishnan et al. (2017), Structured inference networks for nonlinear state space models, section 4,
        https://arxiv.org/abs/1609.09869

    Example:
        >>> BackwardRecurrent(3, hidden=16)(torch.zeros(20, 7, 3)).shape
        torch.Size([20, 7, 16])
    """

    def __init__(self, in_shape: Shape, hidden: int = 64) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(hidden)
        self.cell = _cell(torch.Size(self.in_shape).numel(), hidden, None)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """The states, `(B, T, H)`, of sequences x `(B, T, *in_shape)`.

        Args:
            x: sequences; what is past an end has to be finite.
            seen: which steps come before the end, `(B, T)`; None is all.
        """
        states, h = [], x.new_zeros(len(x), *self.out_shape)
        for t in reversed(range(x.shape[1])):
            new = self.cell(x[:, t].flatten(1), h)
            h = new if seen is None else torch.where(seen[:, t, None], new, h)  # 0 until the end is reached
            states.append(h)
        return torch.stack(states[::-1], 1)


class Combiner(nn.Module):
    """What z_(t-1) and x_t, ..., x_T tell of z_t: (tanh(W z_(t-1) + b) + h_t) / 2.

    Args:
        latent_dim: D, dimensions of z.
        hidden: H, those of h.

    References:
        Krishnan et al. (2017), Structured inference networks for nonlinear state space models, section 4,
        https://arxiv.org/abs/1609.09869

    Example:
        >>> Combiner(8, 16)(torch.zeros(5, 20, 8), torch.zeros(20, 16)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(self, latent_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.out_shape = (latent_dim,), (hidden,), (hidden,)  # as `Join` calls its inputs' shapes
        self.linear = nn.Linear(whole("latent_dim", latent_dim), whole("hidden", hidden))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """One input, `(..., H)`, of z `(..., D)` and h `(..., H)`."""
        return (self.linear(z).tanh() + h) / 2
