"""Collapsed dimensions, against closed forms."""

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics.collapse import collapse
from pyrovae.scale import unconstrained


def with_a_dead_unit():
    """A VAE of which z_2 is of no use, and knows it."""
    model = LinearGaussian(num_data=200)
    layer = model.vae.encoder.network.layers[-1]
    model.V[1], model.c[1], model.t[1] = 0, 0, 1
    with torch.no_grad():
        layer.weight[[1, 3]] = 0
        layer.bias[[1, 3]] = torch.tensor([0.0, unconstrained(torch.tensor(1.0, dtype=torch.float64))]).double()
    return model


def test_a_dead_unit_is_told_from_a_live_one():
    model = with_a_dead_unit()
    found = collapse(model.vae, model.data)
    assert found.collapsed.tolist() == [[False, True]] * 3
    assert found.active.value == 1
    kl = model.kl()
    np.testing.assert_allclose(found.kl, kl.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.std_error, kl.std(0, ddof=1) / 200**0.5, atol=1e-12)


def test_shares_are_of_data_and_delta_of_them_may_be_above_epsilon():
    model = with_a_dead_unit()
    live = np.sort(model.kl()[:, 0])
    epsilon = [(live[i - 1] + live[i]) / 2 for i in (20, 190)]  # so many are below
    for delta, collapsed in ((0.04, [False, False]), (0.06, [False, True]), (0.95, [True, True])):
        found = collapse(model.vae, model.data, epsilon, delta)
        np.testing.assert_allclose(found.share, [[0.1, 1.0], [0.95, 1.0]])
        assert found.collapsed[:, 0].tolist() == collapsed


def test_bits_have_the_divergence_of_bernoullis():
    model = exact.BernoulliToy(3, 5)
    x = model.sample(20)
    with torch.no_grad():
        q, p = (t.sigmoid().numpy() for t in (model.vae.encoder.network(x), model.vae.prior.logits))
    kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    np.testing.assert_allclose(collapse(model.vae, x).kl, kl.mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("prior", "encoder"),
    [
        (priors.MixtureOfNormals(2), encoders.DiagonalNormal),
        (priors.StudentT(2), encoders.DiagonalNormal),
        (priors.StandardNormal(2), encoders.FullRankNormal),
        (priors.StandardNormal(2), encoders.Delta),
        (priors.OneHotCategorical(2), encoders.OneHotCategorical),
    ],
    ids=["mixture", "no closed form", "covariances", "points", "one-hot"],
)
def test_no_divergence_of_each_dimension_is_refused(prior, encoder):
    vae = VAE(prior, likelihoods.Normal(networks.MLP(2, 5)), encoder(lambda n: networks.MLP(5, n(2))))
    with pytest.raises(ValueError, match="no KL of each dimension in closed form"):
        collapse(vae, torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (1, {}, "at least two"),
        (4, {"epsilon": []}, "epsilon"),
        (4, {"epsilon": [0.1, 0.0]}, "epsilon"),
        (4, {"delta": 1.0}, "delta"),
    ],
)
def test_arguments_out_of_range_are_refused(count, arguments, message):
    with pytest.raises(ValueError, match=message):
        collapse(LinearGaussian().vae, torch.zeros(count, 5), **arguments)


@torch.no_grad()
def test_units_are_active_whatever_the_unit_of_z():
    """z' = z / 20, with a prior, a decoder and an encoder that fit, is the same model."""
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    model.solve_encoder()
    x, small = model.sample(200), 0.05
    before = collapse(model.vae, x)
    model.vae.prior = prior = priors.Normal(2).double()
    prior.unconstrained_scale.fill_(unconstrained(torch.tensor(small).double()).item())
    model.vae.likelihood.network.layers[-1].weight /= small
    layer = model.vae.encoder.network.layers[-1]
    q = model.vae.encode(x)
    layer.weight[:2] *= small
    layer.bias[:2] *= small
    layer.bias[2:] = unconstrained(small * q.stddev[0])
    after = collapse(model.vae, x)
    assert before.active.value == after.active.value == 2
    torch.testing.assert_close(after.kl, before.kl)
    torch.testing.assert_close(after.active.variance, before.active.variance)
