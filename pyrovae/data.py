"""Data and their protocol: what was loaded, how it was split, scaled and binarized, kept beside every number."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from pyrovae import sources
from pyrovae.sources import NAMES

__all__ = ["NAMES", "Binarize", "Dataset", "Intensities", "Labels", "Protocol", "fingerprint", "load"]

Binarize = Literal["none", "threshold", "static", "dynamic"]


class Intensities(Tensor):
    """Grey values in [0, 1] that stand for their Bernoulli draws, which `fit` makes anew each epoch (dynamically).

    A tensor like any other, and a plain one after any operation but indexing and moving. `Intensities(x)` makes one.

    References:
        Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks,
        https://doi.org/10.1145/1390156.1390266

    Example:
        >>> x = Intensities(torch.tensor([0.0, 0.5, 1.0]))
        >>> type(x[1:]).__name__, type(x + 0).__name__
        ('Intensities', 'Tensor')
    """

    def __new__(cls: type, x: Tensor) -> "Intensities":
        """See the class."""
        if not x.is_floating_point():
            raise ValueError(
                f"intensities are in floating point, not {x.dtype}: convert them, bytes by x.float() / 255"
            )
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(f"intensities lie between 0 and 1, but these go from {x.min():.4g} to {x.max():.4g}")
        return x.as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """Run func on plain tensors; indexing and moving give intensities again."""
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        keeping = (Tensor.__getitem__, Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.clone, Tensor.float, Tensor.double)
        return result.as_subclass(cls) if func in keeping and result.is_floating_point() else result

    def __deepcopy__(self, memo: dict) -> "Intensities":
        return memo.setdefault(id(self), self.clone())


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
    binarize: str
    binarize_seed: int | None
    checksum: str  # SHA-256 of train, valid and test, the first 16 digits

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
    """Tensors `(N, C, H, W)` of images, or `(N, ...)` of other data, with labels where there are any."""

    train: Tensor
    valid: Tensor
    test: Tensor
    labels: Labels | None
    protocol: Protocol


def load(
    name: str, binarize: Binarize = "none", root: str | Path = "data", seed: int = 0, valid_size: int | None = None
) -> Dataset:
    """Load a data set by name, or from a file or folder by path, split and binarized under a stated protocol.

    Names: `digits` (scikit-learn's, 8 x 8, needs no network), `mnist`, `fashion_mnist`, `kmnist`, `emnist` (balanced),
    `omniglot` (28 x 28, ink 1), `cifar10`. Paths: a `.npy` file, a `.npz` file with an array `x` (or any one array) or
    with `train` and `test`, `valid` if it has one, and labels `y`, or `train_labels` and so on (or Keras's `x_train`,
    `y_train`, ...); a folder of images, or of one folder of images for each class. Bytes are
    divided by 255, unless all are 0 or 1.

    Binarization: `none`; `threshold`, x > 1/2; `static`, x ~ Bernoulli(intensity), drawn once by the seed; `dynamic`,
    valid and test drawn once by the seed, train kept as `Intensities`, which `fit` draws anew each epoch.

    Args:
        name: name or path.
        binarize: `none`, `threshold`, `static` or `dynamic`.
        root: folder of the named sets; what lies there is used, what does not is downloaded to it.
        seed: of the binarization; splits do not depend on it.
        valid_size: how many data to keep for validation, the last ones; the others of them join the training data.
            Unless given, all that the split has.

    Raises:
        ValueError: for an unknown name, or data that cannot be used: empty, not finite, of unequal shapes.
        FileNotFoundError: if a path does not exist, or a named set is not under root and cannot be downloaded.

    References:
        Burda et al. (2016), https://arxiv.org/abs/1509.00519, for what binarization does to numbers.

    Example:
        >>> digits = load("digits", binarize="dynamic")
        >>> digits.train.shape, digits.test.unique()
        (torch.Size([1347, 1, 8, 8]), tensor([0., 1.]))
    """
    if binarize not in get_args(Binarize):
        raise ValueError(f"binarize is one of {', '.join(get_args(Binarize))}, not {binarize!r}")
    source = sources.read(name, Path(root))
    if valid_size is not None:
        source = source.with_valid(valid_size)
    parts = [part.x for part in source.parts]
    for x, part in zip(parts, Labels._fields, strict=True):
        _check(x, f"{name} ({part})")
    if binarize != "none":
        generator = torch.Generator().manual_seed(seed)
        parts = [_binarized(x, binarize, generator, train=x is parts[0], name=name) for x in parts]
    labels = [part.y for part in source.parts]
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
            binarize=binarize,
            binarize_seed=seed if binarize in ("static", "dynamic") else None,
            checksum=fingerprint(*parts),
        ),
    )


def _check(x: Tensor, name: str) -> None:
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")
    if not x.isfinite().all():
        first = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{name} holds NaN or infinity, first in datum {first}: remove or impute it")


def _binarized(x: Tensor, binarize: Binarize, generator: torch.Generator, train: bool, name: str) -> Tensor:
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


def fingerprint(*parts: Tensor) -> str:
    """SHA-256 of the shapes and values of tensors, the first 16 digits."""
    digest = hashlib.sha256()
    for x in parts:
        digest.update(str(tuple(x.shape)).encode())
        digest.update(np.ascontiguousarray(x.as_subclass(Tensor).detach().cpu().numpy()).data)
    return digest.hexdigest()[:16]
