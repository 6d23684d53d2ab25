"""Sources: where data come from, each split into train, valid and test in a fixed, stated way, before binarization."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae import readers
from pyrovae.readers import last_line, told
from pyrovae.shapes import shapes
from pyrovae.swiss_roll import SCALING, swiss_roll

__all__ = ["NAMES", "TO_LEARN_FROM_THE_REST", "Part", "Source", "read"]

TO_LEARN_FROM_THE_REST = (
    "or let it count as missing, for a model that learns from the rest: --model IncompleteVAE, data.load(missing=True)"
)


class Part(NamedTuple):
    """Data `(N, ...)` in floating point, and labels `(N,)` and factors of variation `(N, F)` if they are known."""

    x: Tensor
    y: Tensor | None
    factors: Tensor | None = None


class Source(NamedTuple):
    """Train, valid and test, how they were split, how raw values were scaled, and what is known of the values.

    Of n grey levels each value is one of 0, 1 / (n - 1), ..., 1; without them, n is None. An index tells where the
    elements of every datum were observed.
    """

    parts: tuple[Part, Part, Part]
    split: str
    scaling: str
    levels: int | None
    index: Tensor | None = None

    def with_valid(self, size: int) -> "Source":
        """The last `size` of the validation data for validation, the others of them after the training data."""
        train, valid, test = self.parts
        if not 1 <= size <= len(valid.x):
            raise ValueError(f"valid_size must be from 1 to the {len(valid.x)} validation data there are, not {size}")
        first = len(valid.x) - size
        pairs = zip(train, _take(valid, slice(first)), strict=True)
        joined = Part(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))
        parts = (joined, _take(valid, slice(first, None)), test)
        return self._replace(parts=parts, split=f"{self.split}; all but the last {size} of valid joined to train")


def read(name: str, root: Path, missing: bool = False) -> Source:
    """Read a data set by its name, from root, or by its path; empty fields of a table are NaN if they may be missing.

    Raises:
        ValueError: for an unknown name, or files that cannot be used.
        FileNotFoundError: if it is not there, and cannot be downloaded.
    """
    path = Path(name)
    if name in _NAMED:
        return _NAMED[name](root)
    if path.suffix not in (".npy", ".npz", ".csv") and not path.is_dir():
        raise ValueError(
            f"no data set '{name}': give one of {', '.join(NAMES)}, or the path of a .npz, .npy or .csv file, or of a "
            f"folder of images"
        )
    if path.is_dir():
        return _image_folder(path)
    if not path.is_file():  # of a pipe there would be no end
        raise FileNotFoundError(f"no file '{path}'")
    return _table(path, missing) if path.suffix == ".csv" else _numpy_file(path)


def _random_split(part: Part, scaling: str, levels: int | None) -> Source:
    """A twelfth for valid, a sixth for test, the same ones always."""
    from sklearn.model_selection import train_test_split  # which takes a second

    n = len(part.x)
    if n < 12:
        raise ValueError(f"{n} data are too few to split into train, valid and test: give at least 12")
    rest, test = train_test_split(np.arange(n), test_size=round(n / 6), random_state=0)
    train, valid = train_test_split(rest, test_size=round(n / 12), random_state=0)
    parts = [_take(part, torch.from_numpy(index)) for index in (train, valid, test)]
    return Source(tuple(parts), "random: train_test_split of scikit-learn, random_state=0", scaling, levels)


def _last_for_valid(train: Part, test: Part, n: int, scaling: str, levels: int | None) -> Source:
    """The set's own test, and the last n of its training set for valid."""
    rest, valid = _take(train, slice(-n)), _take(train, slice(-n, None))
    return Source((rest, valid, test), f"the set's own test; valid = the last {n} of its train", scaling, levels)


def _take(part: Part, index: Tensor | slice) -> Part:
    return Part(*(None if t is None else t[index] for t in part))


# Named sets -----------------------------------------------------------------------------------------------------------


