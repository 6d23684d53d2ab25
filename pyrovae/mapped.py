"""Data larger than memory: rows of a NumPy file, read as they are asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.memory import available
from pyrovae.readers import array_on_disk
from pyrovae.sources import Part, Source, _check_numbers, _floats

__all__ = ["Mapped"]

_HELD_OUT = 10_000  # data, at most, for validation and for test each
_HELD_BYTES = 2**28  # that they take at most
_CHUNK = 2**20  # numbers that are read at a time


class Mapped(Dataset):
    """Data `(N, *event)` of an array on disk, without some of its rows: a map-style data set that `fit` streams.

    Args:
        array: a memory map of numbers, `(M, ...)`.
        held_out: rows of the array that are not among the data, `(M - N,)`, ascending.
        scale: what values are divided by.

    Example:
        >>> Mapped(np.arange(10.0).reshape(5, 2), held_out=np.array([1, 3]))[torch.tensor([0, 1, 2])]
        tensor([[0., 1.],
                [4., 5.],
                [8., 9.]])
    """

    def __init__(self, array: np.ndarray, held_out: np.ndarray, scale: int = 1) -> None:
        self.array, self.scale = array, scale
        self._before = held_out - np.arange(len(held_out))  # data before each row that is held out

    def __len__(self) -> int:
        return len(self.array) - len(self._before)

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """A datum `event`, or data `(B, *event)`, in floating point."""
        rows = self._rows(index)
        data = _floats(self.array[np.atleast_1d(rows)], None) / self.scale
        return data if rows.ndim else data[0]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """The data of a batch, read at once, as PyTorch's loaders ask for them."""
        return list(self[torch.tensor(indices)])

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the tensor `(N, *event)`."""
        return (len(self), *self[0].shape)

    def chunks(self) -> Iterator[Tensor]:
        """All data, in order, some at a time.

        Raises:
            ValueError: for data that are not finite.
        """
        rows = max(_CHUNK // self.array[0].size, 1)
        for start in range(0, len(self), rows):
            index = torch.arange(start, min(start + rows, len(self)))
            chunk = self[index]
            if (off := ~chunk.flatten(1).isfinite().all(1)).any():
                raise ValueError(
                    f"datum {self._rows(index[off][0])} of the file holds NaN or infinity: remove or impute it"
                )
            yield chunk

    def _rows(self, index: int | Tensor) -> np.ndarray:
        """Where the data are in the array."""
        index = np.asarray(index)
        return np.asarray(index + np.searchsorted(self._before, index, side="right"))

    def some(self, n: int) -> Tensor:
        """N of the data, evenly spaced, or all if there are fewer."""
        return self[torch.linspace(0, len(self) - 1, min(n, len(self)), dtype=torch.float64).long()]


def read(path: Path) -> Source:
    """A `.npy` file, its train part `Mapped`; valid and test are rows at random, few enough to be held in memory.

    Raises:
        ValueError: for a file of another kind, or one that cannot be used.
    """
    if path.suffix != ".npy":
        raise ValueError(f"'{path}' cannot be memory-mapped, which is for .npy files: save its array by numpy.save")
    array = array_on_disk(path)
    _check_numbers(array, f"'{path}'")
    n = len(array)
    if n < 12 or array.size == 0:
        raise ValueError(f"'{path}' has the shape {array.shape}: give at least 12 data, for train, valid and test")
    most = max(min(_HELD_OUT, _HELD_BYTES // (4 * array[0].size)), 1)
    sizes = min(round(n / 6), most), min(round(n / 12), most)
    rows, random = {}, np.random.RandomState(0)  # a stream that is fixed
    while len(rows) < sum(sizes):
        rows |= dict.fromkeys(random.randint(n, size=sum(sizes)).tolist())
    held_out = np.array([*rows][: sum(sizes)])
    test, valid = np.sort(held_out[: sizes[0]]), np.sort(held_out[sizes[0] :])
    levels = None if array.dtype != np.uint8 else 2 if all(part.max(initial=0) <= 1 for part in _parts(array)) else 256
    scale, scaling = (255, "divided by 255") if levels == 256 else (1, "none")
    train = Mapped(array, np.sort(held_out), scale)
    valid, test = (_floats(array[part], None) / scale for part in (valid, test))
    split = f"random: numpy.random.RandomState(0), {sizes[1]} for valid and {sizes[0]} for test, at most {most} each"
    return Source((Part(train, None), Part(valid, None), Part(test, None)), split, scaling, levels)


def require_room(path: Path) -> None:
    """Refuse a file that would not fit in memory, as it is and in floating point, whole and split."""
    if path.suffix != ".npy" or not path.is_file() or (free := available()) is None:
        return
    if path.stat().st_size * (1 + 2 * 4) <= free:  # of bytes, which grow most
        return
    array = array_on_disk(path)
    needed = array.size * (array.itemsize + 2 * 4)
    if needed > free:
        raise ValueError(
            f"'{path}' takes {needed / 2**30:.1f} GiB to load, and {free / 2**30:.1f} GiB are free: give "
            f"memory_map=True, for data that are read as they are needed"
        )


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(_CHUNK // array[0].size, 1)
    return (array[start : start + rows] for start in range(0, len(array), rows))
