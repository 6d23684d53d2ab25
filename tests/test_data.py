import builtins
import copy
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import struct
import urllib.request
import zipfile
import zlib
from contextlib import suppress
from dataclasses import FrozenInstanceError
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2, norm
from sklearn.datasets import load_digits
from torchvision import datasets

from pyrovae import data
from pyrovae.data import Intensities

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
PARTS = ("train", "valid", "test")
IDX = {  # for each part the files of images and of labels
    "mnist": ("MNIST/raw/train-{}-ubyte", "MNIST/raw/t10k-{}-ubyte"),
    "fashion_mnist": ("FashionMNIST/raw/train-{}-ubyte", "FashionMNIST/raw/t10k-{}-ubyte"),
    "kmnist": ("KMNIST/raw/train-{}-ubyte", "KMNIST/raw/t10k-{}-ubyte"),
    "emnist": ("EMNIST/raw/emnist-balanced-train-{}-ubyte", "EMNIST/raw/emnist-balanced-test-{}-ubyte"),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("the network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """All files that the test opens; closed after it, so that a file left open fails the test of that alone."""
    original, files = io.open, []

    def recording(*args, **kwargs):
        files.append(original(*args, **kwargs))
        return files[-1]

    monkeypatch.setattr(builtins, "open", recording)
    monkeypatch.setattr(io, "open", recording)
    yield files
    for file in files:
        file.close()


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


# Named sets -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", IDX)
def test_idx_files_are_read_and_the_last_sixth_of_train_is_valid(name, tmp_path):
    (images, labels), (test_images, test_labels) = write_idx_set(tmp_path, name)
    if name == "emnist":  # its files hold images transposed
        images, test_images = images.transpose(0, 2, 1), test_images.transpose(0, 2, 1)
    found = data.load(name, root=tmp_path)
    for x, raw in zip(in_parts(found), (images[:17], images[17:], test_images), strict=True):
        assert equal(x, raw[:, None] / np.float32(255))
    for y, raw in zip(found.labels, (labels[:17], labels[17:], test_labels), strict=True):
        assert y.tolist() == raw.tolist()
    assert found.protocol.scaling == "divided by 255"
    assert "the set's own test" in found.protocol.split
    assert "last 3" in found.protocol.split


def test_root_may_be_text_and_is_data_by_default(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "data", "mnist")
    monkeypatch.chdir(tmp_path)
    assert data.load("mnist").protocol == data.load("mnist", root=str(tmp_path / "data")).protocol


def write_cifar10(root, monkeypatch, per_batch, test=3):
    """Rows of 3072 bytes (red, green, blue planes) and labels of both parts, as written in CIFAR-10's format."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    n = 5 * per_batch + test
    rows, labels = pixels(n, 3072), (np.arange(n) % 10).tolist()
    batches = [slice(i * per_batch, (i + 1) * per_batch) for i in range(5)] + [slice(5 * per_batch, n)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    content = {name: {"data": rows[at], "labels": labels[at]} for name, at in zip(names, batches, strict=True)}
    content["batches.meta"] = {"label_names": [f"class {i}" for i in range(10)]}
    for name, entry in content.items():
        (folder / name).write_bytes(pickle.dumps(entry))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in content}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5["batches.meta"]})
    return rows, labels


def test_cifar10_is_read_with_channels_first_and_the_last_5000_of_train_are_valid(tmp_path, monkeypatch):
    rows, labels = write_cifar10(tmp_path, monkeypatch, per_batch=1001)
    found = data.load("cifar10", root=tmp_path)
    for x, y, at in zip(in_parts(found), found.labels, (slice(5), slice(5, 5005), slice(5005, 5008)), strict=True):
        assert equal(x, rows[at].reshape(-1, 3, 32, 32) / np.float32(255))
        assert y.tolist() == labels[at]


def drawing(number):
    """White paper, 105 x 105, with a black block at a place of its own."""
    image = np.full((105, 105), True)
    row, column = divmod(number, 5)
    image[20 * row + 1 : 20 * row + 14, 20 * column + 3 : 20 * column + 18] = False
    return image


def write_omniglot(root, monkeypatch):
    """Drawings of both sets by number, and their characters, written as folders and as the zip files."""
    content = {"images_background": range(12), "images_evaluation": range(12, 20)}
    md5 = {}
    for name, numbers in content.items():
        for i in numbers:
            file = root / "omniglot-py" / name / f"{name} alphabet {i % 2}" / f"character {i % 4}" / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawing(i)).save(file)
        archive = root / "omniglot-py" / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted((root / "omniglot-py" / name).rglob("*.png")):
                zipped.write(file, file.relative_to(archive.parent))
        md5[name] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", md5)