def _digits(_: Path) -> Source:
    from sklearn.datasets import load_digits  # which takes a second

    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return _random_split(Part(x, torch.from_numpy(digits.target)), "divided by 16", levels=17)


def _shapes(_: Path) -> Source:
    x, factors = shapes()
    return _random_split(Part(x, factors[:, 0], factors), "none", levels=2)


def _swiss_roll(_: Path) -> Source:
    x, factors = swiss_roll()
    return _random_split(Part(x, None, factors), SCALING, levels=None)


def _train_and_test(name: str, root: Path, options: Callable[[bool], dict]) -> list:
    """Both parts of a set of torchvision's: the copy under root, else a download."""
    from torchvision import datasets  # here, as it takes long to import, and digits do without

    make = getattr(datasets, _CLASSES[name])
    damaged = f"the files of {name} under '{root}' are damaged"
    try:
        return [make(root, **options(train)) for train in (True, False)]
    except (RuntimeError, FileNotFoundError) as error:
        if not re.search("not found|No such file", str(error)):
            raise ValueError(f"{damaged} ({last_line(error)}): delete them first") from error
    except Exception as error:  # what torchvision raises on bytes that nobody meant for it
        raise ValueError(f"{damaged} ({last_line(error)}): delete them first") from error
    try:
        return [make(root, download=True, **options(train)) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name} is not under '{root}', or incomplete or corrupt, and could not be downloaded "
            f"({last_line(error)}): put {_FILES[name]} under '{root}', or use digits, which needs no download"
        ) from error


def _mnist_like(name: str, **options: str) -> Callable[[Path], Source]:
    def source(root: Path) -> Source:
        both = _train_and_test(name, root, lambda train: {"train": train, **options})
        # EMNIST's files hold the images transposed.
        for part in both:
            if len(part.data) != len(part.targets):
                raise ValueError(
                    f"the files of {name} under '{root}' are damaged: {len(part.data)} images but {len(part.targets)} "
                    f"labels; delete them first"
                )
        shapes = [tuple(part.data.shape[1:]) for part in both]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the files of {name} under '{root}' are damaged: images of shapes {shapes[0]} and {shapes[1]}; delete "
                f"them first"
            )
        images = [part.data.mT.contiguous() if name == "emnist" else part.data for part in both]
        train, test = (Part(x.unsqueeze(1).float() / 255, part.targets) for x, part in zip(images, both, strict=True))
        return _last_for_valid(train, test, len(train.x) // 6, "divided by 255", levels=256)

    return source


def _cifar10(root: Path) -> Source:
    both = _train_and_test("cifar10", root, lambda train: {"train": train})
    train, test = (
        Part(torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255, torch.tensor(part.targets)) for part in both
    )
    return _last_for_valid(train, test, 5_000, "divided by 255", levels=256)


def _omniglot(root: Path) -> Source:
    from torchvision.transforms.functional import pil_to_tensor, resize

    parts, classes = [], 0
    for part in _train_and_test("omniglot", root, lambda train: {"background": train}):
        # torchvision lists characters and images in the order of the file system.
        characters = sorted(part._characters)
        names = [(part._characters[c], image) for image, c in part._flat_character_images]
        order = sorted(range(len(names)), key=names.__getitem__)
        images = torch.stack([resize(pil_to_tensor(part[i][0]), [28, 28], antialias=True) for i in order])
        labels = torch.tensor([classes + characters.index(names[i][0]) for i in order])
        parts.append(Part(1 - images.float() / 255, labels))
        classes += len(characters)
    train, test = parts
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(train.x)))  # a stream that is fixed
    source = _last_for_valid(_take(train, order), test, len(order) // 10, "28 x 28, ink 1, paper 0", levels=256)
    return source._replace(split="test = evaluation set; valid = a random tenth of the background set")


_NAMED: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "shapes": _shapes,
    "swiss_roll": _swiss_roll,
    "mnist": _mnist_like("mnist"),
    "fashion_mnist": _mnist_like("fashion_mnist"),
    "kmnist": _mnist_like("kmnist"),
    "emnist": _mnist_like("emnist", split="balanced"),
    "omniglot": _omniglot,
    "cifar10": _cifar10,
}
NAMES = tuple(_NAMED)
_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
    "omniglot": "Omniglot",
    "cifar10": "CIFAR10",
}
_IDX = "{train,t10k}-{images-idx3,labels-idx1}-ubyte"
_FILES = {
    "mnist": f"MNIST/raw/{_IDX}",
    "fashion_mnist": f"FashionMNIST/raw/{_IDX}",
    "kmnist": f"KMNIST/raw/{_IDX}",
    "emnist": "EMNIST/raw/emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte",
    "omniglot": "omniglot-py/images_{background,evaluation}.zip and the folders that they unpack to",
    "cifar10": "cifar-10-batches-py/",
}


