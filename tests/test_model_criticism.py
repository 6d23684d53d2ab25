"""Is the model any good? Predictive checks, a two-sample test, distances and probes, where the answer is known."""

import numpy as np
import pytest
import torch
from pyro.distributions import Normal
from scipy import stats
from scipy.linalg import sqrtm

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.diagnostics.frechet import frechet_distance, principal_components
from pyrovae.diagnostics.predictive import COUNTS, IMAGES, TABLES, predictive_checks, statistics_of
from pyrovae.diagnostics.representation import classification, disentanglement, latent_means
from pyrovae.diagnostics.two_sample import two_sample
from pyrovae.exact import LinearGaussian


def test_prior_p_values_are_uniform_for_data_of_the_model():
    model = LinearGaussian(latent_dim=2, data_dim=4)
    found = [predictive_checks(model.vae, model.sample(30, seed=s), num_replications=19, seed=s) for s in range(100)]
    for name in TABLES:
        p = np.array([checks[name].p_value for checks in found])  # of 20 equally likely ranks
        counts = np.histogram(p, [0, 0.25, 0.45, 0.65, 0.85, 1.01])[0]
        assert stats.chisquare(counts).pvalue > 1e-3, name


def test_what_differs_is_told_and_what_does_not_is_not():
    model = LinearGaussian(latent_dim=2, data_dim=4)
    x = 2 * model.sample(200)
    for kind in ("prior", "posterior"):
        checks = predictive_checks(model.vae, x, kind)
        assert checks["standard deviation"].p_value == pytest.approx(2 / 201)
        assert checks["standard deviation"].observed > checks["standard deviation"].replicated.max()
    again = predictive_checks(model.vae, x)
    assert torch.equal(again["mean"].replicated, predictive_checks(model.vae, x)["mean"].replicated)
    assert predictive_checks(model.vae, x)["correlation"].p_value > 0.01  # a change of scale leaves it as it is


def test_a_wrong_likelihood_shows():
    """Binary images under a normal distribution: no replicated pixel is 0 or 1."""
    decode, encode = networks.MLP(2, (1, 4, 4)), networks.MLP((1, 4, 4), 2 * 2)
    x = (torch.rand(50, 1, 4, 4) < 0.3).float()
    wrong = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
    checks = predictive_checks(wrong, x, "posterior")
    assert checks.keys() == IMAGES.keys()
    assert checks["share of zeros"].p_value == pytest.approx(2 / 201)
    assert checks["share of zeros"].replicated.max() == 0


def test_statistics_suit_the_data_and_are_what_they_are_called():
    counts = torch.tensor([[0.0, 3.0], [2.0, 5.0], [4.0, 4.0]])
    assert statistics_of(counts) is COUNTS
    assert statistics_of(counts - 1) is TABLES
    assert statistics_of(counts.clamp(max=1)) is TABLES
    assert statistics_of(counts[..., None, None]) is COUNTS
    assert statistics_of(counts[..., None, None] / 5) is IMAGES
    assert statistics_of(counts[:, :1] - 1).keys() == TABLES.keys() - {"correlation"}
    np.testing.assert_allclose(COUNTS["dispersion"](counts), np.mean([4 / 2, 1 / 4]))
    x = torch.randn(40, 3).exp()
    z = (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0, ddof=1)
    np.testing.assert_allclose(TABLES["skewness"](x), (z**3).mean(), rtol=1e-5)
    r = np.corrcoef(x.numpy().T)
    np.testing.assert_allclose(TABLES["correlation"](x), np.abs(r[np.triu_indices(3, 1)]).mean(), rtol=1e-5)
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    np.testing.assert_allclose(IMAGES["roughness"](image), ((1 + 0) / 2 + (0.5 + 0.5) / 2) / 2)


def test_where_a_statistic_is_no_number_there_is_no_p_value():
    model = LinearGaussian(latent_dim=1, data_dim=1)
    x = model.sample(20)
    statistics = {
        "never": TABLES["correlation"],
        "not of the data": lambda t: torch.where((t == x).all(), torch.inf, t.mean()),
        "not of all draws": lambda t: torch.where(t.mean() > 0, torch.nan, t.mean()),
    }
    found = predictive_checks(model.vae, x, statistics=statistics, num_replications=20)
    assert all(np.isnan(check.p_value) for check in found.values())
    assert not any(np.isnan(check.p_value) for check in predictive_checks(model.vae, x).values())


def test_checks_of_ones_own_and_what_is_refused():
    model = LinearGaussian(latent_dim=2, data_dim=4)
    x = model.sample(20)
    assert predictive_checks(model.vae, x, statistics={"largest": torch.max}).keys() == {"largest"}
    with pytest.raises(ValueError, match="'prior' or 'posterior', not 'both'"):
        predictive_checks(model.vae, x, "both")
    with pytest.raises(ValueError, match="at least 2 data"):
        predictive_checks(model.vae, x[:1])


