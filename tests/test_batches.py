import itertools

import pytest
import torch
from scipy.stats import chi2, kstest
from torch.utils.data import Dataset, TensorDataset

from pyrovae import batches as module
from pyrovae.batches import Batches
from pyrovae.data import Intensities, Levels

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
CPU = torch.device("cpu")


@pytest.fixture(params=["resident", "streamed"])
def kept(request, monkeypatch):
    """Data on the device whole, or streamed as if they did not fit there."""
    if request.param == "streamed":
        monkeypatch.setattr(module, "_fits", lambda data, device: False)
    return request.param


def numbered(n):
    """Data of n numbers, each in a shape of its own."""
    return torch.arange(2.0 * n).reshape(n, 2, 1)


def make(data, batch_size=4, shuffle=True, seed=0):
    return Batches(data, batch_size, shuffle, seed, CPU)


def drawn(batches):
    """Batches as a step takes them, those that stand for their draws drawn."""
    return (x.draw(batches.noise) if isinstance(x, Intensities | Levels) else x for x, *_ in batches)


def epoch(batches):
    return torch.cat(list(drawn(batches)))


def order(batches):
    """The places in `numbered` data of one epoch."""
    return (epoch(batches)[:, 0, 0] / 2).long().tolist()


def test_data_are_kept_or_streamed_as_the_other_tests_need(kept):
    assert (make(numbered(10)).resident is not None) == (kept == "resident")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("n", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3]), (1, [1])])
def test_an_epoch_has_each_datum_exactly_once(n, sizes, shuffle, kept):
    data = numbered(n)
    batches = make(data, shuffle=shuffle)
    for _ in range(3):
        found = [x for (x,) in batches]
        assert [len(x) for x in found] == sizes
        assert torch.equal(torch.cat(found).sort(0).values, data)
    assert len(batches) == len(sizes)
    assert batches.size == n


def test_without_shuffling_the_order_is_that_of_the_data(kept):
    batches = make(numbered(10), shuffle=False)
    assert [order(batches), order(batches)] == [list(range(10))] * 2


def test_each_epoch_has_a_new_order(kept):
    batches = make(numbered(50))
    orders = [order(batches) for _ in range(5)]
    assert all(a != b for a, b in itertools.combinations([*orders, list(range(50))], 2))


def test_all_orders_are_equally_likely():
    batches = make(numbered(3))
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for _ in range(1200):
        counts[tuple(order(batches))] += 1
    statistic = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert LEVEL < chi2.sf(statistic, 5) < 1 - LEVEL


def test_order_follows_from_the_seed_alone(kept):
    first = make(numbered(50), seed=7)
    orders = [order(first) for _ in range(3)]
    torch.manual_seed(99)
    again, other = make(numbered(50), seed=7), make(numbered(50), seed=8)
    torch.rand(5)
    assert [order(again) for _ in range(3)] == orders
    assert order(other) != orders[0]


def test_order_leaves_the_random_state_alone(kept):
    before = torch.get_rng_state()
    epoch(make(numbered(10)))
    assert torch.equal(torch.get_rng_state(), before)


def grey(n):
    """N data of 5 grey levels."""
    return torch.arange(2.0 * n).reshape(n, 2, 1) % 5 / 4


@pytest.mark.parametrize("kind", [None, Intensities, Levels])
def test_resident_and_streamed_give_the_same_batches(kind, monkeypatch):
    data = (torch.rand(50, 1, 3, 3, dtype=torch.float64) * 255).round() / 255
    data = kind(data) if kind else data
    resident = make(data)
    monkeypatch.setattr(module, "_fits", lambda data, device: False)
    streamed = make(data)
    assert resident.resident is not None
    assert streamed.resident is None
    found = []
    for batches in (resident, streamed):
        torch.manual_seed(5)
        found.append([*batches, *batches])
    for (a,), (b,) in zip(*found, strict=True):
        assert a.dtype == b.dtype == torch.float64
        assert torch.equal(a, b)


def test_dynamic_binarization_has_the_intensities_as_means_and_is_new_each_epoch(kept):
    p = torch.linspace(0, 1, 12, dtype=torch.float64).expand(40, 12)
    batches = make(Intensities(p), batch_size=16, shuffle=False)
    epochs = torch.stack([epoch(batches) for _ in range(30)])
    assert epochs.unique().tolist() == [0, 1]
    assert (epochs[..., 0] == 0).all()
    assert (epochs[..., -1] == 1).all()
    # Each datum's means over epochs, so that draws that came again would be found.
    inner = p[:, 1:-1]
    errors = (epochs.mean(0)[:, 1:-1] - inner) ** 2 / (inner * (1 - inner) / len(epochs))
    assert LEVEL < chi2.sf(errors.sum().item(), inner.numel()) < 1 - LEVEL
    assert not torch.equal(epochs[0], epochs[1])


def test_dequantization_is_uniform_in_each_cell_and_new_each_epoch(kept):
    x = grey(40)
    batches = make(Levels(x, 5), batch_size=16, shuffle=False)
    epochs = torch.stack([epoch(batches) for _ in range(30)])
    u = epochs.double() * 5 - (x * 4).round()
    assert kstest(u.flatten().numpy(), "uniform").pvalue > LEVEL
    # Each datum's means over epochs, so that draws that came again would be found.
    errors = (u.mean(0) - 0.5) ** 2 / (1 / 12 / len(epochs))
    assert LEVEL < chi2.sf(errors.sum().item(), x.numel()) < 1 - LEVEL


