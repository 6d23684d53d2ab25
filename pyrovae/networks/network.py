"""What every network is: a map between tensors, with no probability in it."""

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.arguments import number, wholes

__all__ = ["Network"]

Shape = int | tuple[int, ...]
Activation = Callable[[], nn.Module]
Initializer = Callable[[Tensor], object]
Normalization = Literal["batch", "layer"]

# Rectifiers, which are 0 on one side, lose half of the signal's variance: He's initialisation makes up for it. These
# do not, and Xavier's keeps the variance.
_XAVIER = (nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Identity)


def as_shape(shape: Shape) -> tuple[int, ...]:
    """A shape as a tuple: 8 and (8,) name the same one."""
    given = wholes("a shape", shape if isinstance(shape, Iterable) else (shape,))
    if not given:
        raise ValueError("a shape has at least one dimension, and is not ()")
    return given


class Network(nn.Module, ABC):
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
        inner = _xavier if isinstance(activation(), _XAVIER) else _he
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                if initializer is not None:
                    initializer(layer.weight)
                else:
                    (_output if layer is self.layers[-1] else inner)(layer)

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


def _xavier(layer: nn.Module) -> None:
    """Var W = 2 / (inputs + outputs)."""
    nn.init.xavier_uniform_(layer.weight)


def _output(layer: nn.Module) -> None:
    """A tenth of the deviation of Xavier's."""
    nn.init.xavier_uniform_(layer.weight, gain=0.1)


class BatchNorm(nn.BatchNorm1d):
    """(h - mean) / sd * weight + bias, by the mean and sd of each channel over all rows and pixels of a batch.

    In evaluation mode by their running means. PyTorch's, which refuses to train on one value for each channel, as a
    last batch of one datum gives, of which there is no sd: this takes the running means there, and leaves them.

    Args:
        num_features: channels C of what is normalised, `(N, C)` or `(N, C, *pixels)`.

    References:
        Ioffe and Szegedy (2015), Batch normalization, https://arxiv.org/abs/1502.03167

    Example:
        >>> BatchNorm(3)(torch.ones(1, 3))
        tensor([[1.0000, 1.0000, 1.0000]], grad_fn=...)
    """

    def forward(self, h: Tensor) -> Tensor:
        """Normalise `(N, C)` or `(N, C, *pixels)`."""
        if h.numel() > self.num_features:
            return super().forward(h)
        return F.batch_norm(h, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _check_input_dim(self, h: Tensor) -> None:
        """Vectors, series and images alike."""


class Hidden:
    """What follows a hidden layer's linear map: h -> dropout(activation(norm(h))).

    Args:
        activation: makes the activation.
        normalization: `batch`, over the rows (and pixels) of each channel; `layer`, over the channels (and pixels) of
            each row; or None.
        dropout: probability that a unit is left out in training; the others are scaled up for it.

    Raises:
        ValueError: if there is no such normalization, dropout is out of [0, 1), or the activation makes no module.

    References:
        Ioffe and Szegedy (2015), Batch normalization, https://arxiv.org/abs/1502.03167
        Ba et al. (2016), Layer normalization, https://arxiv.org/abs/1607.06450
        Srivastava et al. (2014), Dropout, https://jmlr.org/papers/v15/srivastava14a.html

    Example:
        >>> Hidden(nn.ReLU, "batch", dropout=0.1)(channels=8)
        [BatchNorm(8, ...), ReLU(), Dropout(p=0.1, inplace=False)]
    """

    def __init__(self, activation: Activation, normalization: Normalization | None, dropout: float) -> None:
        if normalization not in (None, *get_args(Normalization)):
            raise ValueError(f"normalization is 'batch', 'layer' or None, not {normalization!r}")
        try:
            activation()(torch.zeros(0, 2))
        except (TypeError, NotImplementedError) as error:
            raise ValueError(f"activation makes a module of one tensor, as nn.ReLU does, not {activation}") from error
        except RuntimeError:  # of one for other channels
            pass
        self.activation, self.normalization = activation, normalization
        self.dropout = number("dropout", dropout, least=0, below=1)

    @property
    def bias(self) -> bool:
        """Whether the linear map needs a bias: batch normalization takes it off again, and has its own."""
        return self.normalization != "batch"

    def norm(self, channels: int) -> list[nn.Module]:
        """The normalization, if any."""
        kinds = {"batch": BatchNorm, "layer": partial(nn.GroupNorm, 1)}
        return [] if self.normalization is None else [kinds[self.normalization](channels)]

    def activate(self) -> list[nn.Module]:
        """The activation, and dropout if any."""
        return [self.activation(), *([nn.Dropout(self.dropout)] if self.dropout else [])]

    def __call__(self, channels: int) -> list[nn.Module]:
        """All that follows a linear map to so many channels."""
        return [*self.norm(channels), *self.activate()]