def test_the_two_sample_test_has_its_level_and_finds_what_differs():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 200, 40, 3, generator=generator)
    p = np.array([two_sample(a, b, 99, seed).p_value for seed, (a, b) in enumerate(zip(x, y, strict=True))])
    assert stats.binomtest(int((p <= 0.1).sum()), len(p), 0.1).pvalue > 1e-3
    assert stats.kstest(p, stats.uniform(0, 1).cdf).pvalue > 1e-3
    assert two_sample(x[0], y[0] + 1).p_value == 1 / 501
    for of in ((x[0], y[0, :, :2]), (x[0, :1], y[0])):
        with pytest.raises(ValueError, match="at least two data each, alike in shape, not"):
            two_sample(*of)
    z = torch.randn(800, 2, generator=generator)
    crossed = torch.stack([z[:, 0], z[:, 0] * z[:, 1].sign()], 1)  # the same means, variances and margins
    assert two_sample(z[:400], crossed[400:]).p_value < 0.01


def test_the_statistic_is_gretton_s():
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    pooled = torch.cat([x, y]).numpy()
    d = np.linalg.norm(pooled[:, None] - pooled, axis=-1)
    median = np.sort(d[~np.eye(10, dtype=bool)])[(90 - 1) // 2]
    k = np.mean([np.exp(-(d**2) / (2 * (h * median) ** 2)) for h in (1 / 4, 1 / 2, 1, 2, 4)], 0)
    xx = k[:6, :6][~np.eye(6, dtype=bool)].mean()
    yy = k[6:, 6:][~np.eye(4, dtype=bool)].mean()
    np.testing.assert_allclose(two_sample(x, y).value, xx + yy - 2 * k[:6, 6:].mean())


def test_the_frechet_distance_of_normal_distributions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(300, 4)) + 1
    s, t = np.cov(x.T), np.cov(y.T)
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    np.testing.assert_allclose(frechet_distance(torch.tensor(x), torch.tensor(y)), exact, rtol=1e-8)
    assert abs(frechet_distance(torch.tensor(x), torch.tensor(x))) < 1e-9
    flat = torch.tensor(x) * torch.tensor([1.0, 1, 0, 1])  # of a singular covariance
    assert frechet_distance(flat, flat) < 1e-9
    with pytest.raises(ValueError, match="alike in features"):
        frechet_distance(torch.zeros(3, 2), torch.zeros(3, 4))


def test_principal_components_are_rotations():
    x = torch.randn(30, 1, 2, 3, dtype=torch.float64)
    first, second = principal_components(x, x[:5] + 1, num_components=50)
    assert first.shape == (30, 6)
    torch.testing.assert_close(torch.cdist(first, first), torch.cdist(x.flatten(1), x.flatten(1)))
    torch.testing.assert_close(torch.cdist(first, second), torch.cdist(x.flatten(1), x[:5].flatten(1) + 1))


def test_probes_tell_labels_as_well_as_they_can_be_told():
    """Two normal distributions at -1 and 1: the best rule is right with probability Phi(1)."""
    y = torch.arange(8000) % 2
    z = torch.randn(8000, 3) + torch.tensor([2.0, 0, 0]) * (y[:, None] - 0.5)
    found = classification((z[:4000], y[:4000]), (z[4000:], y[4000:]), neighbours=51)
    best = Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()
    assert abs(found.linear_probe - best) < 4 * found.std_error
    assert abs(found.nearest_neighbours - best) < 6 * found.std_error
    assert found.most_frequent == 0.5
    noise = classification((z[:4000, 1:], y[:4000]), (z[4000:, 1:], y[4000:]))
    assert abs(noise.linear_probe - 0.5) < 4 * noise.std_error
    with pytest.raises(ValueError, match="nothing to tell apart"):
        classification((z, y * 0), (z, y))


def test_disentangled_and_entangled_factors():
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(6))
    apart = disentanglement(factors.double(), factors)
    assert apart.mig == pytest.approx(1)
    assert apart.information.diagonal().tolist() == pytest.approx([1, 1])
    assert apart.accuracy.tolist() == [pytest.approx([1, 1 / 6]), pytest.approx([1 / 4, 1])]
    assert apart.sap == pytest.approx((3 / 4 + 5 / 6) / 2)
    twice = disentanglement(factors.double()[:, [0, 1, 0, 1]], factors)  # told by two dimensions alike
    assert twice.mig == pytest.approx(0, abs=1e-9)
    assert twice.sap == pytest.approx(0, abs=1e-9)
    dead = disentanglement(torch.cat([factors.double(), torch.zeros(24, 1)], 1), factors)
    assert dead.mig == pytest.approx(1)
    with pytest.raises(ValueError, match="factor 1 never varies"):
        disentanglement(factors.double(), factors * torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="at least two"):
        disentanglement(factors.double()[:, :1], factors)


def test_mutual_information_is_that_of_the_joint_distribution():
    """z_0 tells v up to a confusion of neighbours: H(v) - H(v | z) by hand."""
    v = torch.arange(4).repeat_interleave(30)
    z = torch.stack([(v // 2).double(), torch.arange(120).double() % 30], 1)
    found = disentanglement(z, v[:, None], bins=30)
    np.testing.assert_allclose(found.information[:, 0], [np.log(2) / np.log(4), 0], atol=1e-12)


def test_latent_means_are_those_of_the_encoder():
    model = LinearGaussian(latent_dim=2, data_dim=4)
    model.solve_encoder()
    x = model.sample(15)
    torch.testing.assert_close(latent_means(model.vae, x, batch_size=4), model.posterior(x).mean)
