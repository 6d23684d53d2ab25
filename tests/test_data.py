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
from scipy.stats import chi2, kstest, norm

from pyrovae import data
from pyrovae.data import Intensities, Levels

pytestmark = pytest.mark.usefixtures("no_network", "opened")

GREY = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (120, 1, 1))  # 120 images of all levels

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


# Dequantization -------------------------------------------------------------------------------------------------------


@pytest.fixture
def levels(tmp_path):
    return save(tmp_path / "levels.npy", GREY)


def noise(x, k, n):
    """U of x = (k + u) / n, in float64."""
    return (x.double() * n - torch.as_tensor(k, dtype=torch.float64)).flatten().numpy()


@pytest.mark.parametrize("part", PARTS[1:])
def test_dequantized_levels_are_uniform_in_their_cells(part, levels):
    x = getattr(data.load(levels, dequantize=True), part)
    assert type(x) is torch.Tensor
    assert x.dtype == torch.float32
    u = noise(x, np.tile(np.arange(256).reshape(1, 16, 16), (len(x), 1, 1, 1)), 256)
    assert -1e-9 < u.min() < u.max() <= 1 + 1e-9
    assert kstest(u, "uniform").pvalue > LEVEL
    assert 2 * norm.sf(abs(np.corrcoef(u[::2], u[1::2])[0, 1]) * (len(u) / 2) ** 0.5) > LEVEL


def test_sixteenths_have_17_levels():
    raw, found = data.load("digits"), data.load("digits", dequantize=True)
    assert raw.protocol.levels == found.protocol.levels == found.train.levels == 17
    u = noise(found.test, (raw.test * 16).round(), 17)
    assert kstest(u, "uniform").pvalue > LEVEL
    expected = (16 * raw.train.double() + 0.5) / 17  # the mean of (16 x + u) / 17
    assert torch.allclose(found.train.as_subclass(torch.Tensor).double(), expected, atol=1e-7)


