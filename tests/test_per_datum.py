"""A table in place of a network: free outputs for each datum, found by its value."""

import copy
import struct
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn

from pyrovae import SVI, encoders, evaluation, fit, gradients, objectives, runs
from pyrovae.drawn import Intensities, Levels
from pyrovae.networks import PerDatum
from pyrovae.networks.per_datum import _key


def filled(data, out_shape=(2, 3)):
    """A table with random rows, in float64."""
    network = PerDatum(tuple(data.shape[1:]), out_shape, data=data).double()
    nn.init.normal_(network.layers[-1].rows)
    return network


# Looking up


def test_each_datum_has_a_row_of_its_own_and_equal_data_share_one():
    x = torch.randn(50, 1, 4, 4)
    network = filled(torch.cat([x, x[:7], -x]))
    assert network.layers[-1].rows.shape == (100, 6)
    y = network(torch.cat([x, -x]))
    assert y.shape == (100, 2, 3)
    assert len(y.unique(dim=0)) == 100
    assert torch.equal(network(x.flip(0)), y[:50].flip(0))
    assert torch.equal(network(x[:42].reshape(2, 3, 7, 1, 4, 4)), y[:42].reshape(2, 3, 7, 2, 3))
    assert torch.equal(network(x[3]), y[3])


def test_a_gradient_reaches_the_rows_of_the_data_and_no_others():
    x = torch.randn(10, 5)
    network = filled(x, 3)
    (3.0 * network(x[[2, 2, 7]])).sum().backward()
    grad = network.layers[-1].rows.grad
    rows = torch.cdist(network(x), network.layers[-1].rows).argmin(1)  # where each datum's outputs are kept
    expected = torch.zeros(10, 3).double()
    expected[rows[2]], expected[rows[7]] = 6.0, 3.0
    assert torch.equal(grad, expected)


def test_data_are_found_by_value_in_any_precision():
    x = torch.cat([torch.randn(20, 5), torch.zeros(1, 5)])
    network = filled(x, 3)
    y = network(x)
    assert torch.equal(network(x.double()), y)
    assert torch.equal(network(-torch.zeros(1, 5)), y[-1:])  # -0 is 0
    double = torch.randn(20, 5, dtype=torch.float64)
    assert torch.equal(filled(double, 3)(double) != 0, torch.ones(20, 3).bool())


@pytest.mark.parametrize("shift", [1e-7, -1.0])
def test_a_datum_that_differs_in_one_bit_has_no_row(shift):
    x = torch.ones(4, 5)
    x[:, 0] = torch.arange(4)
    network = PerDatum(5, 3, data=x)
    other = x[[3, 2, 1]].clone()
    other[1, 4] += shift
    assert (other != x[[3, 2, 1]]).sum() == 1
    with pytest.raises(
        ValueError, match=r"no row for datum 1 of the 3 given: .* fit a PerDatum .* requires_grad_\(False\)"
    ):
        network(other)
    with pytest.raises(ValueError, match=r"datum 0 of the 4 given \(and 3 more\)"):
        network(x + 9)


def test_all_binary_images_and_all_orders_have_keys_of_their_own():
    bits = torch.from_numpy(np.array(list(product([0.0, 1.0], repeat=16))))
    assert len(_key(bits).unique()) == 2**16
    assert len(_key(bits * 2.0**-126).unique()) == 2**16
    orders = torch.cartesian_prod(*[torch.tensor([0.5, 1.0, 2.0, -1.0])] * 8)
    assert len(_key(orders).unique()) == 4**8
    assert (_key(bits) >> 63).double().mean().item() == pytest.approx(-0.5, abs=5 * 0.5 / 2**8)  # keys fill the range


