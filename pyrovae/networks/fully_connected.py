"""Fully connected networks."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import prod

from torch import nn

from pyrovae.arguments import wholes
from pyrovae.networks.network import Activation, Hidden, Initializer, Network, Normalization, Shape, as_shape

__all__ = ["MLP", "GatedMLP"]


class MLP(Network):
    """Fully connected network: h_0 = x, h_l = activation(W_l h_(l-1) + b_l), output W h_L + b.

    Args:
        in_shape: shape of one input, of any number of dimensions.
        out_shape: shape of one output, of any number of dimensions.
        hidden: units of each hidden layer; `()` for a linear map.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if a hidden layer has no units.

    Example:
        >>> import torch
        >>> MLP((1, 28, 28), 16, hidden=(400,), activation=nn.Softplus)(torch.zeros(5, 20, 1, 28, 28)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (128, 128),
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        layers = _full(in_shape, out_shape, hidden, Hidden(activation, normalization, dropout))
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class GatedMLP(Network):
    """Fully connected network of gated layers: h_l = (W_l h_(l-1) + b_l) * sigmoid(V_l h_(l-1) + c_l).

    Weights start by He, as a gate halves the signal. The output W h_L + b is linear.

    Args:
        in_shape: shape of one input, of any number of dimensions.
        out_shape: shape of one output, of any number of dimensions.
        hidden: units of each hidden layer; `()` for a linear map.
        initializer: fills a weight in place, that of a gated layer being W over V; by default He.
        normalization: of W h + b and V h + c before the gate, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if a hidden layer has no units.

    References:
        Dauphin et al. (2017), Language modeling with gated convolutional networks, https://arxiv.org/abs/1612.08083
        Tomczak and Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> GatedMLP((1, 28, 28), 2 * 40)(torch.zeros(5, 20, 1, 28, 28)).shape
        torch.Size([5, 20, 80])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (300, 300),
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        gate = partial(nn.GLU, dim=1)  # of (a, b) gives a * sigmoid(b)
        layers = _full(in_shape, out_shape, hidden, Hidden(gate, normalization, dropout), width=2)
        super().__init__(in_shape, out_shape, layers, gate, initializer)


def _full(in_shape: Shape, out_shape: Shape, hidden: Sequence[int], follow: Hidden, width: int = 1) -> list[nn.Module]:
    """Fully connected layers; the activation makes a hidden unit of `width` numbers each."""
    units = [prod(as_shape(in_shape)), *wholes("hidden", hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in pairwise(units):
        layers += [nn.Linear(i, width * o, bias=follow.bias), *follow(width * o)]
    return [*layers, nn.Linear(units[-1], prod(as_shape(out_shape)))]
