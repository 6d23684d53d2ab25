"""Networks between images and vectors."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod

from torch import Tensor, nn

from pyrovae.arguments import whole, wholes
from pyrovae.networks.network import Activation, Hidden, Initializer, Network, Normalization, Shape, as_shape

__all__ = ["Conv", "ConvTranspose", "ResidualConv", "ResidualConvTranspose"]


class Conv(Network):
    """Image to vector: convolutions of stride 2, each halving height and width, then two full layers.

    Args:
        in_shape: shape of an image, `(C, H, W)`.
        out_shape: shape of one output, of any number of dimensions.
        channels: channels of each convolution.
        hidden: units of the full layer before the output.
        kernel_size: odd width of the kernels, in pixels.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the input is no image, or the kernel's width is even.

    Example:
        >>> import torch
        >>> Conv((1, 28, 28), 16)(torch.zeros(5, 20, 1, 28, 28)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        kernel_size: int = 3,
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        sizes = _halved(in_shape, channels, hidden, kernel_size)
        channels = [as_shape(in_shape)[0], *channels]
        follow = Hidden(activation, normalization, dropout)
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            layers += [nn.Conv2d(i, o, kernel_size, 2, kernel_size // 2, bias=follow.bias), *follow(o)]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * prod(sizes[-1]), hidden, bias=follow.bias), *follow(hidden)]
        layers += [nn.Linear(hidden, prod(as_shape(out_shape)))]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class ConvTranspose(Network):
    """Vector to image: two full layers, then transposed convolutions of stride 2, each doubling height and width.

    Args:
        in_shape: shape of one input, of any number of dimensions.
        out_shape: shape of an image, `(C, H, W)`.
        channels: channels that enter each transposed convolution.
        hidden: units of the first full layer.
        kernel_size: odd width of the kernels, in pixels.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the output is no image, or the kernel's width is even.

    Example:
        >>> import torch
        >>> ConvTranspose(8, (1, 28, 28))(torch.zeros(5, 20, 8)).shape
        torch.Size([5, 20, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        kernel_size: int = 3,
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        sizes = _halved(out_shape, channels, hidden, kernel_size)[::-1]
        channels = [*channels, as_shape(out_shape)[0]]
        follow = Hidden(activation, normalization, dropout)
        layers = [nn.Flatten(), nn.Linear(prod(as_shape(in_shape)), hidden, bias=follow.bias), *follow(hidden)]
        layers += _to_image(hidden, channels[0], sizes[0])
        for i, o, size in zip(channels[:-1], channels[1:], sizes[1:], strict=True):
            layers += [*follow(i), _doubling(i, o, size, kernel_size, bias=follow.bias or size is sizes[-1])]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class ResidualConv(Network):
    """Image to vector: blocks h -> activation(S h + F(h)) that each halve height and width, then a full layer.

    F is a convolution of stride 2, normalization, activation and another convolution, S a 1 x 1 convolution of
    stride 2; the sum is of normalized terms.

    Args:
        in_shape: shape of an image, `(C, H, W)`.
        out_shape: shape of one output, of any number of dimensions.
        channels: channels that leave each block.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the input is no image.

    References:
        He et al. (2016), Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385

    Example:
        >>> import torch
        >>> ResidualConv((1, 28, 28), 16)(torch.zeros(5, 20, 1, 28, 28)).shape
        torch.Size([5, 20, 16])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (32, 64),
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        size = _halved(in_shape, channels)[-1]
        channels = [as_shape(in_shape)[0], *channels]
        follow = Hidden(activation, normalization, dropout)
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            first = nn.Conv2d(i, o, 3, stride=2, padding=1, bias=follow.bias)
            shortcut = nn.Conv2d(i, o, 1, stride=2, bias=follow.bias)
            layers += [_Residual(first, [shortcut, *follow.norm(o)], o, follow), *follow.activate()]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * prod(size), prod(as_shape(out_shape)))]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class ResidualConvTranspose(Network):
    """Vector to image: a full layer, blocks h -> activation(S h + F(h)) that double height and width, a convolution.

    F is a transposed convolution of stride 2, normalization, activation and a convolution, S a 1 x 1 convolution
    whose pixels are repeated; the sum is of normalized terms.

    Args:
        in_shape: shape of one input, of any number of dimensions.
        out_shape: shape of an image, `(C, H, W)`.
        channels: channels that enter each block; as many leave the last as enter it.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.
        normalization: of hidden layers before their activation, `batch` or `layer`.
        dropout: probability that a hidden unit is left out in training.

    Raises:
        ValueError: if the output is no image.

    References:
        He et al. (2016), Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385

    Example:
        >>> import torch
        >>> ResidualConvTranspose(8, (1, 28, 28))(torch.zeros(5, 20, 8)).shape
        torch.Size([5, 20, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        channels: Sequence[int] = (64, 32),
        activation: Activation = nn.ReLU,
        initializer: Initializer | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        sizes = _halved(out_shape, channels)[::-1]
        channels = [*channels, channels[-1]]
        follow = Hidden(activation, normalization, dropout)
        layers = [nn.Flatten(), *_to_image(prod(as_shape(in_shape)), channels[0], sizes[0]), *follow(channels[0])]
        for i, o, size in zip(channels[:-1], channels[1:], sizes[1:], strict=True):
            first = _doubling(i, o, size, 3, bias=follow.bias)
            shortcut = [nn.Conv2d(i, o, 1, bias=follow.bias), *follow.norm(o), nn.Upsample(size)]
            layers += [_Residual(first, shortcut, o, follow), *follow.activate()]
        layers += [nn.Conv2d(channels[-1], as_shape(out_shape)[0], 3, padding=1)]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


class _Residual(nn.Module):
    """S h + F(h), where F begins with a given layer that gives so many channels."""

    def __init__(self, first: nn.Module, shortcut: Sequence[nn.Module], channels: int, follow: Hidden) -> None:
        super().__init__()
        second = nn.Conv2d(channels, channels, 3, padding=1, bias=follow.bias)
        self.branch = nn.Sequential(first, *follow(channels), second, *follow.norm(channels))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, h: Tensor) -> Tensor:
        return self.shortcut(h) + self.branch(h)


def _to_image(units: int, channels: int, size: tuple[int, int]) -> list[nn.Module]:
    """A full layer from vectors to images; its bias differs between pixels, so no batch normalization replaces it."""
    return [nn.Linear(units, channels * prod(size)), nn.Unflatten(1, (channels, *size))]


def _doubling(i: int, o: int, size: tuple[int, int], kernel_size: int, bias: bool) -> nn.ConvTranspose2d:
    """A transposed convolution of stride 2 that gives images of a size."""
    # It gives 2 n - 1 pixels from n, and one more where the target is even.
    extra = tuple(1 - n % 2 for n in size)
    return nn.ConvTranspose2d(i, o, kernel_size, 2, kernel_size // 2, output_padding=extra, bias=bias)


def _halved(shape: Shape, channels: Sequence[int], hidden: int = 1, kernel_size: int = 3) -> list[tuple[int, int]]:
    """Height and width of an image before and after each convolution of stride 2; refuses what makes no network."""
    shape = as_shape(shape)
    if len(shape) != 3:
        raise ValueError(f"a convolutional network needs an image (C, H, W), not {shape}: use MLP for other data")
    if whole("kernel_size", kernel_size, least=3) % 2 == 0:
        raise ValueError(f"kernel_size must be odd, and at least 3 to see every pixel, not {kernel_size}")
    if not wholes("channels", channels):
        raise ValueError("channels must be given for at least one layer, not ()")
    whole("hidden", hidden)
    sizes = [shape[1:]]
    for _ in channels:
        sizes.append(tuple(ceil(n / 2) for n in sizes[-1]))
    return sizes
