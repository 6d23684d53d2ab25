import copy
import io
import json
import pickle
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from data_files import LEVEL, PARTS, equal, in_parts, pixels, save, sha256
from scipy.stats import chi2, norm

from pyrovae import data
from pyrovae.data import Intensities

pytestmark = pytest.mark.usefixtures("no_network", "opened")

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


@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic"])
def test_protocol_tells_all_that_numbers_depend_on(binarize, tmp_path):
    path = save(tmp_path / "x.npz", x=pixels(60, 5, 7))
    found = data.load(path, binarize, seed=5)
    fields = found.protocol.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert "random_state=0" in fields.pop("split")
    assert fields == {
        "data": "x.npz",
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


# Size of the validation data -----------------------------------------------------------------------------------------


def test_what_is_not_kept_for_validation_joins_the_training_data():
    whole, few = data.load("digits"), data.load("digits", valid_size=10)
    assert len(few.valid) == few.protocol.valid_size == 10
    assert torch.equal(torch.cat([few.train, few.valid]), torch.cat([whole.train, whole.valid]))
    assert torch.equal(torch.cat([few.labels.train, few.labels.valid]), torch.cat([*whole.labels[:2]]))
    assert torch.equal(few.test, whole.test)
    assert few.protocol.train_size == len(few.train) == whole.protocol.train_size + len(whole.valid) - 10
    assert few.protocol.split.endswith("all but the last 10 of valid joined to train")


def test_joined_training_data_are_drawn_anew_each_epoch_too():
    assert isinstance(data.load("digits", "dynamic", valid_size=10).train, Intensities)


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_size_that_cannot_be_kept_is_refused(size):
    with pytest.raises(ValueError, match=f"valid_size must be from 1 to the 150 validation data there are, not {size}"):
        data.load("digits", valid_size=size)