def numbers_of(x):
    """Which drawing each image shows, if it shows one, as Pillow makes it small, with ink 1."""
    small = [Image.fromarray(drawing(i)).convert("L").resize((28, 28), Image.Resampling.BILINEAR) for i in range(20)]
    expected = 1 - np.stack(small) / 255
    errors = np.abs(x.numpy() - expected).max((2, 3))
    assert errors.min(1).max() < 2 / 255
    return errors.argmin(1)


def test_omniglot_is_read_at_28_x_28_with_ink_1_and_a_tenth_of_background_is_valid(tmp_path, monkeypatch):
    write_omniglot(tmp_path, monkeypatch)
    found = data.load("omniglot", root=tmp_path)
    train, valid, test = (numbers_of(x) for x in in_parts(found))
    assert sorted([*train, *valid]) == list(range(12))
    assert len(valid) == 1
    assert sorted(test) == list(range(12, 20))
    labels = torch.cat(found.labels[:2]).tolist()
    pairs = itertools.combinations(zip([*train, *valid], labels, strict=True), 2)
    assert all((i % 4 == j % 4) == (a == b) for (i, a), (j, b) in pairs)


def test_omniglot_does_not_depend_on_the_order_in_which_files_are_listed(tmp_path, monkeypatch):
    write_omniglot(tmp_path, monkeypatch)
    listed, checksums = os.listdir, []
    for backwards in (False, True):
        monkeypatch.setattr(os, "listdir", lambda p, backwards=backwards: sorted(listed(p), reverse=backwards))
        checksums.append(data.load("omniglot", root=tmp_path).protocol.checksum)
    assert checksums[0] == checksums[1]


def test_omniglot_gives_characters_of_the_evaluation_set_labels_of_their_own(tmp_path, monkeypatch):
    write_omniglot(tmp_path, monkeypatch)
    labels = data.load("omniglot", root=tmp_path).labels
    assert not set(labels.train.tolist()) & set(labels.test.tolist())


def test_digits_are_those_of_scikit_learn_each_in_one_part():
    found, raw = data.load("digits", root="nowhere"), load_digits()
    assert [len(x) for x in in_parts(found)] == [1347, 150, 300]
    assert found.train.shape[1:] == (1, 8, 8)
    mine = torch.cat([torch.cat(in_parts(found)).flatten(1) * 16, torch.cat(found.labels)[:, None]], 1)
    theirs = np.concatenate([raw.data, raw.target[:, None]], 1)
    assert sorted(mine.tolist()) == sorted(theirs.tolist())
    assert found.protocol.scaling == "divided by 16"


def shuffled_apart(n, size):
    """What train_test_split does with random_state=0, by NumPy alone: places of the rest and of the part."""
    order = np.random.RandomState(0).permutation(n)
    return order[size:], order[:size]


def test_digits_are_split_as_they_ever_were():
    found, raw = data.load("digits"), load_digits()
    rest, test = shuffled_apart(1797, 300)
    train, valid = (rest[places] for places in shuffled_apart(1497, 150))
    for x, y, places in zip(in_parts(found), found.labels, (train, valid, test), strict=True):
        assert equal(x, raw.images[places, None] / 16)
        assert y.tolist() == raw.target[places].tolist()
    assert found.protocol.checksum == sha256(found) == "00a6b31dad3c837c"


def test_names_lists_what_can_be_loaded_by_name():
    assert set(data.NAMES) == {"digits", "mnist", "fashion_mnist", "kmnist", "emnist", "omniglot", "cifar10"}


# Downloads ------------------------------------------------------------------------------------------------------------


