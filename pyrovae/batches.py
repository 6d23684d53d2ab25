"""Batches of data on a device, in an order, and a binarization or dequantization, of each epoch's own."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyrovae.columns import Data, columns
from pyrovae.drawn import Drawn
from pyrovae.rng import stream

__all__ = ["Batches"]


class Batches:
    """An iterable of batches, tuples of tensors that begin with x `(B, *event)`; one pass is an epoch.

    Tensors that fit on the device are kept there whole, others, or a `Dataset`, are streamed by a `DataLoader`.

    Args:
        data: tensor `(N, *event)`, `Intensities` and `Levels` to be drawn anew each epoch; a tuple that begins with
            one, of what else is known of each datum; or a map-style `Dataset` of data, or of such tuples.
        batch_size: B, data in a batch; the last batch has what is left.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of those draws, which do not depend on anything else that is random: whatever is
            trained from a seed meets the same data.
        device: where the batches shall be.
        width: how many tensors of a tuple are wanted, if there are so many: the first ones.

    Raises:
        ValueError: if there are no data.
    """

    def __init__(
        self, data: Data | Dataset, batch_size: int, shuffle: bool, seed: int, device: torch.device, width: int = 1
    ) -> None:
        held = columns(data)[:width] if isinstance(data, Tensor | tuple) else ()
        self.size = len(held[0] if held else data)
        if self.size == 0:
            raise ValueError("the data are empty: give at least one datum")
        self.batch_size, self.shuffle, self.device, self.width = batch_size, shuffle, device, width
        self.drawn = [t if isinstance(t, Drawn) else None for t in held]  # which know how their values are drawn
        self.unchecked = not held  # what is not a tensor is seen for the first time as it streams
        self.resident, self.streamed = None, data
        if held:
            held = tuple(t.as_subclass(Tensor) for t in held)
            self.streamed = TensorDataset(*held)
            if _fits(held, device):
                self.resident = tuple(t.to(device) for t in held)
        self.order = torch.Generator().manual_seed(stream(seed, "order"))
        self.noise = torch.Generator(device).manual_seed(stream(seed, "binarization"))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(self.size, generator=self.order) if self.shuffle else torch.arange(self.size)
        for batch in self._resident(order) if self.resident is not None else self._streamed(order):
            kinds = self.drawn or [None] * len(batch)
            yield tuple(t if kind is None else kind.alike(t) for t, kind in zip(batch, kinds, strict=True))

    def _resident(self, order: Tensor) -> Iterator[tuple[Tensor, ...]]:
        for index in order.to(self.device).split(self.batch_size):
            yield tuple(t[index] for t in self.resident)

    def _streamed(self, order: Tensor) -> Iterator[tuple[Tensor, ...]]:
        loader = DataLoader(
            self.streamed,
            self.batch_size,
            sampler=order.tolist(),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        for batch in loader:
            batch = batch if isinstance(batch, list | tuple) else [batch]
            yield tuple(t.to(self.device, non_blocking=True) for t in batch[: self.width])

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the order and of the draws."""
        return {"order": self.order.get_state(), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with the order and the draws that `state_dict` gave."""
        self.order.set_state(state["order"])
        if state["noise"].shape == self.noise.get_state().shape:  # else the run goes on on another kind of device
            self.noise.set_state(state["noise"])


def _fits(data: tuple[Tensor, ...], device: torch.device) -> bool:
    """Whether the data leave half of the device's free memory to the model."""
    coming = sum(t.nbytes for t in data if t.device != device)
    return device.type != "cuda" or coming < torch.cuda.mem_get_info(device)[0] / 2
