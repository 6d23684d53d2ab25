import io
import os
import re
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from data_files import PARTS, equal, in_parts, pixels, save
from PIL import Image

from pyrovae import data

pytestmark = pytest.mark.usefixtures("no_network", "opened")

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
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as a NumPy file of numbers: it holds objects"):
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


@pytest.mark.parametrize("name", ["mnsit", "table.txt", "no/such/folder"])
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
