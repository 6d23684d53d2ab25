"""The weight of the KL that q(z | x) is adapted to, against encoders that are the best for a known one."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian

from pyrovae import SVI, VAE, encoders, exact, likelihoods, networks, objectives, priors
from pyrovae.diagnostics import effective_beta
from pyrovae.scale import unconstrained

module = import_module("pyrovae.diagnostics.effective_beta")  # by its name the package has the function
ERRORS = 4  # standard errors allowed: a level of 6e-5 for each number


def best_for(beta, **sizes):
    """A linear model with the diagonal q(z | x) that maximises E_q[log p(x | z)] - beta KL, in closed form."""
    model = exact.LinearGaussian(**sizes)
    with torch.no_grad():
        m = model.weight.T @ model.weight + beta * model.scale**2 * torch.eye(len(model.loc))
        v, t = torch.linalg.solve(m, model.weight.T), beta**0.5 * model.scale / m.diagonal().sqrt()
        layer = model.vae.encoder.network.layers[-1]
        layer.weight.copy_(torch.cat([v, torch.zeros_like(v)]))
        layer.bias.copy_(torch.cat([-v @ model.bias, unconstrained(t)]))
    return model


@pytest.mark.parametrize("beta", [0.25, 1.0, 2.0, 4.0])
def test_beta_of_the_best_linear_encoder_is_found(beta):
    model = best_for(beta, latent_dim=3, data_dim=6)
    found = effective_beta(model.vae, model.sample(500))
    assert found.std_error < 0.02 * beta
    assert abs(found.value - beta) < ERRORS * found.std_error
    assert found.location == pytest.approx(beta, rel=0.05)
    assert found.scale == pytest.approx(beta, rel=0.05)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_beta_of_a_trained_encoder_is_found(beta):
    """Of a decoder that is far from linear, whose posteriors are not normal."""
    decoder = networks.MLP(2, 20, hidden=(16,), activation=torch.nn.Tanh, initializer=torch.nn.init.normal_)
    encoder = encoders.DiagonalNormal(networks.MLP(20, 4, hidden=(32,), activation=torch.nn.Tanh))
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decoder, 2.0, learned=False), encoder)
    x, optim = vae.sample(128), torch.optim.Adam(encoder.parameters(), 0.03)
    vae.eval().likelihood.requires_grad_(False)
    svi = SVI(vae.model, vae.guide, optim, objectives.ELBO(num_particles=4, beta=beta, analytic_kl=True))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 150)
    for _ in range(150):
        svi.step(x)
        decay.step()
    found = effective_beta(vae, x)
    assert found.value == pytest.approx(beta, rel=0.1)


def test_its_error_is_that_of_repeated_estimates():
    model = best_for(2.0)
    runs = [effective_beta(model.vae, model.sample(100, seed), 8, seed) for seed in range(100)]
    assert np.mean([run.std_error for run in runs]) == pytest.approx(np.std([run.value for run in runs]), rel=0.3)
    assert np.mean([run.value for run in runs]) == pytest.approx(2.0, abs=0.02)


def test_a_collapsed_model_has_no_evidence_of_beta():
    model = best_for(1.0)
    with torch.no_grad():
        model.weight.zero_()
    model.solve_encoder()
    for widened in (0.0, 0.5):  # by the noise of training, so that the scales alone would tell of a weight of 0
        model.vae.encoder.network.layers[-1].bias.data[2:] += widened
        assert all(math.isnan(number) for number in effective_beta(model.vae, model.sample(50)))


def test_a_mixture_that_is_a_standard_normal_gives_the_same():
    model = best_for(2.0)
    x = model.sample(50)
    expected = effective_beta(model.vae, x)
    mixture = priors.MixtureOfNormals(2, components=3).double()
    with torch.no_grad():
        mixture.loc.zero_()
    model.vae.prior = mixture
    assert effective_beta(model.vae, x) == pytest.approx(expected, rel=1e-6)


def test_what_is_decoded_at_a_time_is_bounded_and_nothing_else_is_changed(monkeypatch):
    model = best_for(1.0)
    x, state, sizes = model.sample(40), torch.get_rng_state(), []
    model.vae.likelihood.network.register_forward_hook(lambda module, given, output: sizes.append(output.numel()))
    monkeypatch.setattr(module, "_CHUNK", 8 * 5 * 7)  # 7 data at a time
    model.vae.train()
    first, again, other = (effective_beta(model.vae, x, 8, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sum(sizes) == 3 * 40 * 8 * 5
    assert max(sizes) == 8 * 5 * 7
    assert torch.equal(torch.get_rng_state(), state)
    assert model.vae.training
    assert all(parameter.grad is None for parameter in model.vae.parameters())


@pytest.mark.parametrize(
    ("prior", "encoder", "message"),
    [
        (priors.VampPrior(2, 3), encoders.DiagonalNormal, "made of the encoder"),
        (priors.Bernoulli(2), encoders.Bernoulli, "no density on R"),
        (priors.StandardNormal(2), encoders.Delta, "no density on R"),
    ],
    ids=["VampPrior", "bits", "points"],
)
def test_what_beta_cannot_be_told_of_is_refused(prior, encoder, message):
    vae = VAE(prior, likelihoods.Normal(networks.MLP(2, 5)), encoder(lambda n: networks.MLP(5, n(2))))
    with pytest.raises(ValueError, match=message):
        effective_beta(vae, torch.zeros(4, 5))


@pytest.mark.parametrize(("count", "num_samples", "message"), [(1, 2, "at least two"), (4, 0, "num_samples")])
def test_too_few_data_or_draws_are_refused(count, num_samples, message):
    with pytest.raises(ValueError, match=message):
        effective_beta(LinearGaussian().vae, torch.zeros(count, 5), num_samples)


@torch.no_grad()
def test_means_and_scales_that_tell_of_different_weights_do_not_agree():
    model = best_for(1.0, latent_dim=3, data_dim=6)
    x = model.sample(300)
    assert effective_beta(model.vae, x).agrees
    q = model.vae.encode(x)
    for factor in (2.0, 0.5):  # scales that are off, the means being best
        model.vae.encoder.network.layers[-1].bias[3:] = unconstrained(factor * q.stddev[0])
        found = effective_beta(model.vae, x)
        assert found.location == pytest.approx(1, abs=0.1)
        assert not found.agrees
    assert all(effective_beta(best_for(b).vae, best_for(b).sample(300)).agrees for b in (0.3, 5.0))
