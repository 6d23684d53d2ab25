"""Networks: maps between tensors, with no probability in them.

A network maps `(..., *in_shape)` to `(..., *out_shape)` for any leading dimensions, so that one call serves a datum, a
batch `(B, ...)` and K samples for each datum of a batch `(K, B, ...)`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, prod

import torch
from torch import Tensor, nn

__all__ = ["MLP", "Conv", "ConvTranspose"]

Shape = int | tuple[int, ...]
Activation = Callable[[], nn.Module]
Initializer = Callable[[Tensor], object]

# Rectifiers, which are 0 on one side, lose half of the signal's variance: He's initialisation makes up for it. These
# do not, and Xavier's keeps the variance.
_XAVIER = (nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Identity)


def as_shape(shape: Shape) -> tuple[int, ...]:
    """A shape as a tuple: 8 and (8,) name the same one."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"a shape is a positive number or a tuple of positive numbers, not {shape}")
    return shape


class Network(nn.Module):
    """Abstract: a map from `(..., *in_shape)` to `(..., *out_shape)`, made of layers that map `(N, ...)` to `(N, ...)`.

    Weights start by He or Xavier as the activation calls for, the output's at a tenth of Xavier's, so that what the
    network gives hardly depends on its input yet: q(z | x) starts near the prior, p(x | z) near the mean. Biases start
    at 0.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        layers: the layers; the last one's bias is the output's.
        activation: makes the activation between them.
        initializer: fills a weight in place; by default He or Xavier.

    References:
        Glorot and Bengio (2010), https://proceedings.mlr.press/v9/glorot10a.html
        He et al. (2015), https://arxiv.org/abs/1502.01852
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        layers: Sequence[nn.Module],
        activation: Activation,
        initializer: Initializer | None,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(out_shape)
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            nn.init.zeros_(layer.bias)
            if initializer is not None:
                initializer(layer.weight)
            elif layer is self.layers[-1]:
                nn.init.xavier_uniform_(layer.weight, gain=0.1)
            elif isinstance(activation(), _XAVIER):
                nn.init.xavier_uniform_(layer.weight)
            else:
                _he(layer)

    @property
    def one_bias_per_channel(self) -> bool:
        """Whether all pixels of a channel of the output share one bias."""
        return self.layers[-1].bias.numel() < prod(self.out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., *in_shape)` to `(..., *out_shape)`."""
        lead = x.shape[: max(x.dim() - len(self.in_shape), 0)]
        if x.shape[len(lead) :] != self.in_shape:
            raise ValueError(f"{type(self).__name__} takes (..., *{self.in_shape}), but was given {tuple(x.shape)}")
        return self.layers(x.reshape(-1, *self.in_shape)).reshape(*lead, *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, value: Tensor) -> None:
        """Set the output's bias; one that is shared by a channel gets the channel's mean.

        Args:
            value: what the network shall give where its last weights are 0; broadcasts to `out_shape`.
        """
        bias = self.layers[-1].bias
        bias.copy_(value.expand(self.out_shape).reshape(len(bias), -1).mean(-1))


@torch.no_grad()
def _he(layer: nn.Module) -> None:
    """Var W = 2 / (inputs that an output sees)."""
    weight, stride = layer.weight, 1
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, k, k), of which an output sees every stride-th row and column
        weight, stride = weight.transpose(0, 1), layer.stride[0]
    nn.init.kaiming_uniform_(weight, nonlinearity="relu").mul_(stride)


class MLP(Network):
    """Fully connected network: h_0 = x, h_l = activation(W_l h_(l-1) + b_l), output W h_L + b.

    Args:
        in_shape: shape of one input, of any number of dimensions.
        out_shape: shape of one output, of any number of dimensions.
        hidden: units of each hidden layer; `()` for a linear map.
        activation: makes a hidden layer's activation, like `nn.Softplus`.
        initializer: fills a weight in place; by default He or Xavier, as the activation calls for.

    Example:
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
    ) -> None:
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden layers have at least one unit each, not {tuple(hidden)}")
        units = [prod(as_shape(in_shape)), *hidden]
        layers = [layer for i, o in zip(units, hidden, strict=False) for layer in (nn.Linear(i, o), activation())]
        layers = [nn.Flatten(), *layers, nn.Linear(units[-1], prod(as_shape(out_shape)))]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


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

    Raises:
        ValueError: if the input is no image, or the kernel's width is even.

    Example:
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
    ) -> None:
        sizes = _halved(in_shape, channels, hidden, kernel_size)
        channels = [as_shape(in_shape)[0], *channels]
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            layers += [nn.Conv2d(i, o, kernel_size, stride=2, padding=kernel_size // 2), activation()]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * prod(sizes[-1]), hidden), activation()]
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

    Raises:
        ValueError: if the output is no image, or the kernel's width is even.

    Example:
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
    ) -> None:
        sizes = _halved(out_shape, channels, hidden, kernel_size)[::-1]
        channels = [*channels, as_shape(out_shape)[0]]
        layers = [nn.Flatten(), nn.Linear(prod(as_shape(in_shape)), hidden), activation()]
        layers += [nn.Linear(hidden, channels[0] * prod(sizes[0])), nn.Unflatten(1, (channels[0], *sizes[0]))]
        for i, o, size in zip(channels, channels[1:], sizes[1:], strict=False):
            # A transposed convolution gives 2 n - 1 pixels from n, and one more where the target is even.
            extra = tuple(1 - n % 2 for n in size)
            layers += [
                activation(),
                nn.ConvTranspose2d(i, o, kernel_size, stride=2, padding=kernel_size // 2, output_padding=extra),
            ]
        super().__init__(in_shape, out_shape, layers, activation, initializer)


def _halved(shape: Shape, channels: Sequence[int], hidden: int, kernel_size: int) -> list[tuple[int, int]]:
    """Height and width of an image before and after each convolution of stride 2; refuses what makes no network."""
    shape = as_shape(shape)
    if len(shape) != 3:
        raise ValueError(f"a convolutional network needs an image (C, H, W), not {shape}: use MLP for other data")
    if kernel_size % 2 == 0 or kernel_size < 3:
        raise ValueError(f"kernel_size must be odd, and at least 3 to see every pixel, not {kernel_size}")
    if not channels or min(*channels, hidden) < 1:
        raise ValueError(
            f"channels (at least one layer) and hidden must be positive, not {tuple(channels)} and {hidden}"
        )
    sizes = [shape[1:]]
    for _ in channels:
        sizes.append(tuple(ceil(n / 2) for n in sizes[-1]))
    return sizes
