"""A table in place of a network: outputs of its own for each datum, and none for any other."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.arguments import tensor
from pyrovae.data import Dataset
from pyrovae.drawn import Drawn
from pyrovae.networks.network import Network, Shape, as_shape
from pyrovae.staging import tracing

__all__ = ["PerDatum"]


class PerDatum(Network):
    """f(x_n) = row n of a table: a network without amortisation, with free outputs for each datum of a set.

    So `encoders.DiagonalNormal(networks.PerDatum((5,), 2 * D, data=x))` is a posterior with parameters of its own for
    each datum of x: what a network loses against it is the price of amortisation. Data are found by their values in
    float32; equal ones share a row. Rows start at 0. An optimiser with momentum, like Adam, moves rows of data that
    are not in the batch too.

    Args:
        in_shape: shape of one datum.
        out_shape: shape of one output, of any number of dimensions.
        data: the data that have a row each, `(N, *in_shape)`; or give them by `hold` before the first use.

    Raises:
        ValueError: if data have another shape or are drawn anew each epoch; when called, for a datum that has no row.

    References:
        Cremer et al. (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558

    Example:
        >>> x = torch.randn(20, 5)
        >>> PerDatum(5, 16, data=x)(x[3:7]).shape
        torch.Size([4, 16])
    """

    one_bias_per_channel = False

    def __init__(self, in_shape: Shape, out_shape: Shape, data: Tensor | None = None) -> None:
        super().__init__(in_shape, out_shape, [nn.Flatten(), _Table(out_shape)], nn.Identity, None)
        if data is not None:
            self.hold(data)

    def start_from(self, dataset: Dataset) -> None:
        """Refuse a run, which is validated and scored on data that have no rows.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "PerDatum has outputs for data that it holds, none for those that a run is validated and scored on: "
            "use it in Python, as networks.PerDatum(..., data=x)"
        )

    def hold(self, data: Tensor) -> None:
        """Make a row of zeros for each datum of `(N, *in_shape)`, in place of all rows so far."""
        if isinstance(data, Drawn):
            raise ValueError(
                f"PerDatum finds a datum by its value, but those of {type(data).__name__} are drawn anew each epoch: "
                f"draw them once, as data.load does with binarize='static'"
            )
        if tensor("data", data).shape[1:] != self.in_shape or len(data) == 0:
            raise ValueError(f"PerDatum holds data (N, *{self.in_shape}), N > 0, but was given {tuple(data.shape)}")
        self.layers[-1].hold(data.flatten(1))

    @torch.no_grad()
    def set_output_bias(self, value: Tensor) -> None:
        """Set all rows.

        Args:
            value: what each datum shall get; broadcasts to `out_shape`.
        """
        self.layers[-1].rows.copy_(value.expand(self.out_shape).flatten())


class _Table(nn.Module):
    """Rows of outputs by key, in the order of the keys: data `(N, D)` to `(N, outputs)`."""

    def __init__(self, out_shape: Shape) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(0, prod(as_shape(out_shape))))  # (M, outputs)
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))  # (M,)

    def hold(self, data: Tensor) -> None:
        keys = torch.cat([_key(part) for part in data.to(self.rows.device).split(4096)]).unique()  # sorted
        self._resize(len(keys))
        self.keys.copy_(keys)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.keys) == 0:
            raise ValueError("PerDatum has no data yet: give them as `data`, or by hold(data)")
        key = _key(x)
        row = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        unknown = self.keys[row] != key
        if tracing():  # values cannot be looked at here, but in each run
            torch._assert_async(~unknown.any(), "PerDatum has no row for a datum of the batch")
            return self.rows[row]
        if unknown.any():
            first, more = int(unknown.nonzero()[0]), int(unknown.sum()) - 1
            raise ValueError(
                f"PerDatum has no row for datum {first} of the {len(x)} given{f' (and {more} more)' if more else ''}: "
                f"train without validation data, and to evaluate others, fit a PerDatum that holds them, the model "
                f"frozen by requires_grad_(False)"
            )
        return self.rows[row]

    @torch.no_grad()
    def _resize(self, size: int) -> None:
        """Empty rows, of the same parameter, so that an optimiser that holds it goes on with it."""
        self.rows.data, self.rows.grad = self.rows.new_zeros(size, self.rows.shape[1]), None
        self.keys = self.keys.new_zeros(size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many rows as were saved."""
        if f"{prefix}keys" in state_dict:
            self._resize(len(state_dict[f"{prefix}keys"]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _key(x: Tensor) -> Tensor:
    """A 64-bit hash of each datum of `(N, D)`, which two of unlike values share with probability 2^-64.

    The sum over elements of SplitMix64(bits of the value + position * golden ratio), where -0 is 0.

    References:
        Steele et al. (2014), Fast splittable pseudorandom number generators, https://doi.org/10.1145/2660193.2660195
    """
    bits = (x.float() + 0.0).contiguous().view(torch.int32).long()
    h = bits + torch.arange(1, x.shape[1] + 1, device=x.device) * -0x61C8864680B583EB
    h = (h ^ _shifted(h, 30)) * -0x40A7B892E31B1A47
    h = (h ^ _shifted(h, 27)) * -0x6B2FB644ECCEEE15
    return (h ^ _shifted(h, 31)).sum(1)  # all wraps around at 2^64


def _shifted(h: Tensor, by: int) -> Tensor:
    """A logical shift to the right: zeros come in, whatever the sign."""
    return (h >> by) & ((1 << (64 - by)) - 1)
