"""Data and their protocol: what was loaded, how it was split, scaled and drawn, kept beside every number."""

import hashlib
import operator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from pyrovae import mapped, sources
from pyrovae.drawn import Intensities, Levels
from pyrovae.mapped import Mapped
from pyrovae.missing import hot_deck
from pyrovae.sources import NAMES

__all__ = ["NAMES", "Binarize", "Dataset", "Intensities", "Labels", "Levels", "Protocol", "fingerprint", "load"]

Binarize = Literal["none", "threshold", "static", "dynamic"]


@dataclass(frozen=True)
class Protocol:
    """All that must be equal for two numbers to be comparable."""

    data: str
    split: str
    train_size: int
    valid_size: int
    test_size: int
    shape: tuple[int, ...]
    scaling: str
    levels: int | None  # number of grey levels of the raw data; None if they are no grey levels
    binarize: str
    dequantize: bool
    binarize_seed: int | None  # of the draws of valid and test, by binarization or dequantization
    checksum: str  # SHA-256 of train, valid and test, and of which values are observed, the first 16 digits
    raw_checksum: str  # the same before binarization or dequantization

    def to_dict(self) -> dict:
        """As a dictionary of plain values."""
        return {**asdict(self), "shape": list(self.shape)}


class Labels(NamedTuple):
    """Class of each datum, `(N,)`."""

    train: Tensor
    valid: Tensor
    test: Tensor


@dataclass(frozen=True)
class Dataset:
    """Tensors `(N, C, H, W)` of images, or `(N, ...)` of other data, with labels where there are any.

    Training data of a file that is memory-mapped are no tensor but a data set of PyTorch's, which `fit` streams.

    The index of sequences `(N, C, T)` tells where their elements were observed, alike for all: `(T,)` or `(T, P)`.
    Factors are the known factors of variation of each datum, `(N, F)` for each part: indices of values, as in
    `pyrovae.shapes`, or in floating point the values themselves, as in `pyrovae.swiss_roll`. Where values are missing,
    `observed` tells which are not, booleans of the shape of the data; in place of those that are missing stand values
    of other data, so that nothing is NaN.
    """

    train: Tensor | Mapped
    valid: Tensor
    test: Tensor
    labels: Labels | None
    protocol: Protocol
    index: Tensor | None = None
    factors: Labels | None = None
    observed: Labels | None = None


