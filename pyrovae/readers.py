"""Readers of files from anywhere: what is damaged, hostile or larger than memory is refused in one sentence.

What a file claims of its size is compared with what there is, before memory is taken for it. Decoders of others raise
anything on bytes that nobody meant for them, so that around them alone every exception is a refusal.
"""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

__all__ = ["array_on_disk", "arrays", "images", "last_line", "table", "told"]

_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # and none that starts a program, as EPS does
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name, or the one of a `.npy` file as x.

    Args:
        path: the file.

    Raises:
        ValueError: if it holds anything else, or claims more than it holds or than memory takes.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return {"x": _array(file, path.stat().st_size)}
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _require_memory(sum(member.file_size for member in members))
                found = {}
                for member in members:
                    with archive.open(member) as content:
                        found[member.filename.removesuffix(".npy")] = _array(content, member.file_size)
                return found
    except Exception as error:
        raise ValueError(f"'{path}' cannot be read as a NumPy file of numbers: {last_line(error)}") from error


def array_on_disk(path: Path) -> np.ndarray:
    """The array of a `.npy` file, left on disk, `(N, ...)`.

    Args:
        path: the file.

    Raises:
        ValueError: if it holds anything else, or claims more than it holds.
    """
    try:
        with path.open("rb") as file:
            shape, by_columns, dtype = _header(file, path.stat().st_size)
            return np.memmap(file, dtype, "r", file.tell(), shape, "F" if by_columns else "C")
    except Exception as error:
        raise ValueError(f"'{path}' cannot be read as a NumPy file of numbers: {last_line(error)}") from error


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of an open file of so many bytes."""
    shape, _, _ = _header(file, size)
    _require_memory(4 * math.prod(shape))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array of an open file of so many bytes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format, which is not for numbers")
    shape, by_columns, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which are no numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > size:
        raise ValueError(f"an array {dtype} of shape {shape} has {claimed} bytes, but there are {size}")
    return shape, by_columns, dtype


def table(path: Path) -> pd.DataFrame:
    """A `.csv` file's columns, by name where its first line names them.

    Args:
        path: the file.

    Raises:
        ValueError: if it is no table, names but some of its columns, or has rows that are longer.
    """
    try:
        first = pd.read_csv(path, header=None, nrows=2, dtype=str, skipinitialspace=True).iloc[0]
        named = pd.to_numeric(first.dropna(), errors="coerce").isna().any()
        found = pd.read_csv(path, header=0 if named else None, skipinitialspace=True, low_memory=False)
    except Exception as error:
        raise ValueError(f"'{path}' cannot be read as a table of numbers: {last_line(error)}") from error
    if named and first.isna().any():
        raise ValueError(f"'{path}' names some columns in its first line, but not all: name them, or leave them out")
    return found


def images(path: Path) -> tuple[Tensor, list[Path]]:
    """All images under a folder, in the order of their names, bytes `(N, C, H, W)`, and their files.

    Args:
        path: the folder.

    Raises:
        ValueError: if there is none, one cannot be read, has more than 8 bits a pixel, or is unlike the first.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here, as it takes long to import
    from torchvision.transforms.functional import pil_to_tensor

    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS and f.is_file())
    if not files:
        raise ValueError(f"no images under '{path}' ({', '.join(IMG_EXTENSIONS)})")
    found: list[Tensor] = []
    for file in files:
        try:
            with _opened(file) as image:
                mode = "L" if image.mode in ("1", "L") else "RGB"
                shape = (len(mode), image.height, image.width)
                deep = image.mode[0] in "IF" or ";16" in str([tile[3] for tile in image.tile])
                if not deep and (not found or shape == found[0].shape):  # else without taking it apart
                    _require_memory(4 * len(files) * math.prod(shape))
                    found.append(pil_to_tensor(image.convert(mode)))
        except Exception as error:
            raise ValueError(f"'{file}' cannot be read as an image: {last_line(error)}") from error
        if deep:
            raise ValueError(f"'{file}' has more than 8 bits a pixel: save it with 8, or give the data as a .npy file")
        if shape != found[0].shape:
            raise ValueError(
                f"'{file}' has shape {shape} but '{files[0]}' has {tuple(found[0].shape)}: all images must be of one "
                f"size and colour mode"
            )
    return torch.stack(found), files


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """An image file, whose size alone is known yet; one of more pixels than Pillow thinks safe is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about its metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _require_memory(file.stat().st_size)
        # Of a file, Pillow takes memory for as many bytes as a part of it claims.
        with Image.open(io.BytesIO(file.read_bytes()), formats=_FORMATS) as image:
            yield image


def _require_memory(size: int) -> None:
    """Refuse what takes more bytes than this machine has."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if size > has:
        raise ValueError(f"it takes {size / 2**30:.1f} GiB of memory, of which there are {has / 2**30:.1f}")


def told(text: object) -> str:
    """Text of a file for a message: in one line, and cut short."""
    text = str(text)
    return repr(text if len(text) <= 200 else f"{text[:200]}...")[1:-1]


def last_line(error: Exception) -> str:
    """What an error says, or else what it is called."""
    return told((str(error).strip() or type(error).__name__).splitlines()[-1])
