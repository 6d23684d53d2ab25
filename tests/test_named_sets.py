import hashlib
import itertools
import os
import pickle
import re
import struct
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
from data_files import IDX, equal, in_parts, pixels, sha256, write_idx, write_idx_set
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from pyrovae import data

pytestmark = pytest.mark.usefixtures("no_network", "opened")

# Named sets -----------------------------------------------------------------------------------------------------------


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
    drawn_here = {"digits", "shapes", "swiss_roll"}
    assert set(data.NAMES) == drawn_here | {"mnist", "fashion_mnist", "kmnist", "emnist", "omniglot", "cifar10"}


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