def load(
    name: str,
    binarize: Binarize = "none",
    root: str | Path = "data",
    seed: int = 0,
    valid_size: int | None = None,
    dequantize: bool = False,
    missing: bool = False,
    memory_map: bool = False,
) -> Dataset:
    """Load a data set by name, or from a file or folder by path, split, binarized or dequantized by a stated protocol.

    Names: `digits` (scikit-learn's, 8 x 8), `shapes` (drawn here, 32 x 32) and `swiss_roll` (points of a sheet rolled
    up in three dimensions), which need no network, `mnist`, `fashion_mnist`, `kmnist`, `emnist` (balanced), `omniglot`
    (28 x 28, ink 1), `cifar10`. Paths: a `.npy` file, a `.npz` file with an array `x` (or any one array) or with
    `train` and `test`, `valid` if it has one, and labels `y`, or `train_labels` and so on (or Keras's `x_train`,
    `y_train`, ...); a `.csv` file of a row for each datum, its labels in a column called `y`, `label` or `class`; a
    folder of images, or of one folder of images for each class.
    Bytes are grey values, divided by 255, unless all are 0 or 1; other numbers, such as counts, are taken as they are.
    An array `index` of a `.npz` file, `(T,)` or `(T, P)`, tells where the T elements of every datum were observed: then
    an array `(N, C, T)` is of sequences, not of images.

    Binarization: `none`; `threshold`, x > 1/2; `static`, x ~ Bernoulli(intensity), drawn once by the seed; `dynamic`,
    valid and test drawn once by the seed, train kept as `Intensities`, which `fit` draws anew each epoch.

    Dequantization: grey level k of n becomes (k + u) / n, u ~ U(0, 1), whose density bounds the probability of the
    level; valid and test drawn once by the seed, train kept as `Levels`, which `fit` draws anew each epoch.

    Args:
        name: name or path.
        binarize: `none`, `threshold`, `static` or `dynamic`.
        root: folder of the named sets; what lies there is used, what does not is downloaded to it.
        seed: of the binarization or dequantization; splits do not depend on it.
        valid_size: how many data to keep for validation, the last ones; the others of them join the training data.
            Unless given, all that the split has.
        dequantize: whether grey levels are dequantized.
        missing: whether NaN, and an empty field of a table, is a missing value, and not refused.
        memory_map: whether the training data of a `.npy` file, neither binarized nor dequantized, stay on disk, to be
            read as they are needed; valid and test have 10,000 data at most.

    Raises:
        ValueError: for an unknown name, or data that cannot be used: empty, not finite, of unequal shapes, larger than
            the memory that is free.
        FileNotFoundError: if a path does not exist, or a named set is not under root and cannot be downloaded.

    References:
        Burda et al. (2016), https://arxiv.org/abs/1509.00519, for what binarization does to numbers.
        Theis et al. (2016), https://arxiv.org/abs/1511.01844, for what dequantization does to numbers.

    Example:
        >>> digits = load("digits", binarize="dynamic")
        >>> digits.train.shape, digits.test.unique()
        (torch.Size([1347, 1, 8, 8]), tensor([0., 1.]))
    """
    if binarize not in get_args(Binarize):
        raise ValueError(f"binarize is one of {', '.join(get_args(Binarize))}, not {binarize!r}")
    if dequantize and binarize != "none":
        raise ValueError(f"binarize={binarize!r} leaves no grey levels to dequantize: take one of the two")
    if memory_map:
        if dequantize or missing or binarize != "none" or valid_size is not None:
            raise ValueError(
                "with memory_map, data are as the file has them: no binarize, dequantize, valid_size or missing values"
            )
        source = mapped.read(Path(name))
    else:
        mapped.require_room(Path(name))
        source = sources.read(name, Path(root), missing)
    if valid_size is not None:
        source = source.with_valid(valid_size)
    raw = [part.x for part in source.parts]
    for x, part in zip(raw, Labels._fields, strict=True):
        if isinstance(x, Tensor):  # mapped data are looked at when their checksum is computed
            _check(x, f"{name} ({part})", missing)
    whole, observed = raw, None
    if missing and any(x.isnan().any() for x in raw):
        observed = Labels(*(~x.isnan() for x in raw))
        whole = [hot_deck(x, o, raw[0], observed.train) for x, o in zip(raw, observed, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    if dequantize:
        parts = _dequantized(whole, source.levels, generator, name)
    else:
        parts = [_binarized(x, binarize, generator, train=x is whole[0], name=name) for x in whole]
    checksum = fingerprint(*parts, *(observed or ()))
    labels, factors = ([getattr(part, name) for part in source.parts] for name in ("y", "factors"))
    return Dataset(
        *parts,
        labels=None if any(y is None for y in labels) else Labels(*labels),
        protocol=Protocol(
            data=name if name in NAMES else Path(name).name,
            split=source.split,
            train_size=len(parts[0]),
            valid_size=len(parts[1]),
            test_size=len(parts[2]),
            shape=tuple(parts[0].shape[1:]),
            scaling=source.scaling,
            levels=source.levels,
            binarize=binarize,
            dequantize=dequantize,
            binarize_seed=seed if dequantize or binarize in ("static", "dynamic") else None,
            checksum=checksum,
            raw_checksum=checksum if all(map(operator.is_, parts, raw)) else fingerprint(*raw),
        ),
        index=source.index,
        factors=None if any(v is None for v in factors) else Labels(*factors),
        observed=observed,
    )


def in_memory(dataset: Dataset) -> Dataset:
    """The data, of mapped training data 10,000."""
    return replace(dataset, train=dataset.train.some(10_000)) if isinstance(dataset.train, Mapped) else dataset


def _check(x: Tensor, name: str, missing: bool) -> None:
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")
    bad = x.isinf() if missing else ~x.isfinite()
    if bad.any():
        first = int(bad.flatten(1).any(1).nonzero()[0])
        way_out = f", {sources.TO_LEARN_FROM_THE_REST}" if x.isnan().any() and not missing else ""
        raise ValueError(f"{name} holds NaN or infinity, first in datum {first}: remove or impute it{way_out}")


def _dequantized(parts: list[Tensor], levels: int | None, generator: torch.Generator, name: str) -> list[Tensor]:
    if levels is None:
        raise ValueError(
            f"{name} has no known number of grey levels, and dequantize=True is for grey levels: save them as bytes, "
            f"0 to 255, or load the data with dequantize=False"
        )
    train, *others = (Levels(x, levels) for x in parts)
    return [train, *(x.draw(generator) for x in others)]


def _binarized(x: Tensor, binarize: Binarize, generator: torch.Generator, train: bool, name: str) -> Tensor:
    if binarize == "none":
        return x
    if x.min() < 0 or x.max() > 1:
        raise ValueError(
            f"{name} has values from {x.min():.4g} to {x.max():.4g}, and binarize={binarize!r} needs intensities in "
            f"[0, 1]: rescale the data, or load them with binarize='none'"
        )
    if binarize == "threshold":
        return (x > 0.5).to(x.dtype)
    if binarize == "dynamic" and train:
        return Intensities(x)
    return torch.bernoulli(x, generator=generator)


def fingerprint(*parts: Tensor | Mapped) -> str:
    """SHA-256 of the shapes and values of tensors, the first 16 digits."""
    digest = hashlib.sha256()
    for x in parts:
        digest.update(str(tuple(x.shape)).encode())
        for chunk in x.chunks() if isinstance(x, Mapped) else [x.as_subclass(Tensor).detach().cpu()]:
            digest.update(np.ascontiguousarray(chunk.numpy()).data)
    return digest.hexdigest()[:16]