def braces(text):
    """The words that a shell makes of {this,that}."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    return {"".join(words) for words in itertools.product(*parts)}


@pytest.mark.parametrize("name", IDX)
def test_failed_download_names_the_very_files_to_put_under_root(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="network is unreachable") as caught:
        data.load(name, root=tmp_path / "here")
    message = str(caught.value)
    assert f"under '{tmp_path / 'here'}'" in message
    assert "digits, which needs no download" in message
    (files,) = re.findall(r"put (\S+) under", message)
    assert braces(files) == {file.format(kind) for file in IDX[name] for kind in ("images-idx3", "labels-idx1")}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", ["cifar-10-batches-py"]),
        ("omniglot", ["omniglot-py/images_{background,evaluation}.zip", "folders"]),
    ],
)
def test_failed_download_names_the_folders_to_put_under_root(name, files, tmp_path):
    with pytest.raises(FileNotFoundError, match="network is unreachable") as caught:
        data.load(name, root=tmp_path)
    for words in [*files, name, f"under '{tmp_path}'", "digits, which needs no download"]:
        assert words in str(caught.value)


def test_failed_download_without_a_reason_is_told_all_the_same(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(FileNotFoundError, match=r"mnist is not under .* digits"):
        data.load("mnist", root=tmp_path)


def test_some_of_the_files_are_not_enough(tmp_path):
    write_idx_set(tmp_path, "mnist")
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k.*labels-idx1.*digits"):
        data.load("mnist", root=tmp_path)


def test_what_is_not_under_root_is_downloaded_to_it(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "mirror", "mnist")

    def download(url, download_root, filename, md5):
        name = filename.removesuffix(".gz")
        content = (tmp_path / "mirror/MNIST/raw" / name).read_bytes()
        (tmp_path / "root/MNIST/raw" / name).write_bytes(content)

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", download)
    protocol = data.load("mnist", root=tmp_path / "root").protocol
    assert protocol == data.load("mnist", root=tmp_path / "mirror").protocol


# Damaged named sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("kept", [0, 3, 6, 12, -1, -5])
def test_truncated_idx_file_is_called_damaged(kind, kept, tmp_path):
    write_idx_set(tmp_path, "mnist")
    file = tmp_path / IDX["mnist"][0].format(kind)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"mnist under '.*' are damaged .*delete them"):
        data.load("mnist", root=tmp_path)


def test_idx_file_of_another_type_is_called_damaged(tmp_path):
    write_idx_set(tmp_path, "mnist")
    file = tmp_path / IDX["mnist"][0].format("images-idx3")
    file.write_bytes(struct.pack(">HBB3I", 0, 13, 3, 20, 28, 28) + bytes(4 * 20 * 28 * 28))
    with pytest.raises(ValueError, match=r"mnist under '.*' are damaged .*delete them"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("labels", [19, 21])
def test_idx_files_of_unequal_numbers_of_images_and_labels_are_refused(labels, tmp_path, monkeypatch):
    write_idx_set(tmp_path, "mnist")
    write_idx(tmp_path / IDX["mnist"][0].format("labels-idx1"), np.zeros(labels, np.uint8))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"\b{labels}\b.*labels|labels.*\b{labels}\b"):
        data.load("mnist", root=".")


def test_idx_files_without_images_are_refused(tmp_path, monkeypatch):
    write_idx_set(tmp_path, "mnist", train=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"mnist.*(damaged|empty)"):
        data.load("mnist", root=".")


def test_damaged_cifar10_is_not_called_absent(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch, per_batch=2)
    file = tmp_path / "cifar-10-batches-py/data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"damaged|incomplete|corrupt"):
        data.load("cifar10", root=".")


def test_omniglot_zip_files_alone_are_to_be_unpacked(tmp_path, monkeypatch):
    write_omniglot(tmp_path, monkeypatch)
    for file in (tmp_path / "omniglot-py").rglob("*.png"):
        file.unlink()
    for folder in sorted((p for p in (tmp_path / "omniglot-py").rglob("*") if p.is_dir()), reverse=True):
        folder.rmdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"unpack"):
        data.load("omniglot", root=".")


# Files of arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 13, 17, 24, 100, 1001])
def test_random_split_takes_each_datum_once_a_sixth_for_test_and_a_twelfth_for_valid(n, tmp_path):
    found = data.load(save(tmp_path / "x.npy", np.arange(2.0 * n).reshape(n, 2)))
    assert sorted(torch.cat(in_parts(found))[:, 0].tolist()) == list(range(0, 2 * n, 2))
    assert abs(len(found.test) - n / 6) <= 0.5
    assert abs(len(found.valid) - n / 12) <= 0.5
    assert "random" in found.protocol.split


def test_random_split_is_not_in_the_file_order(tmp_path):
    found = data.load(save(tmp_path / "x.npy", np.arange(600.0)[:, None]))
    assert abs(found.test.mean() - 299.5) < 4 * 600 / 12**0.5 / 100**0.5
    assert (found.train[1:] < found.train[:-1]).any()


@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic"])
def test_split_does_not_depend_on_the_seed_or_on_binarization(binarize, tmp_path):
    path = save(tmp_path / "x.npz", x=pixels(60, 5, 5), y=np.arange(60))
    splits = [data.load(path, binarize, seed=seed).labels for seed in (0, 1)] + [data.load(path).labels]
    for labels in splits[1:]:
        assert all(torch.equal(a, b) for a, b in zip(labels, splits[0], strict=True))


@pytest.mark.parametrize(
    ("array", "expected", "scaling"),
    [
        (pixels(20, 6), pixels(20, 6) / np.float32(255), "divided by 255"),
        (pixels(20, 6).astype(np.int64), pixels(20, 6), "none"),
        (pixels(20, 6).astype(np.uint16), pixels(20, 6), "none"),
        (pixels(20, 6).astype(np.float64) - 100.5, pixels(20, 6) - 100.5, "none"),
        (pixels(20, 6).astype(np.float16), pixels(20, 6), "none"),
        (pixels(20, 6).astype(">f4"), pixels(20, 6), "none"),
    ],
)
def test_bytes_are_divided_by_255_and_other_numbers_are_kept(array, expected, scaling, tmp_path):
    found = data.load(save(tmp_path / "x.npz", train=array, valid=array[:5], test=array[5:9]))
    for x, raw in zip(in_parts(found), (expected, expected[:5], expected[5:9]), strict=True):
        assert equal(x, raw)
    assert found.protocol.scaling == scaling


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 5), None),  # (N, D)
        ((20, 5, 7), "n1hw"),  # (N, H, W)
        ((20, 1, 5, 7), None),  # (N, C, H, W)
        ((20, 3, 5, 7), None),
        ((20, 5, 7, 1), (0, 3, 1, 2)),  # (N, H, W, C)
        ((20, 5, 7, 3), (0, 3, 1, 2)),
        ((20, 2, 3, 4, 5), None),
    ],
)
def test_images_get_their_channels_first(shape, axes, tmp_path):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = array[:, None] if axes == "n1hw" else array if axes is None else array.transpose(axes)
    found = data.load(save(tmp_path / "x.npz", train=array, valid=array[:5], test=array[5:7]))
    for x, raw in zip(in_parts(found), (expected, expected[:5], expected[5:7]), strict=True):
        assert equal(x, raw)
    assert found.protocol.shape == expected.shape[1:]


def test_single_array_is_the_data_whatever_its_name(tmp_path):
    x = pixels(30, 4)
    protocols = [data.load(save(tmp_path / "a.npz", **{name: x})).protocol for name in ("x", "images")]
    protocols.append(data.load(save(tmp_path / "a.npy", x)).protocol)
    assert len({protocol.checksum for protocol in protocols}) == 1


def test_labels_stay_with_their_data(tmp_path):
    found = data.load(save(tmp_path / "x.npz", x=10.0 * np.arange(50)[:, None], y=np.arange(50, dtype=np.uint8)))
    for x, y in zip(in_parts(found), found.labels, strict=True):
        assert y.dtype == torch.int64
        assert (x[:, 0] == 10 * y).all()


def test_data_without_labels_have_none(tmp_path):
    assert data.load(save(tmp_path / "x.npy", pixels(30, 4))).labels is None


@pytest.mark.parametrize("keras", [False, True])
@pytest.mark.parametrize("valid", [False, True])
def test_own_split_is_kept_under_our_names_and_under_those_of_keras(keras, valid, tmp_path):
    train, own_valid, test = pixels(40, 5, 5), pixels(7, 5, 5, seed=1), pixels(6, 5, 5, seed=2)
    names = ("x_train", "y_train", "x_test", "y_test") if keras else ("train", "train_labels", "test", "test_labels")
    arrays = dict(zip(names, (train, np.arange(40), test, np.arange(6)), strict=True))
    if valid:
        names = ("x_val", "y_val") if keras else ("valid", "valid_labels")
        arrays |= dict(zip(names, (own_valid, np.arange(7)), strict=True))
    found = data.load(save(tmp_path / "x.npz", **arrays))
    expected = (train, own_valid, test) if valid else (train[:36], train[36:], test)
    labels = (np.arange(40), np.arange(7), np.arange(6)) if valid else (np.arange(36), np.arange(36, 40), np.arange(6))
    for x, raw, y, raw_y in zip(in_parts(found), expected, found.labels, labels, strict=True):
        assert equal(x, raw[:, None] / np.float32(255))
        assert y.tolist() == raw_y.tolist()
    assert "own" in found.protocol.split
    assert ("last 4" in found.protocol.split) is not valid


def test_validation_data_named_val_are_taken_as_such(tmp_path):
    arrays = {"train": np.zeros((40, 3)), "val": np.ones((7, 3)), "test": np.zeros((6, 3))}
    assert equal(data.load(save(tmp_path / "x.npz", **arrays)).valid, np.ones((7, 3)))


def test_parts_on_different_scales_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save("x.npz", train=pixels(40, 6), test=pixels(8, 6).astype(np.int64))
    with pytest.raises(ValueError, match=r"uint8.*int64|scale"):
        data.load(path)


def test_bytes_that_are_already_binary_stay_binary(tmp_path):
    found = data.load(save(tmp_path / "x.npy", pixels(40, 6) // 128), binarize="threshold")
    assert found.train.unique().tolist() == [0, 1]


# Refusals of files of arrays ------------------------------------------------------------------------------------------


def with_value(value, *shape):
    x = np.full(shape, 0.5)
    x[3, -1] = value
    return x


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((0, 4)), "0 data are too few .* at least 12"),
        (np.zeros((11, 4)), "11 data are too few .* at least 12"),
        (np.zeros((20, 0)), r"x\.npy \(train\) is empty: shape \(15, 0\)"),
        (np.zeros(20), r"shape \(20,\): the first dimension counts data, give at least two"),
        (np.float64(3), r"shape \(\): the first dimension counts data, give at least two"),
        (with_value(np.nan, 20, 4), r"x\.npy \(\w+\) holds NaN or infinity, first in datum \d+: remove or impute it"),
        (with_value(-np.inf, 20, 4), r"x\.npy \(\w+\) holds NaN or infinity, first in datum \d+: remove or impute it"),
        (np.full((20, 4), "text"), "holds <U4 where numbers are needed"),
        (np.zeros((20, 4), complex), "holds complex128 where numbers are needed"),
        (np.zeros(20, [("a", "f4"), ("b", "f4")]), "where numbers are needed"),
    ],
)
def test_array_that_cannot_be_used_is_refused(array, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        data.load(save(tmp_path / "x.npy", array))


@pytest.mark.parametrize("part", PARTS)
def test_nan_is_found_in_its_part_and_datum(part, tmp_path):
    arrays = {name: np.zeros((12, 2, 2)) for name in PARTS}
    arrays[part][7:, 1, 0] = np.nan
    with pytest.raises(ValueError, match=rf"\({part}\) holds NaN or infinity, first in datum 7:"):
        data.load(save(tmp_path / "x.npz", **arrays))


X = np.zeros((20, 4))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": X, "b": X}, "holds a, b: name its arrays x .*train and test"),
        ({"train": X, "valid": X}, "holds train, valid: name its arrays x .*train and test"),
        ({"x": X, "y": np.zeros(19, int)}, r"20 data but labels int64 of shape \(19,\): give one integer each"),
        ({"x": X, "y": np.zeros((20, 1), int)}, r"labels int64 of shape \(20, 1\): give one integer each"),
        ({"x": X, "y": np.zeros(20)}, "labels float64 .* give one integer each"),
        ({"train": X, "test": np.zeros((20, 5))}, r"differ in shape: .*\(20, 4\).*\(20, 5\)"),
        ({"train": X, "test": X, "valid": np.zeros((20, 2, 2))}, "differ in shape"),
        ({"train": X[:9], "test": X}, "9 training data: give at least 10, or an array valid"),
        ({"train": X, "test": X[:0]}, r"\(test\) is empty: shape \(0, 4\)"),
        ({"train": X, "valid": X[:0], "test": X}, r"\(valid\) is empty: shape \(0, 4\)"),
        ({"train": X, "test": np.full((20, 4), "a")}, "where numbers are needed"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(arrays, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence) as caught:
        data.load(save(tmp_path / "x.npz", **arrays))
    assert "x.npz" in str(caught.value)


def file_bytes(write, *args, **kwargs):
    buffer = io.BytesIO()
    write(buffer, *args, **kwargs)
    return buffer.getvalue()


NPY, NPZ = file_bytes(np.save, pixels(20, 40)), file_bytes(np.savez, x=pixels(20, 40))
COMPRESSED = file_bytes(np.savez_compressed, x=pixels(20, 40) // 64)


def overwritten(content, at, new):
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", b""),
        ("x.npy", b"1, 2, 3\n4, 5, 6\n"),
        ("x.npy", NPY[:60]),
        ("x.npy", NPY[:-1]),
        ("x.npy", NPY.replace(b"}", b" ", 1)),
        ("x.npz", b""),
        ("x.npz", b"1, 2, 3\n4, 5, 6\n"),
        ("x.npz", NPZ[:100]),
        ("x.npz", NPZ[: len(NPZ) // 2]),
        ("x.npz", NPZ[:-1]),
        ("x.npz", overwritten(NPZ, 400, bytes([NPZ[400] ^ 1]))),
        ("x.npz", overwritten(COMPRESSED, 40, b"\xff" * 20)),
    ],
    ids=[
        "npy-empty",
        "npy-text",
        "npy-half-header",
        "npy-cut",
        "npy-bad-header",
        "npz-empty",
        "npz-text",
        "npz-quarter",
        "npz-half",
        "npz-cut",
        "npz-bit-flipped",
        "npz-deflate-damaged",
    ],
)
def test_damaged_file_is_refused_by_its_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}' cannot be read as a NumPy file"):
        data.load(str(tmp_path / name))


def test_damaged_stream_is_one_that_zlib_refuses():  # so the case above shows what it says
    with zipfile.ZipFile(io.BytesIO(overwritten(COMPRESSED, 40, b"\xff" * 20))) as file, pytest.raises(zlib.error):
        file.read("x.npy")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickled_objects_are_refused_and_not_run(name, tmp_path):
    objects = np.array([Malicious(tmp_path / "made")] * 20, dtype=object)
    path = save(tmp_path / name, objects) if name == "x.npy" else save(tmp_path / name, x=objects)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as a NumPy file of numbers: Object arrays"):
        data.load(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [NPY, NPZ, NPY[:-1], NPZ[:-1], file_bytes(np.savez, a=X, b=X), file_bytes(np.savez, x=X[:5])],
    ids=["npy", "npz", "npy-cut", "npz-cut", "npz-names", "npz-too-few"],
)
def test_file_is_closed_after_use_and_after_refusal(content, tmp_path, opened):
    file = tmp_path / ("x.npz" if content.startswith(b"PK") else "x.npy")
    file.write_bytes(content)
    refusal = None
    try:
        data.load(str(file))
    except ValueError as error:
        refusal = error  # whose traceback keeps what was open
    assert (refusal is None) == (content in (NPY, NPZ))
    assert str(file) in [os.fspath(file.name) for file in opened]
    assert all(file.closed for file in opened)


# Folders of images ----------------------------------------------------------------------------------------------------


def write_images(folder, arrays, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:02}.{ending}")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("ending", ["png", "bmp", "TIFF"])
def test_flat_folder_gives_all_its_images_without_labels(shape, ending, tmp_path):
    images = pixels(20, *shape)
    write_images(tmp_path, images, ending)
    (tmp_path / "notes.txt").write_text("no image")
    found = data.load(str(tmp_path))
    expected = (images[..., None] if len(shape) == 2 else images).transpose(0, 3, 1, 2) / np.float32(255)
    assert found.labels is None
    assert found.protocol.shape == expected.shape[1:]
    assert found.protocol.scaling == "divided by 255"
    rows = torch.cat(in_parts(found)).flatten(1)
    np.testing.assert_allclose(sorted(rows.tolist()), sorted(expected.reshape(20, -1).tolist()), rtol=1e-6)


def test_folder_of_classes_labels_images_by_the_order_of_class_names(tmp_path):
    classes = ["ant", "bee", "cat"]
    for i in (2, 0, 1):
        write_images(tmp_path / classes[i], np.full((8, 4, 4), 50 * i, np.uint8))
    found = data.load(str(tmp_path))
    for x, y in zip(in_parts(found), found.labels, strict=True):
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), 50 * y)
    assert torch.cat(found.labels).bincount().tolist() == [8, 8, 8]


def test_black_and_white_images_have_one_channel(tmp_path):
    write_images(tmp_path, pixels(12, 5, 5) > 127)
    found = data.load(str(tmp_path))
    assert found.train.shape[1:] == (1, 5, 5)
    assert found.train.unique().tolist() == [0, 1]


def test_sixteen_bit_images_are_scaled_or_refused_but_not_cut_off(tmp_path):
    write_images(tmp_path, np.full((12, 5, 5), 32768, np.uint16))
    with suppress(ValueError):
        np.testing.assert_allclose(data.load(str(tmp_path)).train, 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("array", "shape"), [(pixels(5, 6), "(1, 5, 6)"), (pixels(6, 5), "(1, 6, 5)"), (pixels(5, 5, 3), "(3, 5, 5)")]
)
def test_images_of_different_sizes_or_modes_are_refused(array, shape, tmp_path):
    write_images(tmp_path, pixels(12, 5, 5))
    Image.fromarray(array).save(tmp_path / "07.png")
    sentence = rf"07\.png' has shape {re.escape(shape)} but '.*00\.png' has \(1, 5, 5\): all images must be of one size"
    with pytest.raises(ValueError, match=sentence):
        data.load(str(tmp_path))


PNG = file_bytes(Image.fromarray(pixels(16, 16)).save, format="png")


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", PNG[:10], PNG[: len(PNG) // 2], overwritten(PNG, 60, b"\xff" * 40), overwritten(PNG, 11, b"\5")],
    ids=["empty", "text", "start", "half", "overwritten", "short-header"],
)
def test_unreadable_image_is_refused_by_its_name(content, tmp_path):
    write_images(tmp_path, pixels(12, 16, 16))
    (tmp_path / "03.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"03\.png' cannot be read as an image"):
        data.load(str(tmp_path))


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no images under '.*' \(\.jpg, .*\.png"):
        data.load(str(tmp_path))


def test_folder_of_too_few_images_is_refused(tmp_path):
    write_images(tmp_path, pixels(11, 4, 4))
    with pytest.raises(ValueError, match=r"11 data are too few .* at least 12"):
        data.load(str(tmp_path))


# Names and paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnsit", "table.csv", "no/such/folder"])
def test_unknown_name_is_refused_with_all_names_and_kinds_of_paths(name):
    with pytest.raises(ValueError, match=f"no data set '{name}'") as caught:
        data.load(name)
    for word in (*data.NAMES, ".npz", ".npy", "folder"):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_missing_file_is_named(name, tmp_path):
    path = str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{path}'")):
        data.load(path)


# Binarization ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def grey(tmp_path):
    """A file of 600 images whose 64 pixels have the intensities 0, 1/63, ..., 1, which stay recognisable."""
    return save(tmp_path / "grey.npy", np.tile(np.linspace(0, 1, 64).reshape(8, 8), (600, 1, 1)))


def test_without_binarization_data_are_as_they_are(grey):
    found = data.load(grey)
    for x in in_parts(found):
        assert equal(x, np.tile(np.linspace(0, 1, 64).astype("f4").reshape(1, 8, 8), (len(x), 1, 1, 1)))
        assert type(x) is torch.Tensor


def test_threshold_is_whether_more_than_a_half(tmp_path):
    row = np.array([0, 0.25, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.75, 1], np.float32)
    found = data.load(save(tmp_path / "x.npy", np.tile(row, (24, 1))), binarize="threshold")
    for x in in_parts(found):
        assert equal(x, np.tile([0, 0, 0, 1, 1, 1], (len(x), 1)))


def drawn_with_right_means(x, p):
    """Chi-square test that data of n rows are Bernoulli draws with means p."""
    p, n = p.flatten(), len(x)
    inner = (p > 0) & (p < 1)
    means = x.flatten(1).double().mean(0).numpy()
    statistic = ((means - p) ** 2 / (p * (1 - p) / n).clip(1e-12))[inner].sum()
    return (
        set(x.unique().tolist()) == {0, 1}
        and (means[~inner] == p[~inner]).all()
        and LEVEL < chi2.sf(statistic, inner.sum()) < 1 - LEVEL
    )


@pytest.mark.parametrize(("binarize", "part"), [("static", p) for p in PARTS] + [("dynamic", p) for p in PARTS[1:]])
def test_draws_have_the_intensities_as_means(binarize, part, grey):
    x = getattr(data.load(grey, binarize), part)
    assert type(x) is torch.Tensor
    assert drawn_with_right_means(x, np.linspace(0, 1, 64))


def test_draws_of_data_are_independent(grey):
    x = data.load(grey, "static").train.flatten(1)[:, 1:-1].double()
    z = (x - x.mean(0)) / x.std(0)
    pairs = z.shape[0] // 2
    along_data = (z[0 : 2 * pairs : 2] * z[1 : 2 * pairs : 2]).sum().item() / (pairs * z.shape[1]) ** 0.5
    along_pixels = (z[:, 0::2] * z[:, 1::2]).sum().item() / (len(z) * z.shape[1] / 2) ** 0.5
    for score in (along_data, along_pixels):
        assert 2 * norm.sf(abs(score)) > LEVEL


def test_dynamic_training_data_stay_intensities(grey):
    found = data.load(grey, "dynamic")
    assert isinstance(found.train, Intensities)
    assert torch.equal(found.train, data.load(grey).train)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_draws_follow_from_the_seed_alone(binarize, grey):
    first = data.load(grey, binarize, seed=3)
    torch.manual_seed(99)
    again, other = data.load(grey, binarize, seed=3), data.load(grey, binarize, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(in_parts(first), in_parts(again), strict=True))
    assert not torch.equal(first.valid, other.valid)
    assert not torch.equal(first.test, other.test)
    assert torch.equal(first.train, other.train) == (binarize == "dynamic")


@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic"])
def test_loading_leaves_random_states_alone(binarize, grey):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data.load(grey, binarize)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002


@pytest.mark.parametrize("binarize", ["threshold", "static", "dynamic"])
@pytest.mark.parametrize(("values", "named"), [((-0.5, 1), "-0.5 to 1"), ((0, 16), "0 to 16"), ((0, 1.001), "1.001")])
def test_values_outside_0_and_1_are_not_binarized(binarize, values, named, tmp_path):
    path = save(tmp_path / "x.npy", np.tile(np.array(values, float), (20, 1)))
    with pytest.raises(ValueError, match=re.escape(named)) as caught:
        data.load(path, binarize)
    for words in (f"binarize='{binarize}'", "[0, 1]", "rescale", "binarize='none'"):
        assert words in str(caught.value)
    assert data.load(path).train.max() == np.float32(values[1])


def test_unknown_binarization_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="binarize is one of none, threshold, static, dynamic, not 'stochastic'"):
        data.load("digits", binarize="stochastic")


# Protocol -------------------------------------------------------------------------------------------------------------


def sha256(dataset):
    digest = hashlib.sha256()
    for x in in_parts(dataset):
        digest.update(repr(tuple(x.shape)).encode())
        digest.update(np.array(x.tolist(), np.float32).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic"])
def test_protocol_tells_all_that_numbers_depend_on(binarize, tmp_path):
    path = save(tmp_path / "x.npz", x=pixels(60, 5, 7))
    found = data.load(path, binarize, seed=5)
    fields = found.protocol.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert "random_state=0" in fields.pop("split")
    assert fields == {
        "data": path,
        "train_size": 45,
        "valid_size": 5,
        "test_size": 10,
        "shape": [1, 5, 7],
        "scaling": "divided by 255",
        "binarize": binarize,
        "binarize_seed": 5 if binarize in ("static", "dynamic") else None,
        "checksum": sha256(found),
    }


def test_protocol_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        data.load("digits").protocol.data = "mnist"


@pytest.mark.parametrize("part", PARTS)
def test_checksum_tells_a_pixel(part, tmp_path):
    arrays = {name: pixels(12, 5, 5) for name in PARTS}
    before = data.load(save(tmp_path / "x.npz", **arrays)).protocol.checksum
    arrays[part][11, 4, 4] ^= 1
    assert data.load(save(tmp_path / "x.npz", **arrays)).protocol.checksum != before


def test_checksum_tells_shape_and_draws_apart(tmp_path):
    x = pixels(24, 4, 6)
    checksums = [data.load(save(tmp_path / "x.npy", x.reshape(24, *s))).protocol.checksum for s in ((4, 6), (6, 4))]
    checksums += [data.load(str(tmp_path / "x.npy"), "static", seed=seed).protocol.checksum for seed in (0, 1)]
    assert len(set(checksums)) == 4
    assert data.load(str(tmp_path / "x.npy"), "static", seed=1).protocol.checksum == checksums[-1]


# Intensities ----------------------------------------------------------------------------------------------------------


def intensities():
    return Intensities(torch.linspace(0, 1, 12).reshape(4, 3))


@pytest.mark.parametrize(
    "get",
    [
        lambda x: x[1],
        lambda x: x[1:],
        lambda x: x[torch.tensor([2, 0])],
        lambda x: x[x.sum(1) > 1],
        lambda x: x.to("cpu"),
        lambda x: x.to(torch.float64),
        lambda x: x.to("meta"),
        lambda x: x.clone(),
        lambda x: x.float(),
        lambda x: x.double(),
    ],
    ids=["index", "slice", "indices", "mask", "device", "dtype", "meta", "clone", "float", "double"],
)
def test_indexing_and_moving_intensities_gives_intensities(get):
    x = intensities()
    plain, got = get(x.as_subclass(torch.Tensor)), get(x)
    assert type(got) is Intensities
    assert got.shape == plain.shape
    assert got.dtype == plain.dtype
    assert got.is_meta or torch.equal(got, plain)


@pytest.mark.parametrize("move", ["to", "cpu", "cuda"])
def test_moving_to_any_device_gives_intensities(move, monkeypatch):
    # What torch calls for a subclass, as if the data came from another device, where a move makes another tensor.
    monkeypatch.setattr(torch.Tensor, move, lambda x: x.as_subclass(torch.Tensor).clone())
    got = Intensities.__torch_function__(getattr(torch.Tensor, move), (Intensities,), (intensities(),))
    assert type(got) is Intensities


@pytest.mark.parametrize(
    "operate",
    [
        lambda x: x + 0,
        lambda x: x > 0.5,
        lambda x: x.mean(),
        lambda x: x.T,
        lambda x: x.flatten(),
        lambda x: x.round(),
        lambda x: 1 - x,
        lambda x: x.detach(),
        lambda x: torch.bernoulli(x),
        lambda x: torch.stack([x, x]),
        lambda x: torch.cat([x, x]),
        lambda x: x.to(torch.int64),
        lambda x: x.split(2)[0],
    ],
    ids=[
        "add",
        "compare",
        "mean",
        "transpose",
        "flatten",
        "round",
        "subtract",
        "detach",
        "bernoulli",
        "stack",
        "cat",
        "integers",
        "split",
    ],
)
def test_other_operations_on_intensities_give_plain_tensors(operate):
    assert type(operate(intensities())) is torch.Tensor


def test_intensities_are_copied_and_pickled_as_such():
    x = intensities()
    for y in (pickle.loads(pickle.dumps(x)), torch.load(_saved(x), weights_only=False)):
        assert type(y) is Intensities
        assert torch.equal(x, y)


def _saved(x):
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return buffer


def test_intensities_can_be_deep_copied():
    x = intensities()
    y = copy.deepcopy(x)
    assert type(y) is Intensities
    assert torch.equal(x, y)
    assert x.data_ptr() != y.data_ptr()


@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan"), float("inf")])
def test_values_outside_0_and_1_are_no_intensities(value):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Intensities(torch.tensor([0.5, value]))


def test_refusal_of_values_that_are_no_intensities_names_them():
    with pytest.raises(ValueError, match=r"-0\.25.*1\.5"):
        Intensities(torch.tensor([0.5, -0.25, 1.5]))


def test_integers_are_no_intensities_and_are_not_called_outside():
    with pytest.raises(ValueError, match=r"floating point.*uint8") as caught:
        Intensities(torch.tensor([0, 1], dtype=torch.uint8))
    assert "outside" not in str(caught.value)
