"""The inference gap and its parts, against closed forms."""

import math
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics.gaps import gaps

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed


def z_test(estimate, exact):
    """Estimates of N data against their exact values: sum of squared z-scores under chi-square with N degrees."""
    z = ((estimate.value - exact) / estimate.std_error).numpy()
    assert LEVEL < chi2.cdf((z**2).sum(), len(z)) < 1 - LEVEL


def close(mean, exact, slack):
    """Within four standard errors, and what the search may miss by."""
    assert abs(mean.value - exact) < 4 * mean.std_error + slack, (mean, exact)


def linear_gaussian():
    """A model whose encoder is the best one, and data."""
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    model.solve_encoder()
    return model, model.sample(15)


def perturbed(model, std=0.2):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.vae.encoder.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


def small(encoder="DiagonalNormal", prior="StandardNormal"):
    """A VAE and data drawn from it."""
    torch.manual_seed(0)
    vae = VAE(
        getattr(priors, prior)(2),
        likelihoods.Bernoulli(networks.MLP(2, 9, hidden=())),
        getattr(encoders, encoder)(lambda n: networks.MLP(9, n(2), hidden=())),
    )
    return vae, vae.sample(4)


def test_the_best_diagonal_encoder_leaves_the_familys_gap_and_a_full_covariance_none():
    model, x = linear_gaussian()
    found = gaps(model.vae, x, tolerance=1e-3)  # so small that searches end one after another
    w, s = model.weight.detach().numpy(), model.scale.item()
    m = np.eye(2) + w.T @ w / s**2
    means = found.means()
    close(means["approximation"], (np.log(m.diagonal()).sum() - np.linalg.slogdet(m)[1]) / 2, 2e-3)
    close(means["amortisation"], 0, 2e-3)
    close(means["richer_approximation"], 0, 1e-3)
    close(means["log_likelihood"], model.log_likelihood(x).mean().item(), 1e-3)
    close(means["richer"], model.log_likelihood(x).mean().item(), 1e-3)
    assert found.settled.all()
    assert (found.log_likelihood.ess > 990).all()


@torch.no_grad()
def test_a_perturbed_encoder_has_the_amortisation_gap_of_the_closed_form():
    model, x = linear_gaussian()
    best = model.elbo(x)
    amortised = perturbed(model).elbo(x)
    state, evidence = torch.get_rng_state(), model.log_likelihood(x)
    model.vae.train()
    found = gaps(model.vae, x, richer=None, log_likelihood=evidence)
    z_test(found.amortisation, best - amortised)
    z_test(found.approximation, evidence - best)
    z_test(found.best, best)
    z_test(found.amortised, amortised)
    assert (best - amortised).mean() > 1
    assert torch.equal(found.log_likelihood.value, evidence)
    assert (found.log_likelihood.std_error == 0).all()
    torch.testing.assert_close(found.approximation.value + found.amortisation.value, evidence - found.amortised.value)
    assert found.richer is None
    assert "richer" not in found.means()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.vae.training


def test_errors_are_those_of_the_evidence_and_the_bound_from_the_same_draws():
    """By importance sampling from q* itself; the search starts where it is to end."""
    model, _ = linear_gaussian()
    x = model.sample(60)
    found = gaps(model.vae, x, richer=None, num_samples=4000, max_steps=50)
    for estimate, exact_value in (found.approximation, model.gap(x)), (found.log_likelihood, model.log_likelihood(x)):
        z = (estimate.value - exact_value.detach()) / estimate.std_error
        assert 0.5 < z.square().mean() < 1.7  # for such weights errors are too uncertain for a test by chi-square


@torch.no_grad()
def test_a_family_of_one_scale_has_the_gap_of_its_scale():
    model = exact.GaussianToy(latent_dim=3, variance=2 / 3)
    x = model.sample(10)
    model.solve(x)
    best = model.elbo(x)
    model.perturb(0.3)
    model.vae.prior.loc.copy_(x.mean(0))
    found = gaps(model.vae, x)
    means = found.means()
    close(means["approximation"], 3 / 2 * (4 / 3 - 1 - math.log(4 / 3)), 2e-3)
    close(means["richer_approximation"], 0, 1e-3)
    z_test(found.amortisation, best - model.elbo(x))
    assert (best - model.elbo(x)).mean() > 0.2


