"""Sources: where data come from, each split into train, valid and test in a fixed, stated way, before binarization."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor, resize

__all__ = ["NAMES", "Part", "Source", "read"]


class Part(NamedTuple):
    """Data `(N, ...)` in floating point, and their labels `(N,)` if there are any."""

    x: Tensor
    y: Tensor | None


class Source(NamedTuple):
    """Train, valid and test, how they were split, and how raw values were scaled."""

    parts: tuple[Part, Part, Part]
    split: str
    scaling: str


def read(name: str, root: Path) -> Source:
    """Read a data set by its name, from root, or by its path.

    Raises:
        ValueError: for an unknown name, or files that cannot be used.
        FileNotFoundError: if it is not there, and cannot be downloaded.
    """
    path = Path(name)
    if name in _NAMED:
        return _NAMED[name](root)
    if path.suffix not in (".npy", ".npz") and not path.is_dir():
        raise ValueError(
            f"no data set '{name}': give one of {', '.join(NAMES)}, or the path of a .npz or .npy file, or of a folder "
            f"of images"
        )
    if not path.exists():
        raise FileNotFoundError(f"no file '{path}'")
    return _image_folder(path) if path.is_dir() else _numpy_file(path)


def _random_split(part: Part, scaling: str) -> Source:
    """A twelfth for valid, a sixth for test, the same ones always."""
    n = len(part.x)
    if n < 12:
        raise ValueError(f"{n} data are too few to split into train, valid and test: give at least 12")
    rest, test = train_test_split(np.arange(n), test_size=round(n / 6), random_state=0)
    train, valid = train_test_split(rest, test_size=round(n / 12), random_state=0)
    parts = [_take(part, torch.from_numpy(index)) for index in (train, valid, test)]
    return Source(tuple(parts), "random: train_test_split of scikit-learn, random_state=0", scaling)


def _last_for_valid(train: Part, test: Part, n: int, scaling: str) -> Source:
    """The set's own test, and the last n of its training set for valid."""
    rest, valid = _take(train, slice(-n)), _take(train, slice(-n, None))
    return Source((rest, valid, test), f"the set's own test; valid = the last {n} of its train", scaling)


def _take(part: Part, index: Tensor | slice) -> Part:
    return Part(part.x[index], None if part.y is None else part.y[index])


# Named sets -----------------------------------------------------------------------------------------------------------


def _digits(_: Path) -> Source:
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return _random_split(Part(x, torch.from_numpy(digits.target)), "divided by 16")


