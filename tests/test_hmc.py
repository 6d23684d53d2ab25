"""Draws of the true posterior by Hamiltonian Monte Carlo, against closed forms and quadrature."""

import pytest
import torch
from scipy.stats import chi2, norm
from torch import nn

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics import chains, hmc
from pyrovae.quadrature import grid_posterior

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed


@pytest.mark.parametrize("start", ["prior", "posterior"])
@torch.no_grad()
def test_draws_have_the_moments_of_the_exact_posterior(start):
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)  # whose encoder is off
    x = model.sample(6)
    found, p = hmc(model.vae, x, num_draws=1500, num_temperatures=40, start=start, seed=1), model.posterior(x)
    assert found.z.shape == (1500, 6, 2)
    # Draws that were resampled vary by the chains' weights, too.
    size = 1 / (1 / 1500 + 1 / found.ess)
    off = found.z.mean(0) - p.mean
    squares = (off * torch.linalg.solve(p.covariance_matrix, off)).sum(-1) * size
    assert chi2.sf(float(squares.sum()), 2 * 6) > LEVEL
    covariance = torch.stack([z.T.cov() for z in found.z.unbind(1)])
    torch.testing.assert_close(covariance, p.covariance_matrix.expand_as(covariance), rtol=0.2, atol=0.02)
    assert ((model.vae.encode(x).mean - p.mean).abs() > 0.3 * p.stddev).any()


class Square(nn.Module):
    """The mean z^2, which z and -z share."""

    out_shape = (1,)

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return z.square() + self.shift


@torch.no_grad()
def test_modes_that_are_apart_have_their_shares():
    prior = priors.Normal(1)
    prior.loc.fill_(0.3)
    vae = VAE(prior, likelihoods.Normal(Square(), scale=0.3), encoders.DiagonalNormal(networks.MLP(1, 2))).double()
    x = torch.tensor([[4.0], [1.0]]).double()
    grid = grid_posterior(vae, x, 1001)
    share = (grid.density * (grid.z[:, 0] > 0)).sum(-1) / grid.density.sum(-1)
    assert (share > 0.6).all()
    found = hmc(vae, x, num_draws=2000, num_temperatures=60)
    positive = (found.z[..., 0] > 0).double().mean(0)
    error = (share * (1 - share) * (1 / 2000 + 1 / found.ess)).sqrt()
    assert ((positive - share).abs() < norm.isf(LEVEL / 4) * error).all()
    assert (found.z[..., 0].abs() - x.T.sqrt()).abs().quantile(0.99) < 0.8  # near one of the modes


def test_transitions_part_draws_that_were_alike():
    model = exact.LinearGaussian(latent_dim=2, data_dim=5, scale=0.05)
    found = hmc(model.vae, model.sample(3), num_draws=100, num_temperatures=5)
    assert (found.ess < 50).all()  # most are drawn more than once
    assert all(len(z.unique(dim=0)) > 90 for z in found.z.unbind(1))
    assert ((found.acceptance > 0.4) & (found.acceptance < 0.9)).all()


def test_constrained_z_come_back_in_their_space():
    vae = VAE(
        priors.RelaxedBernoulli(2),
        likelihoods.Bernoulli(networks.MLP(2, 4)),
        encoders.RelaxedBernoulli(networks.MLP(4, 2)),
    )
    z = hmc(vae, torch.ones(3, 4), num_draws=10, num_temperatures=5).z
    assert z.shape == (10, 3, 2)
    assert ((z >= 0) & (z <= 1)).all()


def test_draws_follow_from_the_seed_and_are_made_in_parts(monkeypatch):
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    x, state = model.sample(4), torch.get_rng_state()
    first, second, other = (hmc(model.vae, x, 20, 5, 3, seed=seed).z for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    monkeypatch.setattr(chains, "_CHUNK", 5 * 7)  # seven chains at a time, of one datum
    parts = hmc(model.vae, x, 20, 5, 3)
    assert parts.z.shape == (20, 4, 2)
    assert len(parts.z.unique()) > 100
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_drawn_is_refused():
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    with pytest.raises(ValueError, match="num_transitions must be at least 1"):
        hmc(model.vae, model.sample(2), num_transitions=0)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="no chain came to a z at which"):
        hmc(model.vae, torch.zeros(2, 5), num_draws=5, num_temperatures=3)
