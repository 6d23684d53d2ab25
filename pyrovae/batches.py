"""Batches of data on a device, in an order, and a binarization or dequantization, of each epoch's own."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyrovae.drawn import Drawn
from pyrovae.rng import stream

__all__ = ["Batches"]


class Batches:
    """An iterable of batches `(B, *event)`; one pass is an epoch.

    A tensor that fits on the device is kept there whole, another one, or a `Dataset`, is streamed by a `DataLoader`.

    Args:
        data: tensor `(N, *event)`, `Intensities` and `Levels` to be drawn anew each epoch; or a map-style `Dataset` of
            data, or of tuples that begin with one.
        batch_size: B, data in a batch; the last batch has what is left.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of those draws, which do not depend on anything else that is random: whatever is
            trained from a seed meets the same data.
        device: where the batches shall be.

    Raises:
        ValueError: if there are no data.
    """

    def __init__(self, data: Tensor | Dataset, batch_size: int, shuffle: bool, seed: int, device: torch.device) -> None:
        if len(data) == 0:
            raise ValueError("the data are empty: give at least one datum")
        self.size, self.batch_size, self.shuffle, self.device = len(data), batch_size, shuffle, device
        self.drawn = data if isinstance(data, Drawn) else None  # which knows how its values are drawn
        self.unchecked = not isinstance(data, Tensor)  # what is not a tensor is seen for the first time as it streams
        self.resident, self.streamed = None, data
        if isinstance(data, Tensor):
            data = data.as_subclass(Tensor)
            self.streamed = TensorDataset(data)
            if _fits(data, device):
                self.resident = data.to(device)
        self.order = torch.Generator().manual_seed(stream(seed, "order"))
        self.noise = torch.Generator(device).manual_seed(stream(seed, "binarization"))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.size, generator=self.order) if self.shuffle else torch.arange(self.size)
        for x in self._resident(order) if self.resident is not None else self._streamed(order):
            yield x if self.drawn is None else self.drawn.alike(x)

    def _resident(self, order: Tensor) -> Iterator[Tensor]:
        for index in order.to(self.device).split(self.batch_size):
            yield self.resident[index]

    def _streamed(self, order: Tensor) -> Iterator[Tensor]:
        loader = DataLoader(
            self.streamed,
            self.batch_size,
            sampler=order.tolist(),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        for batch in loader:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            yield x.to(self.device, non_blocking=True)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the order and of the draws."""
        return {"order": self.order.get_state(), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with the order and the draws that `state_dict` gave."""
        self.order.set_state(state["order"])
        if state["noise"].shape == self.noise.get_state().shape:  # else the run goes on on another kind of device
            self.noise.set_state(state["noise"])


def _fits(data: Tensor, device: torch.device) -> bool:
    """Whether the data leave half of the device's free memory to the model."""
    if data.device == device or device.type != "cuda":
        return True
    return data.nbytes < torch.cuda.mem_get_info(device)[0] / 2