def test_the_key_is_the_sum_of_splitmix64():
    """Its first outputs from the state 1234567 are published; a key adds up one for each element."""

    def splitmix64(h):
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) % 2**64
        return h ^ (h >> 31)

    golden = 0x9E3779B97F4A7C15
    assert [splitmix64(1234567 + i * golden & 2**64 - 1) for i in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    x = torch.randn(9, 7)
    for row, key in zip(x.tolist(), _key(x).tolist(), strict=True):
        bits = [struct.unpack("i", struct.pack("f", value))[0] for value in row]
        assert sum(splitmix64((b + i * golden) % 2**64) for i, b in enumerate(bits, 1)) % 2**64 == key % 2**64


# Data


def test_data_may_come_later_and_an_optimiser_goes_on_with_them():
    x, network = torch.randn(20, 5), PerDatum(5, 3)
    optim = torch.optim.Adam(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"no data yet: .*hold\(data\)"):
        network(x)
    network.hold(x)
    assert not network(x).any()  # rows start at 0
    network(x).sum().backward()
    optim.step()
    torch.testing.assert_close(network(x), torch.full((20, 3), -0.1))
    network.hold(x[:4])
    assert not network(x[:4]).any()
    with pytest.raises(ValueError, match="datum 4 of the 20"):
        network(x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Intensities(torch.rand(3, 5)), "those of Intensities are drawn anew .*binarize='static'"),
        (Levels(torch.ones(3, 5)), "those of Levels"),
        (torch.zeros(3, 4), r"holds data \(N, \*\(5,\)\), N > 0, but was given \(3, 4\)"),
        (torch.zeros(0, 5), r"was given \(0, 5\)"),
        (torch.zeros(5), r"was given \(5,\)"),
    ],
)
def test_bad_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        PerDatum(5, 3, data=data)
    with pytest.raises(ValueError, match=message):
        PerDatum(5, 3).hold(data)


def test_a_run_is_refused_as_its_validation_and_test_data_have_no_rows():
    with pytest.raises(ValueError, match="none for those that a run is validated and scored on: use it in Python"):
        runs.build(encoder_network=PerDatum)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_brings_its_own_data(assign):
    x = torch.randn(20, 5)
    one = filled(x, 3)
    for other in (PerDatum(5, 3).double(), filled(torch.randn(7, 5), 3)):
        other.load_state_dict(copy.deepcopy(one.state_dict()), assign=assign)
        assert torch.equal(other(x), one(x))
        assert [name for name, _ in other.named_parameters()] == ["layers.1.rows"]
    with pytest.raises(RuntimeError, match="size mismatch"):
        PerDatum(5, 4).load_state_dict(one.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        PerDatum(5, 3).load_state_dict({})


# A posterior without amortisation


@pytest.mark.filterwarnings("ignore:.*not registered in the param store")  # Pyro says so of what is frozen
def test_free_posteriors_reach_the_exact_ones():
    """p(z | x) of `LinearGaussian`, at which the gradient with stuck paths has no noise."""
    exact = LinearGaussian(exact_posterior=True, num_data=30)
    vae = exact.vae
    vae.requires_grad_(False)
    vae.encoder = encoders.DiagonalNormal(PerDatum(5, 2 * 2, data=exact.data).double())
    gap = exact.log_likelihood().mean() - evaluation.elbo(vae, exact.data, 500).value.mean().item()
    sgd = partial(torch.optim.SGD, lr=0.2)
    fit(
        vae,
        exact.data,
        objective=objectives.ELBO(gradient=gradients.STL()),
        epochs=120,
        batch_size=30,
        optimizer=sgd,
        progress=False,
    )
    q = vae.encode(exact.data).base_dist
    assert gap > 0.5
    np.testing.assert_allclose(q.loc.detach(), exact.x @ exact.V.T + exact.c, atol=5e-3)
    np.testing.assert_allclose(q.scale.detach(), np.broadcast_to(exact.t, (30, 2)), atol=5e-3)


def test_a_step_takes_several_particles_of_a_batch():
    exact = LinearGaussian()
    exact.vae.encoder = encoders.DiagonalNormal(PerDatum(5, 2 * 2, data=exact.data).double())
    optim = torch.optim.Adam(exact.vae.parameters(), lr=1e-2)
    svi = SVI(exact.vae.model, exact.vae.guide, optim, objectives.IWAE(num_particles=4))
    losses = [svi.step(exact.data[:4]) for _ in range(100)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