@torch.no_grad()
def test_narrow_posteriors_are_found_too():
    """Of a scale of 0.003, from an encoder that is 20 of them off."""
    model = exact.LinearGaussian(latent_dim=1, data_dim=3, scale=0.005)
    model.solve_encoder()
    x = model.sample(5)
    evidence = model.log_likelihood(x)
    model.vae.encoder.network.layers[-1].bias[0] += 0.06
    means = gaps(model.vae, x, richer=None, log_likelihood=evidence, tolerance=0.1).means()
    assert means["approximation"].value < 0.05
    assert means["amortisation"].value > 100


def test_parts_of_the_data_have_noise_of_their_own(monkeypatch):
    model, x = linear_gaussian()
    monkeypatch.setattr(import_module("pyrovae.diagnostics.refined"), "_CHUNK", 2 * 10 * 5)  # two data at a time
    found = gaps(model.vae, x[:1].expand(4, -1), richer=None, num_samples=50, max_steps=50)
    assert len(found.amortised.value.unique()) == 4
    assert found.settled.shape == (4,)
    assert not found.settled.all()
    again = gaps(model.vae, x[:1].expand(4, -1), richer=None, num_samples=50, max_steps=50)
    assert torch.equal(found.best.value, again.best.value)


@pytest.mark.parametrize(("richer", "size"), [(None, 8), (encoders.FullRankNormal, 14)])
def test_memory_is_bounded_by_the_parameters_of_the_families(richer, size, monkeypatch):
    model, sizes = exact.LinearGaussian(latent_dim=4, data_dim=3), []
    most = 3 * 10 * size  # numbers of the parameters of three data
    monkeypatch.setattr(import_module("pyrovae.diagnostics.refined"), "_CHUNK", most)
    for encoder in (encoders.DiagonalNormal, encoders.FullRankNormal):

        def counted(self, output, original=encoder.distribution):
            sizes.append(output.numel())
            return original(self, output)

        monkeypatch.setattr(encoder, "distribution", counted)
    found = gaps(model.vae, model.sample(5), richer, num_samples=20, max_steps=50)
    assert found.settled.shape == (5,)
    assert most / 2 < max(sizes) <= most


@pytest.mark.parametrize(
    ("encoder", "prior", "richer"),
    [
        ("RelaxedBernoulli", "RelaxedBernoulli", None),
        ("Planar", "StandardNormal", encoders.Planar),  # can score none but its last draw
        ("SemiAmortized", "MixtureOfNormals", partial(encoders.LowRankNormal, rank=1)),
    ],
)
def test_other_families_climb_and_stay_below_the_evidence(encoder, prior, richer):
    vae, x = small(encoder, prior)
    means = gaps(vae, x, richer=richer, max_steps=100, num_samples=200).means()
    assert means["amortisation"].value > 2 * means["amortisation"].std_error
    assert means["approximation"].value > -2 * means["approximation"].std_error
    assert richer is None or means["richer"].value > means["amortised"].value


class Bare(torch.nn.Module):
    """Some function of x that gives a distribution."""

    def forward(self, x):
        return torch.distributions.Normal(torch.zeros(len(x), 2), 1.0)


@pytest.mark.parametrize(
    ("encoder", "options", "words"),
    [
        ("Delta", {}, "Delta gives a point"),
        ("IAF", {}, "IAF has weights that all data share"),
        ("DiagonalNormal", {"richer": encoders.Spline}, "Spline has weights that all data share"),
        ("DiagonalNormal", {"richer": encoders.Delta}, "Delta gives a point"),
        ("DiagonalNormal", {"richer": encoders.PowerSpherical}, "PowerSpherical in the unit sphere"),
        ("DiagonalNormal", {"num_samples": 1}, "num_samples must be at least 2"),
        ("DiagonalNormal", {"tolerance": 0.0}, "tolerance must be positive"),
        ("DiagonalNormal", {"log_likelihood": torch.zeros(3)}, r"must be of shape \(4,\), not \(3,\)"),
    ],
)
def test_what_makes_no_sense_is_refused(encoder, options, words):
    vae, x = small(encoder)
    with pytest.raises(ValueError, match=words):
        gaps(vae, x, **options)


def test_encoders_without_a_gradient_or_a_family_are_refused():
    vae, x = small("Bernoulli", "Bernoulli")
    with pytest.raises(ValueError, match="draws of Bernoulli have no pathwise gradient"):
        gaps(vae, x)
    vae, x = small("RelaxedBernoulli", "RelaxedBernoulli")
    with pytest.raises(ValueError, match="z lies in a cube and FullRankNormal in R"):
        gaps(vae, x)
    vae, x = small()
    vae.encoder = Bare()
    with pytest.raises(ValueError, match="Bare has no such method"):
        gaps(vae, x)