# Files and folders ----------------------------------------------------------------------------------------------------


def _numpy_file(path: Path) -> Source:
    arrays = _arrays(path)
    data = {name: array for name, array in arrays.items() if name in ("x", "train", "valid", "test")}
    if "x" not in data and not {"train", "test"} <= data.keys():
        raise ValueError(
            f"'{path}' holds {told(', '.join(arrays))}: name its arrays x (and y), or train and test (and valid, "
            f"train_labels, test_labels, valid_labels)"
        )
    for name, x in data.items():
        _check_numbers(x, f"'{path}' ({name})")
    shapes, types = [x.shape[1:] for x in data.values()], [x.dtype for x in data.values()]
    for what, found in (("shape", shapes), ("type", types)):
        if len(set(found)) > 1:
            kinds = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in data.items())
            raise ValueError(f"the parts of '{path}' differ in {what}: {kinds}")
    # Bytes are grey values, unless they are 0 and 1 alone.
    levels = None if types[0] != np.uint8 else 256 if max(x.max(initial=0) for x in data.values()) > 1 else 2
    scale, scaling = (255, "divided by 255") if levels == 256 else (1, "none")
    index = _index(arrays["index"], shapes[0], path) if "index" in arrays else None
    parts = {k: Part(_floats(x, index) / scale, _labels(arrays.get(_LABELS[k]), x, path)) for k, x in data.items()}
    return _split(parts, scaling, levels, path)._replace(index=index)


def _split(parts: dict[str, Part], scaling: str, levels: int | None, path: Path) -> Source:
    """As the file has it, or else at random; the last tenth of its train for valid if it has none."""
    if "x" in parts:
        return _random_split(parts["x"], scaling, levels)
    if "valid" in parts:
        return Source((parts["train"], parts["valid"], parts["test"]), "the file's own", scaling, levels)
    n = len(parts["train"].x) // 10
    if n == 0:
        raise ValueError(f"'{path}' has {len(parts['train'].x)} training data: give at least 10, or an array valid")
    return _last_for_valid(parts["train"], parts["test"], n, scaling, levels)