def test_bytes_that_are_binary_have_two_levels(tmp_path):
    found = data.load(save(tmp_path / "x.npy", pixels(40, 6) // 128), dequantize=True)
    assert found.protocol.levels == 2
    raw = data.load(str(tmp_path / "x.npy")).test
    assert torch.equal(found.test > 0.5, raw == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("n", [2, 17, 256, 65_536])
def test_draws_at_the_ends_stay_within_the_open_interval_and_within_their_cells(n, u, dtype, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, **_: torch.full(shape, u, dtype=dtype))
    k = torch.arange(n, dtype=dtype)
    x = Levels(k / (n - 1), n).draw(torch.Generator())
    assert x.dtype == dtype
    assert x.min() > 0
    assert x.max() < 1
    slack = 2 * torch.finfo(dtype).eps
    assert ((x >= k / n - slack) & (x <= (k + 1) / n + slack)).all()


def test_dequantized_training_data_are_drawn_anew_about_their_means(levels):
    train = data.load(levels, dequantize=True).train
    assert isinstance(train, Levels)
    generator = torch.Generator().manual_seed(0)
    first, second = train.draw(generator), train.draw(generator)
    assert not torch.equal(first, second)
    z = (first.double() - train.as_subclass(torch.Tensor).double()).mean() / (1 / 256 / 12**0.5) * first.numel() ** 0.5
    assert 2 * norm.sf(abs(z)) > LEVEL


def test_dequantization_follows_from_the_seed_alone_and_leaves_random_states_alone(levels):
    before = torch.get_rng_state()
    first, again, other = (data.load(levels, dequantize=True, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(in_parts(first), in_parts(again), strict=True))
    assert not torch.equal(first.test, other.test)
    assert torch.equal(first.train, other.train)
    assert first.protocol.raw_checksum == other.protocol.raw_checksum != first.protocol.checksum


@pytest.mark.parametrize("binarize", ["threshold", "static", "dynamic"])
def test_binary_data_are_not_dequantized(binarize):
    with pytest.raises(ValueError, match=f"binarize='{binarize}' leaves no grey levels to dequantize: take one"):
        data.load("digits", binarize, dequantize=True)


def test_data_without_known_levels_are_not_dequantized(grey):
    assert data.load(grey).protocol.levels is None
    with pytest.raises(ValueError, match=r"no known number of grey levels.*save them as bytes.*dequantize=False"):
        data.load(grey, dequantize=True)


@pytest.mark.parametrize(
    ("x", "n", "words"),
    [
        ([0.0, 0.3], 256, r"grey values of 256 levels are 0, 1/255, \.\.\., 1, but there is 0\.3"),
        ([0.0, 0.0625], 256, "but there is 0.0625: give the number of levels"),
        ([1.0, float("nan")], 256, "but there is nan"),
        ([0.0, 256 / 255], 256, "but there is 1.00392"),
        ([-1 / 255, 1.0], 256, "but there is -0.00392"),
        ([0.0, 1.0], 1, "from 2 to 65,536 grey levels, not 1"),
    ],
)
def test_what_is_no_level_is_refused(x, n, words):
    with pytest.raises(ValueError, match=words):
        Levels(torch.tensor(x), n)
    with pytest.raises(ValueError, match=r"floating point, not torch\.uint8"):
        Levels(torch.tensor([0, 255], dtype=torch.uint8))


# Protocol -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic", "dequantized"])
def test_protocol_tells_all_that_numbers_depend_on(binarize, tmp_path):
    path = save(tmp_path / "x.npz", x=pixels(60, 5, 7))
    dequantize, binarize = binarize == "dequantized", binarize.replace("dequantized", "none")
    found = data.load(path, binarize, seed=5, dequantize=dequantize)
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
        "levels": 256,
        "binarize": binarize,
        "dequantize": dequantize,
        "binarize_seed": 5 if dequantize or binarize in ("static", "dynamic") else None,
        "checksum": sha256(found),
        "raw_checksum": sha256(data.load(path)),
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


# What stands for its draws --------------------------------------------------------------------------------------------


KINDS = {"intensities": Intensities, "levels": lambda x: Levels(x, 12)}


@pytest.fixture(params=KINDS)
def means(request):
    """12 values of either kind."""
    return KINDS[request.param](torch.linspace(0, 1, 12).reshape(4, 3))


def same_kind(x, y):
    return type(x) is type(y) and vars(x) == vars(y)


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
def test_indexing_and_moving_gives_the_same_kind(get, means):
    plain, got = get(means.as_subclass(torch.Tensor)), get(means)
    assert same_kind(got, means)
    assert got.shape == plain.shape
    assert got.dtype == plain.dtype
    assert got.is_meta or torch.equal(got, plain)


@pytest.mark.parametrize("move", ["to", "cpu", "cuda"])
def test_moving_to_any_device_gives_the_same_kind(move, means, monkeypatch):
    # What torch calls for a subclass, as if the data came from another device, where a move makes another tensor.
    monkeypatch.setattr(torch.Tensor, move, lambda x: x.as_subclass(torch.Tensor).clone())
    got = means.__torch_function__(getattr(torch.Tensor, move), (type(means),), (means,))
    assert same_kind(got, means)


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
        lambda x: x.draw(torch.Generator()),
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
        "draw",
        "stack",
        "cat",
        "integers",
        "split",
    ],
)
def test_other_operations_give_plain_tensors(operate, means):
    assert type(operate(means)) is torch.Tensor


def test_a_plain_tensor_indexed_or_moved_by_such_stays_plain(means):
    plain = torch.arange(12.0).reshape(4, 3)
    assert type(plain.to(means)) is torch.Tensor
    assert type(plain[means > 0.5]) is torch.Tensor


def test_they_are_copied_and_pickled_as_such(means):
    for y in (pickle.loads(pickle.dumps(means)), torch.load(_saved(means), weights_only=False)):
        assert same_kind(y, means)
        assert torch.equal(means, y)


def _saved(x):
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return buffer


def test_they_can_be_deep_copied(means):
    y = copy.deepcopy(means)
    assert same_kind(y, means)
    assert torch.equal(means, y)
    assert means.data_ptr() != y.data_ptr()


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
