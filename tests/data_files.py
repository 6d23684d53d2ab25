"""Small files of data in the formats of real ones, and what to compare with."""

import hashlib
import struct

import numpy as np
import torch

from pyrovae import data

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
PARTS = ("train", "valid", "test")
IDX = {  # for each part the files of images and of labels
    "mnist": ("MNIST/raw/train-{}-ubyte", "MNIST/raw/t10k-{}-ubyte"),
    "fashion_mnist": ("FashionMNIST/raw/train-{}-ubyte", "FashionMNIST/raw/t10k-{}-ubyte"),
    "kmnist": ("KMNIST/raw/train-{}-ubyte", "KMNIST/raw/t10k-{}-ubyte"),
    "emnist": ("EMNIST/raw/emnist-balanced-train-{}-ubyte", "EMNIST/raw/emnist-balanced-test-{}-ubyte"),
}


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array=None, **arrays):
    """A .npy file of one array, or a .npz file of named arrays; its path."""
    if arrays:
        np.savez(path, **arrays)
    else:
        np.save(path, array, allow_pickle=True)
    return str(path)


def in_parts(dataset):
    return [getattr(dataset, part) for part in PARTS]


def equal(x, expected):
    return x.dtype == torch.float32 and x.shape == expected.shape and np.allclose(x, expected, rtol=1e-6, atol=0)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_idx_set(root, name, train=20, test=4):
    """Images and labels of both parts, as written to files in the set's format."""
    content = []
    for file, n in zip(IDX[name], (train, test), strict=True):
        images, labels = pixels(n, 28, 28, seed=n), (np.arange(n) % 10).astype(np.uint8)
        write_idx(root / file.format("images-idx3"), images)
        write_idx(root / file.format("labels-idx1"), labels)
        content.append((images, labels))
    return content


def sha256(dataset):
    digest = hashlib.sha256()
    for x in in_parts(dataset):
        digest.update(repr(tuple(x.shape)).encode())
        digest.update(np.array(x.tolist(), np.float32).tobytes())
    return digest.hexdigest()[:16]


def write_few_digits(path):
    """600 digits to train on and 30 to validate and test on each, with their classes."""
    digits = data.load("digits")
    parts = {"train": digits.train[:600], "valid": digits.valid[:30], "test": digits.test[:30]}
    classes = {f"{name}_labels": getattr(digits.labels, name)[: len(x)] for name, x in parts.items()}
    np.savez(path, **{name: t.numpy() for name, t in (parts | classes).items()})