def _train_and_test(name: str, root: Path, options: Callable[[bool], dict]) -> list:
    """Both parts of a set of torchvision's: the copy under root, else a download."""
    make = _CLASSES[name]
    try:
        return [make(root, **options(train)) for train in (True, False)]
    except RuntimeError:
        pass  # not found, or not complete
    except (ValueError, AssertionError, EOFError) as error:
        raise ValueError(
            f"the files of {name} under '{root}' are damaged ({error}): delete them and load again"
        ) from error
    try:
        return [make(root, download=True, **options(train)) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise FileNotFoundError(
            f"{name} is not under '{root}' and could not be downloaded ({reason}): put {_FILES[name]} under '{root}', "
            f"or use digits, which needs no download"
        ) from error


def _mnist_like(name: str, **options: str) -> Callable[[Path], Source]:
    def read(root: Path) -> Source:
        both = _train_and_test(name, root, lambda train: {"train": train, **options})
        # EMNIST's files hold the images transposed.
        images = [part.data.mT.contiguous() if name == "emnist" else part.data for part in both]
        train, test = (Part(x.unsqueeze(1).float() / 255, part.targets) for x, part in zip(images, both, strict=True))
        return _last_for_valid(train, test, len(train.x) // 6, "divided by 255")

    return read


def _cifar10(root: Path) -> Source:
    both = _train_and_test("cifar10", root, lambda train: {"train": train})
    train, test = (
        Part(torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255, torch.tensor(part.targets)) for part in both
    )
    return _last_for_valid(train, test, 5_000, "divided by 255")


def _omniglot(root: Path) -> Source:
    parts = []
    for part in _train_and_test("omniglot", root, lambda train: {"background": train}):
        images = torch.stack([resize(pil_to_tensor(image), [28, 28], antialias=True) for image, _ in part])
        parts.append(Part(1 - images.float() / 255, torch.tensor([label for _, label in part])))
    train, test = parts
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(train.x)))
    source = _last_for_valid(Part(train.x[order], train.y[order]), test, len(order) // 10, "28 x 28, ink 1, paper 0")
    return source._replace(split="test = evaluation set; valid = a random tenth of the background set")


_NAMED: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "mnist": _mnist_like("mnist"),
    "fashion_mnist": _mnist_like("fashion_mnist"),
    "kmnist": _mnist_like("kmnist"),
    "emnist": _mnist_like("emnist", split="balanced"),
    "omniglot": _omniglot,
    "cifar10": _cifar10,
}
NAMES = tuple(_NAMED)
_CLASSES = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
    "emnist": datasets.EMNIST,
    "omniglot": datasets.Omniglot,
    "cifar10": datasets.CIFAR10,
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
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {name: content[name] for name in content} if path.suffix == ".npz" else {"x": content}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' cannot be read as a NumPy file of numbers: {error}") from error
    # Keras and scikit-learn write x_train and y_train; we also take train and train_labels.
    arrays = {_renamed(name): array for name, array in arrays.items()}
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    if "x" in arrays:
        part, scaling = _part(arrays["x"], arrays.get("y"), path)
        return _random_split(part, scaling)
    if "train" not in arrays or "test" not in arrays:
        raise ValueError(
            f"'{path}' holds {', '.join(arrays)}: name its arrays x (and y), or train and test (and valid, "
            f"train_labels, test_labels, valid_labels)"
        )
    found = {k: _part(arrays[k], arrays.get(f"{k}_labels"), path) for k in ("train", "valid", "test") if k in arrays}
    parts, scaling = {k: part for k, (part, _) in found.items()}, found["train"][1]
    if len({part.x.shape[1:] for part in parts.values()}) > 1:
        raise ValueError(f"the parts of '{path}' differ in shape: { {k: tuple(p.x.shape) for k, p in parts.items()} }")
    if "valid" in parts:
        return Source((parts["train"], parts["valid"], parts["test"]), "the file's own", scaling)
    n = len(parts["train"].x) // 10
    if n == 0:
        raise ValueError(f"'{path}' has {len(parts['train'].x)} training data: give at least 10, or an array valid")
    return _last_for_valid(parts["train"], parts["test"], n, scaling)


def _renamed(name: str) -> str:
    """x_train is train, y_train is train_labels, and so on."""
    kind, _, part = name.partition("_")
    part = {"val": "valid"}.get(part, part)
    return {"x": part, "y": f"{part}_labels"}.get(kind, name) if part in ("train", "valid", "test") else name


def _part(x: np.ndarray, y: np.ndarray | None, path: Path) -> tuple[Part, str]:
    """Data in floating point, images with their channels first, and how they were scaled."""
    if not np.issubdtype(x.dtype, np.number) or np.issubdtype(x.dtype, np.complexfloating):
        raise ValueError(f"'{path}' holds {x.dtype} where numbers are needed")
    if x.ndim < 2:
        raise ValueError(
            f"'{path}' holds an array of shape {x.shape}: the first dimension counts data, give at least two"
        )
    if y is not None and (y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer)):
        raise ValueError(f"'{path}' holds {len(x)} data but labels {y.dtype} of shape {y.shape}: give one integer each")
    scaled = x.dtype == np.uint8
    data = torch.from_numpy(x.astype(np.float32)) / (255 if scaled else 1)
    if data.dim() == 3:  # (N, H, W)
        data = data.unsqueeze(1)
    elif data.dim() == 4 and data.shape[-1] in (1, 3) and data.shape[1] not in (1, 3):  # (N, H, W, C)
        data = data.permute(0, 3, 1, 2).contiguous()
    labels = None if y is None else torch.from_numpy(y.astype(np.int64))
    return Part(data, labels), "divided by 255" if scaled else "none"


def _image_folder(path: Path) -> Source:
    """A folder of images, or of one folder of images for each class; all of one size."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in datasets.folder.IMG_EXTENSIONS)
    if not files:
        raise ValueError(f"no images under '{path}' ({', '.join(datasets.folder.IMG_EXTENSIONS)})")
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                images.append(pil_to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"'{file}' cannot be read as an image: {error}") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"'{file}' has shape {tuple(images[-1].shape)} but '{files[0]}' has {tuple(images[0].shape)}: all "
                f"images must be of one size and colour mode"
            )
    classes = sorted({file.parent for file in files})
    labels = torch.tensor([classes.index(file.parent) for file in files]) if len(classes) > 1 else None
    return _random_split(Part(torch.stack(images).float() / 255, labels), "divided by 255")
