"""Batches of data on a device, in an order, and a binarization or dequantization, of each epoch's own."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyrovae.columns import Data, columns
from pyrovae.distributed import Processes
from pyrovae.drawn import Drawn
from pyrovae.rng import stream

__all__ = ["Batches"]


class Batches:
    """An iterable of batches, tuples of tensors that begin with x `(B, *event)`; one pass is an epoch.

    A pass that was left between two batches is gone on with after `load_state_dict`, else a new one begins.
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
        processes: of which each is given its share of the batches; by default there is one.

    Raises:
        ValueError: if there are no data.
    """

    def __init__(
        self,
        data: Data | Dataset,
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device,
        width: int = 1,
        processes: Processes | None = None,
    ) -> None:
        held = columns(data)[:width] if isinstance(data, Tensor | tuple) else ()
        self.size = len(held[0] if held else data)
        if self.size == 0:
            raise ValueError("the data are empty: give at least one datum")
        self.batch_size, self.shuffle, self.device, self.width = batch_size, shuffle, device, width
        self.processes, self.seed = processes or Processes(), seed
        self.drawn = [t if isinstance(t, Drawn) else None for t in held]  # which know how their values are drawn
        self.unchecked = not held  # what is not a tensor is seen for the first time as it streams
        self.resident, self.streamed = None, data
        if held:
            held = tuple(t.as_subclass(Tensor) for t in held)
            self.streamed = TensorDataset(*held)
            if _fits(held, device):
                self.resident = tuple(t.to(device) for t in held)
        self.before = 0  # batches of the epochs before
        self.position = 0  # batches of the epoch that were given
        self.indices = torch.empty(0, dtype=torch.int64)  # of all processes' data in the last of them, `(B,)`
        self.order = torch.Generator().manual_seed(stream(seed, "order"))
        self._epoch: Tensor | None = None  # of which the order of this epoch is drawn, if there is one
        self._start = 0  # position at which it begins
        self.noise = torch.Generator(device).manual_seed(stream(seed, "binarization"))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.position, self._start = self._start, 0
        self._epoch = self.order.get_state()
        order = torch.randperm(self.size, generator=self.order) if self.shuffle else torch.arange(self.size)
        parts = order.split(self.batch_size)[self.position :]
        own = [*map(self.processes.share, parts)]
        batches = self._resident(own) if self.resident is not None else self._streamed(own)
        for self.indices in parts:
            self.position += 1
            # Before it is streamed, as a `Dataset` may draw, too: each of several processes has noise of its own.
            self.processes.begin(self.seed, self.before + self.position, len(self.indices), self.noise)
            batch = next(batches)
            kinds = self.drawn or [None] * len(batch)
            yield tuple(t if kind is None else kind.alike(t) for t, kind in zip(batch, kinds, strict=True))
        self.position, self._epoch = 0, None

    def _resident(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        order = torch.cat([*parts, torch.empty(0, dtype=torch.int64)]).to(self.device)  # at once
        for index in order.split([*map(len, parts)]):
            yield tuple(t[index] for t in self.resident)

    def _streamed(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        loader = DataLoader(
            self.streamed,
            batch_sampler=(part.tolist() for part in parts),  # as lists take much memory
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        for batch in loader:
            batch = batch if isinstance(batch, list | tuple) else [batch]
            yield tuple(t.to(self.device, non_blocking=True) for t in batch[: self.width])

    def state_dict(self) -> dict[str, Any]:
        """The states of the order and of the draws, and the position within the epoch."""
        order = self.order.get_state() if self._epoch is None else self._epoch
        return {"order": order, "noise": self.noise.get_state(), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the order and the draws that `state_dict` gave."""
        if not 0 <= state["position"] <= len(self):
            raise ValueError(f"there is no batch {state['position']} of {len(self)}")
        self.order.set_state(state["order"])
        self.position = self._start = int(state["position"])
        self._epoch = None
        if state["noise"].shape == self.noise.get_state().shape:  # else the run goes on on another kind of device
            self.noise.set_state(state["noise"])


def _fits(data: tuple[Tensor, ...], device: torch.device) -> bool:
    """Whether the data leave half of the device's free memory to the model."""
    coming = sum(t.nbytes for t in data if t.device != device)
    return device.type != "cuda" or coming < torch.cuda.mem_get_info(device)[0] / 2