_LABELS = {"x": "y", "train": "train_labels", "valid": "valid_labels", "test": "test_labels"}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; a lone one is called x."""
    arrays = {_name(name): array for name, array in readers.arrays(path).items()}
    names = [name for name in arrays if name != "index"] or ["index"]
    return {"x" if [name] == names else name: array for name, array in arrays.items()}


def _name(name: str) -> str:
    """Keras and others write x_train, y_train and x_val where we say train, train_labels and valid."""
    name = re.sub("^val(?=_|$)|(?<=_)val$", "valid", name)
    kind, _, part = name.partition("_")
    return {"x": part, "y": f"{part}_labels"}.get(kind, name) if part in ("train", "valid", "test") else name


def _check_numbers(x: np.ndarray, name: str) -> None:
    if x.dtype.kind not in "iuf":
        raise ValueError(f"{name} holds {x.dtype} where numbers are needed")
    if x.ndim < 2:
        raise ValueError(f"{name} has the shape {x.shape}: the first dimension counts data, give at least two")


def _index(index: np.ndarray, shape: tuple[int, ...], path: Path) -> Tensor:
    """Where the elements of a datum of this shape were observed, `(T,)` or `(T, P)`."""
    size = shape[-1] if len(shape) < 3 else shape[0]
    if index.ndim not in (1, 2) or len(index) != size or index.dtype.kind not in "iuf" or not np.isfinite(index).all():
        raise ValueError(
            f"'{path}' holds an index {index.dtype} of shape {index.shape} of data of shape {shape}: give numbers that "
            f"tell where the {size} elements of every datum were observed, ({size},) or ({size}, P), or rename it"
        )
    return torch.from_numpy(index.astype(np.float32))


def _floats(x: np.ndarray, index: Tensor | None) -> Tensor:
    """Data in floating point, images with their channels first; sequences, which have an index, as they are."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused with what else is
        data = torch.from_numpy(x.astype(np.float32))
    if index is not None:
        return data
    if data.dim() == 3:  # (N, H, W)
        return data.unsqueeze(1)
    if data.dim() == 4 and data.shape[-1] in (1, 3) and data.shape[1] not in (1, 3):  # (N, H, W, C)
        return data.permute(0, 3, 1, 2).contiguous()
    return data


def _table(path: Path, missing: bool) -> Source:
    """A row for each datum; labels, numbers or names, in a column called y, label or class."""
    table = readers.table(path)
    named_so = [name for name in table if str(name).strip().lower() in ("y", "label", "class")]
    lacking = table.isna().to_numpy()  # (N, columns): pandas takes long for many columns, one by one
    for name in table.columns[lacking.any(0)]:
        if not missing or name in named_so:
            way_out = "" if name in named_so else f", {TO_LEARN_FROM_THE_REST}"
            raise ValueError(
                f"'{path}' has no value in column {told(name)} of datum {table[name].isna().argmax()}: "
                f"remove or impute it{way_out}"
            )
    if len(named_so) > 1:
        raise ValueError(f"'{path}' has columns {told(' and '.join(named_so))}: labels are in one of them alone")
    x = table.drop(columns=named_so) if named_so else table
    for name in x.columns[[dtype.kind not in "iuf" for dtype in x.dtypes]]:
        if (text := pd.to_numeric(x[name], errors="coerce").isna() & x[name].notna()).any():
            raise ValueError(
                f"'{path}' holds '{told(x[name][text.argmax()])}' in column {told(name)} of datum {text.argmax()}, "
                f"where a number is needed; labels are in a column called y, label or class"
            )
    y = None
    if named_so:
        y = table[named_so[0]].to_numpy()
        y = y if np.issubdtype(y.dtype, np.number) else np.unique(y.astype(str), return_inverse=True)[1]
        y = _labels(y, y, path)
    return _random_split(Part(torch.from_numpy(x.to_numpy(np.float32, copy=True)), y), "none", levels=None)


def _labels(y: np.ndarray | None, x: np.ndarray, path: Path) -> Tensor | None:
    if y is not None and (y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer)):
        raise ValueError(f"'{path}' holds {len(x)} data but labels {y.dtype} of shape {y.shape}: give one integer each")
    if y is not None and y.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"'{path}' holds the label {y.max()}, beyond the whole numbers of 64 bits with a sign")
    return None if y is None else torch.from_numpy(y.astype(np.int64))


def _image_folder(path: Path) -> Source:
    """A folder of images, or of one folder of images for each class; all of one size."""
    images, files = readers.images(path)
    classes = {folder: y for y, folder in enumerate(sorted({file.parent for file in files}))}
    labels = torch.tensor([classes[file.parent] for file in files]) if len(classes) > 1 else None
    return _random_split(Part(images.float() / 255, labels), "divided by 255", levels=256)
