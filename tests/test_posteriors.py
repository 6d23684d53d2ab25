"""The true posterior on a grid, with what stands for it, against closed forms."""

import pytest
import torch
from torch.distributions import kl_divergence

from pyrovae import VAE, encoders, networks
from pyrovae.diagnostics import posteriors, refined
from pyrovae.exact import LinearGaussian


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_densities_and_draws_are_those_of_the_model(latent_dim):
    model = LinearGaussian(latent_dim, data_dim=3, scale=1.0)
    model.solve_encoder()
    x = model.sample(3)
    found = posteriors(model.vae, x, num_points=121, num_draws=2000)
    mesh = torch.stack(torch.meshgrid(*found.nodes, indexing="ij"), -1)  # (*G, D)
    exact = model.posterior(x)
    for i in range(3):
        p, q = model.posterior(x[i : i + 1]), model.vae.encode(x[i : i + 1])
        torch.testing.assert_close(found.truth[i], p.log_prob(mesh).exp())
        torch.testing.assert_close(found.guide[i], q.log_prob(mesh).exp())
    assert found.truth.shape == (3, *[121] * latent_dim)
    error = exact.stddev / 2000**0.5
    # Both are draws; the resampled ones, of the true posterior, repeat some proposals.
    assert ((found.draws.mean(1) - model.vae.encode(x).mean).abs() < 5 * error).all()
    assert ((found.resampled.mean(1) - exact.mean).abs() < 10 * error).all()
    assert ((found.hmc.mean(1) - exact.mean).abs() < 10 * error).all()
    assert (found.resampled.std(1) / exact.stddev - 1).abs().max() < 0.15


def test_resampled_draws_are_of_the_true_posterior_where_the_encoder_is_off():
    model = LinearGaussian(1, data_dim=3, scale=1.0)
    model.solve_encoder()
    x = model.sample(3)
    with torch.no_grad():
        model.vae.encoder.network.layers[-1].bias[0] += 0.3
    found, exact = posteriors(model.vae, x, num_draws=2000), model.posterior(x)
    off = found.draws.mean(1) - exact.mean
    assert off.abs().min() > 0.2
    assert (found.resampled.mean(1) - exact.mean).abs().max() < 0.05


@torch.no_grad()
def test_the_refined_posterior_is_the_best_normal_one_where_the_encoder_is_off():
    model = LinearGaussian(2, data_dim=3, scale=1.0)
    model.solve_encoder()
    x = model.sample(2)
    best = model.vae.encode(x)
    model.vae.encoder.network.layers[-1].bias += 0.5
    found = posteriors(model.vae, x, num_points=121, num_draws=50)
    mesh = torch.stack(torch.meshgrid(*found.nodes, indexing="ij"), -1)[:, :, None]
    exact = best.log_prob(mesh).exp().movedim(-1, 0)
    assert (found.guide - exact).abs().amax((1, 2)).min() > 0.5 * exact.max()
    assert (found.refined - exact).abs().max() < 0.15 * exact.max()  # 0.01 nats are of no account to the search
    assert kl_divergence(model.vae.encode(x).base_dist, best.base_dist).sum(-1).min() > 0.5
    assert kl_divergence(refined(model.vae, x).base_dist, best.base_dist).sum(-1).max() < 0.02


def test_a_family_without_a_best_member_is_drawn_without_it():
    model = LinearGaussian(2, data_dim=3)
    for name, scored in (("IAF", True), ("Planar", False)):
        encoder = getattr(encoders, name)(lambda n: networks.MLP(3, n(2))).double()
        found = posteriors(VAE(model.vae.prior, model.vae.likelihood, encoder), model.sample(2), num_draws=20)
        assert found.refined is None
        assert (found.guide is not None) == scored
        assert found.hmc.shape == found.draws.shape == (2, 20, 2)


def test_a_point_is_refused():
    model = LinearGaussian(1, data_dim=3)
    vae = VAE(model.vae.prior, model.vae.likelihood, encoders.Delta(networks.MLP(3, 1).double()))
    with pytest.raises(ValueError, match="no density"):
        posteriors(vae, model.sample(2))


def test_other_latent_variables_are_refused():
    model = LinearGaussian(3, data_dim=4)
    with pytest.raises(ValueError, match="one or two dimensions"):
        posteriors(model.vae, model.sample(2))
