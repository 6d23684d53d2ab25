"""What is left open about x and z, against closed forms of the linear Gaussian model."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2, multivariate_normal

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.applications import posterior_regions, predictive, predictive_coverage, region_coverage
from pyrovae.scale import positive, unconstrained

LEVELS = [0.5, 0.8, 0.95]
Z = 4.4  # standard errors: 1e-5 on both sides, of each of the numbers of a test


def exact_posterior(latent_dim=2):
    """A model whose encoder gives p(z | x), and data."""
    x = exact.LinearGaussian(latent_dim=latent_dim, data_dim=4).sample(500)
    return exact.LinearGaussian.maximum_likelihood(x, latent_dim), x


@torch.no_grad()
def narrowed(model, factor):
    """The same with all scales of q(z | x) so many times as large."""
    bias, d = model.vae.encoder.network.layers[-1].bias, len(model.loc)
    bias[d:] = unconstrained(factor * positive(bias[d:]))
    return model.vae


def closed_form(model, x):
    """Mean, W V W' and s^2 of x' = W z + b + e for z ~ q(z | x)."""
    q, w = model.vae.encode(x), model.weight
    return q.mean @ w.T + model.bias, q.variance @ w.T.square(), model.scale.square()


def test_mean_and_both_variances_are_those_of_the_linear_model():
    model, x = exact_posterior()
    k, x = 2000, x[:5]
    mean, between, within = (t.detach() for t in closed_form(model, x))
    found = predictive(model.vae, x, num_draws=k)
    assert ((found.mean - mean).abs() < Z * (between / k).sqrt()).all()
    assert ((found.between / between - 1).abs() < Z * (2 / k) ** 0.5).all()
    torch.testing.assert_close(found.within, within.expand_as(x))
    torch.testing.assert_close(found.variance, found.between + found.within)


class Secretive(dist.Normal):
    """A normal distribution that does not tell its variance."""

    @property
    def variance(self):
        raise NotImplementedError


def test_a_variance_that_is_not_known_is_drawn(monkeypatch):
    model, x = exact_posterior()
    monkeypatch.setattr(likelihoods.Normal, "family", lambda self, loc, scale: Secretive(loc, scale))
    k, within = 2000, model.scale.square().item()
    found = predictive(model.vae, x[:5], num_draws=k)
    assert ((found.within / within - 1).abs() < Z * (2 / k) ** 0.5).all()  # of squares of normals
    assert not torch.equal(found.within, torch.full_like(found.within, within))


@pytest.mark.parametrize("kind", [likelihoods.Categorical, likelihoods.DiscretizedLogistic])
def test_variances_of_images_are_those_of_draws(kind):
    torch.manual_seed(0)
    likelihood = kind(lambda outputs: networks.MLP(2, (outputs(1), 2, 2), hidden=()))
    vae = VAE(priors.StandardNormal(2), likelihood, encoders.DiagonalNormal(networks.MLP((1, 2, 2), 4)))
    x = vae.sample(3)
    found = predictive(vae, x, num_draws=1500, seed=1)
    with torch.no_grad():
        draws = likelihood(vae.encode(x).sample((1500,))).sample()
    off = (draws - draws.mean(0)).square()  # and of the found variance the error is about as large
    assert ((found.variance - draws.var(0)).abs() < Z * (2 * off.var(0) / 1500).sqrt()).all()


def test_what_has_no_variance_is_refused():
    likelihood = likelihoods.StudentT(networks.MLP(2, 3), df=1.5)
    vae = VAE(priors.StandardNormal(2), likelihood, encoders.DiagonalNormal(networks.MLP(3, 4)))
    with pytest.raises(ValueError, match="StudentT has no finite variance here"):
        predictive(vae, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least two draws of z, not 1"):
        predictive(vae, torch.zeros(2, 3), num_draws=1)


@pytest.mark.parametrize(("latent_dim", "factor"), [(1, 1.0), (2, 1.0), (2, 0.5), (3, 1.6)])
def test_regions_cover_what_a_gaussian_of_that_width_does(latent_dim, factor):
    """The region of N(m, (c s)^2) of level p is |z - m|^2 < (c s)^2 F^-1(p), F of chi^2, which N(m, s^2) is in by F."""
    vae = narrowed(exact_posterior(latent_dim)[0], factor)
    found = region_coverage(vae, num_data=2000, levels=LEVELS, num_draws=399)
    expected = chi2.cdf(factor**2 * chi2.ppf(LEVELS, latent_dim), latent_dim)
    np.testing.assert_allclose(
        found.share, expected, atol=Z * 0.5 / 2000**0.5 + 0.01
    )  # of 399 draws, whose edge is off
    assert ((found.low <= found.share) & (found.share <= found.high)).all()
    if factor != 1:
        assert ((found.share < found.levels) == (factor < 1)).all()
        assert ((found.high < found.levels) | (found.low > found.levels)).any()


def test_a_point_has_no_region_and_a_flow_without_an_inverse_none_either():
    likelihood = likelihoods.Normal(networks.MLP(2, 3))
    flow = encoders.Planar(lambda outputs: networks.MLP(3, outputs(2)))
    for words, encoder in {"gives a point": encoders.Delta(networks.MLP(3, 2)), "at its own draws alone": flow}.items():
        with pytest.raises(ValueError, match=words):
            region_coverage(VAE(priors.StandardNormal(2), likelihood, encoder))
        with pytest.raises(ValueError, match=f"{type(encoder).__name__} tells no density q"):
            posterior_regions(VAE(priors.StandardNormal(2), likelihood, encoder), torch.zeros(2, 3), LEVELS)


@pytest.mark.parametrize("factor", [1.0, 0.05])
def test_intervals_of_x_cover_what_normal_ones_do(factor):
    """x'_i ~ N(m_i, v_i) around the mean of q(z | x), and x_i - m_i ~ N(0, u_i), where x ~ p(x)."""
    model, _ = exact_posterior()
    vae, x = narrowed(model, factor), model.sample(2000, seed=3)
    found = predictive_coverage(vae, x, LEVELS, num_draws=399)
    _, between, within = (t.detach() for t in closed_form(model, x))
    off = torch.eye(4) - model.weight @ vae.encoder.network.layers[-1].weight[:2]  # x - m = (I - W V)(x - b)
    u = (off @ model.marginal().covariance_matrix @ off.T).diagonal().detach()
    ratio = ((between[0] + within) / u).sqrt().numpy()  # (4,)
    normal = multivariate_normal(0, 1)
    expected = [np.mean(2 * normal.cdf(ratio * np.sqrt(chi2.ppf(p, 1))) - 1) for p in LEVELS]
    np.testing.assert_allclose(found.share, expected, atol=Z * 0.5 / 2000**0.5)
    assert ((found.low < torch.tensor(expected) + 0.01) & (torch.tensor(expected) - 0.01 < found.high)).all()


