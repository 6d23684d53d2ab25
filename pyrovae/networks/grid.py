"""Networks between images and grids of vectors: convolutions alone, so that each vector is of a place in the image."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from pyrovae.arguments import whole
from pyrovae.networks.convolutional import _doubling, _halved, _Residual
from pyrovae.networks.network import Activation, Hidden, Initializer, Network, Normalization, Shape, as_shape

__all__ = ["ConvGrid", "ConvGridTranspose"]


class ConvGrid(Network):
    """Image to grid of vectors: convolutions of stride 2, each halving height and width, then h + F(h), then 1 x 1.

    Args:
        in_shape: shape of an image, `(C, H, W)`.
        out_shape: shape of one output, of D H' W' numbers, H' and W' those of the halved image: D for each place.
        channels: channels of each convolution of stride 2.
        blocks: how many h + F(h), F two convolutions.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the input is no image, or the output cannot be split among the places.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, section 4.1,
        https://arxiv.org/abs/1711.00937

    Example:
        >>> import torch
        >>> ConvGrid((1, 28, 28), 8 * 7 * 7)(torch.zeros(5, 20, 1, 28, 28)).shape
        torch.Size([5, 20, 392])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        dim = _vectors(out_shape, _halved(in_shape, channels)[-1])
        channels = [as_shape(in_shape)[0], *channels]
        follow = Hidden(activation, normalization, dropout)
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1, bias=follow.bias), *follow(o)]
        layers += [*_blocks(blocks, channels[-1], follow), nn.Conv2d(channels[-1], dim, 1)]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class ConvGridTranspose(Network):
    """Grid of vectors to image: a convolution, then h + F(h), then transposed convolutions of stride 2.

    Args:
        in_shape: shape of one input, of D H' W' numbers, H' and W' those of the halved image: D for each place.
        out_shape: shape of an image, `(C, H, W)`.
        channels: channels that enter each transposed convolution.
        blocks: how many h + F(h), F two convolutions.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the output is no image, or the input cannot be split among the places.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, section 4.1,
        https://arxiv.org/abs/1711.00937

    Example:
        >>> import torch
        >>> ConvGridTranspose(8 * 7 * 7, (1, 28, 28))(torch.zeros(5, 20, 392)).shape
        torch.Size([5, 20, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (64, 32),
        blocks: int = 1,
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        sizes = _halved(out_shape, channels)[::-1]
        dim, channels = _vectors(in_shape, sizes[0]), [*channels, as_shape(out_shape)[0]]
        follow = Hidden(activation, normalization, dropout)
        layers = [nn.Flatten(), nn.Unflatten(1, (dim, *sizes[0]))]
        layers += [nn.Conv2d(dim, channels[0], 3, padding=1, bias=follow.bias), *follow(channels[0])]
        layers += _blocks(blocks, channels[0], follow)
        for i, o, size in zip(channels[:-1], channels[1:], sizes[1:], strict=True):
            last = size is sizes[-1]
            layers += [_doubling(i, o, size, 3, bias=follow.bias or last), *([] if last else follow(o))]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


def _blocks(number: int, channels: int, follow: Hidden) -> list[nn.Module]:
    """activation(h + F(h)), so many times."""
    layers: list[nn.Module] = []
    for _ in range(whole("blocks", number, least=0)):
        first = nn.Conv2d(channels, channels, 3, padding=1, bias=follow.bias)
        layers += [_Residual(first, [nn.Identity()], channels, follow), *follow.activate()]
    return layers


def _vectors(shape: Shape, places: tuple[int, int]) -> int:
    """D, numbers for each place."""
    size = prod(as_shape(shape))
    if size % prod(places):
        raise ValueError(
            f"{size} numbers cannot be split among the {places} places of the image, halved once for each of the "
            f"channels: make them a multiple of these, or give other channels"
        )
    return size // prod(places)
