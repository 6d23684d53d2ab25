"""Pareto k-hat, against importance weights whose tail is known."""

import math

import pytest
import torch

from pyrovae import VAE, encoders, evaluation, exact, likelihoods, networks, priors
from pyrovae.diagnostics.reliability import Reliability, reliability
from pyrovae.scale import positive, unconstrained


def exact_posterior():
    """A model whose encoder gives p(z | x), diagonal Gaussians in two dimensions, and data."""
    x = exact.LinearGaussian(latent_dim=2, data_dim=5).sample(100)
    return exact.LinearGaussian.maximum_likelihood(x, latent_dim=2), x


@torch.no_grad()
def scaled(model, factor):
    bias = model.vae.encoder.network.layers[-1].bias
    bias[2:] = unconstrained(factor * positive(bias[2:]))
    return model


def test_the_exact_posterior_has_equal_weights():
    model, x = exact_posterior()
    found = reliability(model.vae, x, num_samples=100)
    assert (found.pareto_k == -math.inf).all()
    assert found.shares == (1.0, 0.0, 0.0)
    assert torch.allclose(found.ess, torch.tensor(100.0, dtype=torch.float64))
    assert found.threshold == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [0.9, 0.7, 0.5])
def test_k_is_that_of_the_weights(factor):
    """z with factor f of the posterior's scales: w = exp(c |e|^2), e in two dimensions, is Pareto with k = 1 - f^2."""
    model, x = exact_posterior()
    found = reliability(scaled(model, factor).vae, x, num_samples=1000)
    tail = 94  # of 1000 weights, to which ArviZ's prior adds 10 of k = 1/2
    expected = ((1 - factor**2) * tail + 0.5 * 10) / (tail + 10)
    spread = found.pareto_k.std()
    assert abs(found.pareto_k.mean() - expected) < 4 * spread / math.sqrt(len(x)) + 0.02
    assert found.std_error.mean() == pytest.approx(spread.item(), rel=0.3)
    assert found.threshold == pytest.approx(2 / 3)


def test_weights_of_a_wide_posterior_are_good_and_of_one_elsewhere_very_bad():
    model, x = exact_posterior()
    found = reliability(scaled(model, 2).vae, x, num_samples=200)
    assert (found.pareto_k < 0.2).all()
    assert found.shares.good == 1
    with torch.no_grad():
        scaled(model, 0.5).vae.encoder.network.layers[-1].bias[0] += 1000  # most weights are 0 beside the largest
    found = reliability(model.vae, x, num_samples=200)
    assert (found.pareto_k == math.inf).all()
    assert found.shares == (0.0, 0.0, 1.0)
    assert (found.ess < 2).all()


def test_ess_is_that_of_the_log_likelihood_from_the_same_draws():
    model, x = exact_posterior()
    state = torch.get_rng_state()
    found = reliability(scaled(model, 0.7).vae, x[:5], num_samples=100, seed=3)
    torch.testing.assert_close(found.ess, evaluation.log_likelihood(model.vae, x[:5], num_samples=100, seed=3).ess)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(found.shares) == pytest.approx(1)


@pytest.mark.parametrize(("kind", "words"), [("Delta", "z is a point"), ("Bernoulli", "z is discrete")])
def test_weights_without_a_tail_are_refused(kind, words):
    prior = priors.Bernoulli(2) if kind == "Bernoulli" else priors.StandardNormal(2)
    encoder = getattr(encoders, kind)(networks.MLP(5, 2))
    vae = VAE(prior, likelihoods.Normal(networks.MLP(2, 5)), encoder)
    with pytest.raises(ValueError, match=words):
        reliability(vae, torch.zeros(3, 5))


def test_too_few_draws_are_refused():
    model, x = exact_posterior()
    assert reliability(scaled(model, 0.5).vae, x, num_samples=25).pareto_k.isfinite().all()
    with pytest.raises(ValueError, match="num_samples must be at least 25"):
        reliability(model.vae, x, num_samples=24)


def test_a_k_that_is_no_number_is_very_bad():
    k = torch.tensor([math.nan, -math.inf, 0.8, 2.0])
    assert Reliability(k, k, k, threshold=0.7).shares == (0.25, 0.25, 0.5)