def test_intervals_of_bits_are_those_of_the_levels_whatever_their_probability():
    """Where z tells nothing, x' and x are alike: ranks among equal ones make the share that of the level."""
    likelihood = likelihoods.Bernoulli(networks.MLP(2, 6, hidden=()))
    vae = VAE(priors.StandardNormal(2), likelihood, encoders.DiagonalNormal(networks.MLP(6, 4)))
    with torch.no_grad():
        likelihood.network.layers[-1].weight.zero_()
        likelihood.network.layers[-1].bias.copy_(torch.tensor([-9.0, -3.0, -1.0, 0.0, 2.0, 9.0]))
    x = vae.sample(2000)
    found = predictive_coverage(vae, x, LEVELS)
    np.testing.assert_allclose(found.share, LEVELS, atol=Z * 0.5 / 12000**0.5)
    wrong = predictive_coverage(vae, 1 - x, LEVELS)
    assert (wrong.high < wrong.levels).all()


@pytest.mark.parametrize(("latent_dim", "factor"), [(1, 1.0), (1, 0.5), (2, 1.0), (2, 0.4)])
def test_masses_are_those_of_gaussian_regions_and_densities_those_of_the_posterior(latent_dim, factor):
    model, x = exact_posterior(latent_dim)
    vae = narrowed(model, factor)
    for datum, found in zip(x[:2], posterior_regions(vae, x[:2], LEVELS), strict=True):
        expected = chi2.cdf(factor**2 * chi2.ppf(LEVELS, latent_dim), latent_dim)
        np.testing.assert_allclose(found.mass, expected, atol=0.01)  # cells are of a size
        z = torch.cartesian_prod(*found.nodes).reshape(-1, latent_dim)
        p = model.posterior(datum[None]).log_prob(z).exp()
        torch.testing.assert_close(found.truth.flatten(), p, rtol=1e-5, atol=1e-6 * p.max().item())
        torch.testing.assert_close(found.guide.flatten(), vae.encode(datum[None]).log_prob(z).exp())
        torch.testing.assert_close(found.log_likelihood, model.log_likelihood(datum[None])[0])


def test_a_narrow_posterior_far_away_is_found():
    model = exact.LinearGaussian(
        latent_dim=2, data_dim=4, scale=0.02
    )  # standard deviations below the coarse grid's step
    model.solve_encoder()
    x = model.sample(3) + 3 * model.weight.detach().sum(1)
    for region, log_likelihood in zip(posterior_regions(model.vae, x, LEVELS), model.log_likelihood(x), strict=True):
        torch.testing.assert_close(region.log_likelihood, log_likelihood, rtol=0, atol=1e-2)


def test_there_is_none_where_no_grid_holds_both_a_narrow_posterior_and_a_wide_guide():
    model = exact.LinearGaussian(latent_dim=1, data_dim=4, scale=0.01)
    model.solve_encoder()
    assert posterior_regions(narrowed(model, 1000.0), model.sample(2), LEVELS) == [None, None]


def test_regions_of_three_dimensions_are_refused():
    model, x = exact_posterior(3)
    with pytest.raises(ValueError, match="one or two dimensions, but z has 3"):
        posterior_regions(model.vae, x[:1], LEVELS)
