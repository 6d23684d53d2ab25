"""Tables of numbers, counts, and sequences with an index."""

from functools import partial

import numpy as np
import pytest
import torch
from data_files import PARTS, equal, in_parts, pixels, save

from pyrovae import data, likelihoods, runs

pytestmark = pytest.mark.usefixtures("no_network", "opened")

ROWS = [[i, -i / 4, 1000 * i] for i in range(24)]  # exact in float32


def write(path, rows, header=None):
    lines = [header] * (header is not None) + [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def table(tmp_path):
    return lambda rows, header=None: write(tmp_path / "x.csv", rows, header)


@pytest.mark.parametrize("header", [None, "a,b,c", '"first, with a comma",2,b c', "1,2,c"])
def test_a_table_is_data_as_an_array_of_its_numbers_is(header, table, tmp_path):
    found = data.load(table(ROWS, header))
    array = data.load(save(tmp_path / "x.npy", np.array(ROWS)))
    assert found.labels is None
    assert all(torch.equal(a, b) for a, b in zip(in_parts(found), in_parts(array), strict=True))
    assert found.train.dtype == torch.float32
    same = ("split", "shape", "scaling", "levels", "checksum", "raw_checksum")
    assert all(getattr(found.protocol, name) == getattr(array.protocol, name) for name in same)
    assert (found.protocol.scaling, found.protocol.levels, found.protocol.data) == ("none", None, "x.csv")


@pytest.mark.parametrize("column", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["y", "label", "class"])
@pytest.mark.parametrize("names", [["0", "1", "2"], ["dog", "ant", "cat"]])
def test_a_column_of_labels_is_known_by_its_name(names, name, column, table):
    rows = [[i, i / 2, i * i] for i in range(24)]
    for row in rows:
        row.insert(column, names[row[0] % 3])
    header = ["a", "b", "c"]
    header.insert(column, name)
    found = data.load(table(rows, ",".join(header)))
    for x, y in zip(in_parts(found), found.labels, strict=True):
        assert x.shape[1:] == (3,)
        assert torch.equal(x[:, 2], x[:, 0] ** 2)
        assert y.dtype == torch.int64
        assert [sorted(names)[k] for k in y] == [names[int(i) % 3] for i in x[:, 0]]


def test_a_column_of_another_name_is_data(table):
    assert data.load(table(ROWS, "Yes,classes,b")).train.shape[1:] == (3,)


def with_field(value, row=7, column=1):
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (with_field("x"), "a,b,c", r"x\.csv' holds 'x' in column b of datum 7, where a number is needed"),
        (with_field("1.2.3"), None, "holds '1.2.3' in column 1 of datum 7, where a number is needed"),
        (with_field(""), "a,b,c", r"x\.csv' has no value in column b of datum 7: remove or impute it"),
        (with_field("NA"), None, "has no value in column 1 of datum 7"),
        (with_field("", row=0), None, "has no value in column 1 of datum 0"),
        (with_field("inf"), None, "holds NaN or infinity, first in datum"),
        ([*ROWS[:5], [1, 2], *ROWS], "a,b,c", "has no value in column c of datum 5"),
        ([*ROWS[:5], [1, 2, 3, 4], *ROWS], "a,b,c", r"x\.csv' cannot be read as a table of numbers: .*line 7"),
        (ROWS, "a,b", "Expected 2 fields in line 2, saw 3"),
        (ROWS, "a,,c", "names some columns in its first line, but not all"),
        (ROWS, "y,a,label", "has columns y and label: labels are in one of them alone"),
        ([[i + 0.5, i] for i in range(24)], "y,a", r"labels float64 of shape \(24,\): give one integer each"),
        ([[i] for i in range(24)], "y", "is empty"),
        (ROWS[:11], None, "11 data are too few"),
        ([], "", "cannot be read as a table of numbers: No columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(rows, header, words, table):
    with pytest.raises(ValueError, match=words) as caught:
        data.load(table(rows, header))
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_no_table(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(ValueError, match=r"x\.csv' cannot be read as a table of numbers"):
        data.load(str(tmp_path / "x.csv"))
    with pytest.raises(FileNotFoundError, match=r"no file '.*none\.csv'"):
        data.load(str(tmp_path / "none.csv"))


# Counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.float64])
def test_counts_are_kept_as_they_are(dtype, tmp_path):
    counts = np.random.default_rng(0).poisson(3, (30, 50)).astype(dtype)
    found = data.load(save(tmp_path / "x.npz", train=counts, valid=counts[:9], test=counts[9:]))
    for x, raw in zip(in_parts(found), (counts, counts[:9], counts[9:]), strict=True):
        assert equal(x, raw)
    assert (found.protocol.scaling, found.protocol.levels) == ("none", None)


def test_classes_without_their_step_are_refused_with_the_remedy(tmp_path):
    x = np.random.default_rng(0).integers(0, 4, (40, 3))
    build = partial(runs.build, save(tmp_path / "x.npz", x=x), latent_dim=2, device="cpu")
    with pytest.raises(ValueError, match=r"Categorical needs data in the support.*for classes.*step=1"):
        build(likelihood=partial(likelihoods.Categorical, categories=4))
    build(likelihood=partial(likelihoods.Categorical, categories=4, step=1))


# Sequences ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [np.linspace(0, 6, 7), np.arange(7), np.ones((7, 2), np.float32)])
@pytest.mark.parametrize("shape", [(3, 7), (7,), (7, 5, 5), (7, 5, 3)])
@pytest.mark.parametrize("split", [False, True])
def test_an_index_tells_where_the_elements_of_all_data_are(split, shape, index, tmp_path):
    x = np.random.default_rng(0).normal(size=(30, *shape)).astype(np.float32)
    arrays = {"train": x, "valid": x[:9], "test": x[9:]} if split else {"x": x, "y": np.arange(30)}
    found = data.load(save(tmp_path / "x.npz", index=index, **arrays))
    assert found.protocol.shape == shape
    assert torch.equal(found.index, torch.tensor(index, dtype=torch.float32))
    if split:
        assert all(equal(a, b) for a, b in zip(in_parts(found), arrays.values(), strict=True))
    else:
        assert all(equal(a, x[y]) for a, y in zip(in_parts(found), found.labels, strict=True))
    fewer = data.load(str(tmp_path / "x.npz"), valid_size=1)
    assert torch.equal(fewer.index, found.index)


def test_without_an_index_a_file_is_as_before(tmp_path):
    path = save(tmp_path / "x.npz", x=pixels(30, 3, 7), y=np.arange(30))
    found = data.load(path)
    assert found.index is None
    assert found.protocol.shape == (1, 3, 7)
    alone = data.load(save(tmp_path / "i.npz", index=pixels(30, 7)))  # a lone array is the data, whatever its name
    assert (alone.index, alone.protocol.shape) == (None, (7,))
    beside = data.load(save(tmp_path / "b.npz", series=pixels(30, 3, 7), index=np.arange(7)))
    assert beside.protocol.shape == (3, 7)
    assert len(beside.index) == 7


@pytest.mark.parametrize(
    "index", [np.arange(30), np.arange(3), np.zeros((7, 2, 1)), np.full(7, np.nan), np.array(list("abcdefg")), 7]
)
def test_an_index_that_does_not_fit_is_refused(index, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds an index .* of data of shape \(3, 7\): .*\(7,\) or \(7, P\), or rename"
    ):
        data.load(save(tmp_path / "x.npz", x=np.zeros((30, 3, 7)), index=index))


@pytest.mark.parametrize("part", PARTS)
def test_sequences_of_grey_levels_are_dequantized_too(part, tmp_path):
    found = data.load(save(tmp_path / "x.npz", x=pixels(36, 3, 7), index=np.arange(7)), dequantize=True)
    assert getattr(found, part).shape[1:] == (3, 7)
    assert isinstance(found.train, data.Levels)