def test_drawn_batches_are_plain_tensors_in_the_shuffled_order(kept):
    zeros_and_ones = (torch.arange(20) % 2.0).reshape(20, 1)
    means, plain = make(Intensities(zeros_and_ones), seed=3), make(zeros_and_ones, seed=3)
    for x, (expected,) in zip(drawn(means), plain, strict=True):
        assert type(x) is type(expected) is torch.Tensor
        assert torch.equal(x, expected)


def test_plain_grey_data_are_not_drawn(kept):
    data = torch.full((10, 3), 0.5)
    assert torch.equal(epoch(make(data)), data)


def test_changing_a_batch_does_not_change_the_data(kept):
    data = numbered(10)
    for (x,) in make(data, shuffle=False):
        x.zero_()
    assert torch.equal(data, numbered(10))


def test_order_goes_on_from_its_state(kept):
    batches = make(numbered(50))
    order(batches)
    state = batches.state_dict()
    expected = [order(batches) for _ in range(3)]
    other = make(numbered(50), seed=99)
    other.load_state_dict(state)
    assert [order(other) for _ in range(3)] == expected


def test_an_epoch_broken_off_is_followed_by_a_whole_one(kept):
    batches = make(numbered(10))
    next(iter(batches))
    assert sorted(order(batches)) == list(range(10))


class Squares(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        if not 0 <= i < 10:
            raise IndexError(i)
        return torch.tensor([float(i * i)])


def test_dataset_of_data_is_streamed():
    batches = make(Squares())
    assert batches.resident is None
    assert len(batches) == 3
    assert sorted(epoch(batches)[:, 0].tolist()) == [i * i for i in range(10)]


def test_dataset_of_tuples_gives_their_first_elements_in_the_order_of_a_tensor():
    x, y = numbered(10), torch.arange(10)
    assert torch.equal(epoch(make(TensorDataset(x, y), seed=3)), epoch(make(x, seed=3)))


@pytest.mark.parametrize("kind", [lambda *t: t, TensorDataset])
def test_what_else_is_known_of_the_data_comes_in_their_order(kind, kept):
    x, y = numbered(50), torch.arange(50)
    batches = Batches(kind(x, y), 4, True, 3, CPU, width=2)
    assert (batches.resident is not None) == (kind is not TensorDataset and kept == "resident")
    for _ in range(2):
        for x, y in batches:
            assert torch.equal(x[:, 0, 0], 2.0 * y)


def test_draws_keep_their_kind_beside_what_else_is_known(kept):
    data = Intensities(torch.rand(10, 3)), torch.arange(10), Levels(grey(10), 5)
    for x, y, z in Batches(data, 4, True, 0, CPU, width=3):
        assert (type(x), type(y), type(z)) == (Intensities, torch.Tensor, Levels)


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="3, 4 rows"):
        Batches((torch.zeros(3, 2), torch.zeros(4)), 2, True, 0, CPU, width=2)


@pytest.mark.parametrize("data", [torch.zeros(0, 3), TensorDataset(torch.zeros(0, 3))])
def test_no_data_are_refused(data):
    with pytest.raises(ValueError, match="the data are empty: give at least one datum"):
        make(data)


@pytest.mark.parametrize("kind", [Intensities, lambda x: Levels(x, 5)])
def test_draws_depend_on_the_seed_alone(kind, kept):
    data = kind(grey(50))
    first = epoch(make(data, seed=1))
    torch.manual_seed(99)
    batches = make(data, seed=1)
    found = []
    for x in drawn(batches):
        torch.rand(7)  # what a model draws between batches
        found.append(x)
    assert torch.equal(torch.cat(found), first)
    assert not torch.equal(epoch(make(data, seed=2)), first)


@pytest.mark.parametrize("kind", [Intensities, lambda x: Levels(x, 5)])
def test_draws_go_on_from_their_state(kind, kept):
    data = kind(grey(50))
    one, other = make(data), make(data)
    epoch(one)
    other.load_state_dict(one.state_dict())
    assert torch.equal(epoch(other), epoch(one))


def test_a_state_of_another_kind_of_device_gives_the_order_and_new_draws(kept):
    """Of a GPU's generator, whose state is smaller."""
    data = Intensities(grey(50))
    one, other = make(data), make(data)
    epoch(one)
    other.load_state_dict(one.state_dict() | {"noise": torch.zeros(16, dtype=torch.uint8)})
    orders = [torch.cat([x.as_subclass(torch.Tensor) for (x,) in batches]) for batches in (one, other)]
    assert torch.equal(*orders)
    assert torch.equal(other.noise.get_state(), make(data).noise.get_state())


@pytest.mark.parametrize("position", [-1, 4])
def test_a_state_within_no_epoch_is_refused(position):
    batches = make(numbered(10))
    with pytest.raises(ValueError, match=f"there is no batch {position} of 3"):
        batches.load_state_dict(batches.state_dict() | {"position": position})
