"""Simulation-based calibration: uniform ranks of the exact posterior, and of no other but the prior."""

from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics.calibration import calibration
from pyrovae.scale import positive, unconstrained

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed


def exact_posterior():
    """A model whose encoder gives p(z | x), and the encoder's bias."""
    x = exact.LinearGaussian(latent_dim=2, data_dim=5).sample(1000)
    model = exact.LinearGaussian.maximum_likelihood(x, latent_dim=2)
    return model.vae, model.vae.encoder.network.layers[-1].bias


def calibrated(found):
    return bool((found.p_value > LEVEL).all())


def test_the_exact_posterior_is_calibrated():
    vae, _ = exact_posterior()
    state = torch.get_rng_state()
    found = calibration(vae, num_data=2000)
    assert torch.equal(torch.get_rng_state(), state)
    assert calibrated(found)
    assert ((found.coverage - found.levels[:, None]).abs() < 4 * found.std_error).all()
    assert found.ranks.shape == (2000, 2)
    assert found.ranks.min() == 0
    assert found.ranks.max() == 199


def test_chi_square_is_scipys():
    vae, bias = exact_posterior()
    with torch.no_grad():
        bias[1] += 0.05
    found = calibration(vae, num_data=500, num_draws=99, num_bins=10, levels=[0.9])
    for d in range(2):
        counts = np.histogram(found.ranks[:, d].numpy(), bins=10, range=(0, 100))[0]
        expected = chisquare(counts)
        assert found.chi_square[d].item() == pytest.approx(expected.statistic)
        assert found.p_value[d].item() == pytest.approx(expected.pvalue)


@torch.no_grad()
def test_half_the_scale_is_found_and_covers_as_little_as_it_should():
    vae, bias = exact_posterior()
    bias[3] = unconstrained(positive(bias[3]) / 2)
    found = calibration(vae, num_data=2000)
    assert found.p_value[0] > LEVEL
    assert found.p_value[1] < 1e-9
    levels = found.levels.numpy()
    expected = 2 * norm.cdf(norm.ppf((1 + levels) / 2) / 2) - 1
    np.testing.assert_allclose(found.coverage[:, 1], expected, atol=4 * 0.5 / 2000**0.5)
    assert (found.coverage[:, 1] < found.levels - 0.2).all()


@torch.no_grad()
def test_a_bias_is_found():
    vae, bias = exact_posterior()
    bias[0] += 0.3 * positive(bias[2])
    found = calibration(vae)
    assert found.p_value[0] < 1e-6
    assert found.p_value[1] > LEVEL


@torch.no_grad()
def test_the_prior_has_uniform_ranks_too():
    vae, bias = exact_posterior()
    vae.encoder.network.layers[-1].weight.zero_()
    bias[:2], bias[2:] = 0, unconstrained(torch.tensor(1.0, dtype=torch.float64))
    assert calibrated(calibration(vae))


@torch.no_grad()
def test_ranks_of_discrete_z_are_uniform_too():
    """Where x tells nothing of z, p(z | x) = p(z); nearly all draws are equal to z*."""
    model = exact.BernoulliToy(latent_dim=3, data_dim=5)
    model.vae.likelihood.network.layers[-1].weight.zero_()
    encoder = model.vae.encoder.network.layers[-1]
    encoder.weight.zero_()
    encoder.bias.copy_(model.vae.prior.logits)
    assert calibrated(calibration(model.vae))
    encoder.bias.add_(1.0)
    assert not calibrated(calibration(model.vae))


def test_data_are_simulated_in_parts_under_a_seed(monkeypatch):
    vae, _ = exact_posterior()
    first, again, other = (calibration(vae, num_data=100, seed=s).ranks for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    monkeypatch.setattr(import_module("pyrovae.diagnostics.calibration"), "_CHUNK", 30 * 2 * 199)  # 30 data at a time
    found = calibration(vae)
    assert found.ranks.shape == (1000, 2)
    assert calibrated(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_draws": 200}, "20 does not divide 201"),
        ({"num_bins": 1}, "num_bins must be at least 2"),
        ({"num_data": 99}, "at least 5 for each of the 20 bins"),
        ({"levels": [0.999]}, "0.999 leaves 0.1"),
        ({"levels": [1.0]}, "must be in"),
        ({"levels": [0.123]}, "leave a whole number of the 200 ranks"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        calibration(exact_posterior()[0], **options)


def test_a_point_is_refused():
    likelihood = likelihoods.Normal(networks.MLP(2, 5))
    vae = VAE(priors.StandardNormal(2), likelihood, encoders.Delta(networks.MLP(5, 2)))
    with pytest.raises(ValueError, match="Delta gives a point, which has no spread"):
        calibration(vae)
