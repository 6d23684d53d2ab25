"""Exact answers, against ones found in other ways: scipy, scikit-learn, numpy sums, quadrature, differences, draws."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.stats import kstest, multivariate_normal, norm
from sklearn.decomposition import PCA
from torch import nn

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.exact import BernoulliToy, GaussianMixture, GaussianToy, LinearGaussian, grid_posterior

MODELS = {
    "LinearGaussian": lambda: LinearGaussian(2, 4, scale=0.7, seed=1),
    "GaussianToy": lambda: shifted(GaussianToy(3)),
    "BernoulliToy": lambda: BernoulliToy(3, 5, seed=1),
    "GaussianMixture": lambda: GaussianMixture(3, 4, seed=1),
}
over_models = pytest.mark.parametrize("name", MODELS)
over_gaussians = pytest.mark.parametrize("name", ["LinearGaussian", "GaussianToy"])


def shifted(model):
    model.perturb(0.5, seed=1)
    return model


def array(tensor):
    return tensor.detach().numpy()


def parts(model):
    """m, W, b, s of p(z) = N(m, I) and p(x | z) = N(W z + b, s^2 I), told from draws of the VAE's own distributions."""
    prior = model.vae.prior()
    d = prior.event_shape[0]
    points = torch.cat([torch.zeros(1, d), torch.eye(d)]).double()
    p = model.vae.likelihood(points)
    mean = array(p.mean)
    assert array(prior.stddev) == pytest.approx(1)
    return array(prior.mean), (mean[1:] - mean[0]).T, mean[0], p.stddev[0, 0].item()


def exact_posterior(model, x):
    """Mean and covariance of p(z | x) by conditioning the joint Gaussian of (z, x), in numpy."""
    m, w, b, s = parts(model)
    covariance = w @ w.T + s**2 * np.eye(len(b))
    gain = np.linalg.solve(covariance, w).T
    return m + (array(x) - w @ m - b) @ gain.T, np.eye(len(m)) - gain @ w


def random_gaussian(d, batch=(), seed=0):
    """A Gaussian of full covariance, wide enough for importance sampling."""
    rng = np.random.default_rng(seed)
    factor = torch.from_numpy(0.3 * rng.normal(size=(*batch, d, d))) + torch.eye(d)
    return dist.MultivariateNormal(torch.from_numpy(rng.normal(size=(*batch, d))), factor @ factor.mT)


def differences(function, parameters, step=1e-6):
    """Central differences of a function of parameters, which are changed and put back."""
    gradients = []
    with torch.no_grad():
        for parameter in parameters:
            flat, gradient = parameter.view(-1), []
            for i in range(len(flat)):
                was = flat[i].item()
                flat[i] = was + step
                above = function().item()
                flat[i] = was - step
                below = function().item()
                flat[i] = was
                gradient.append((above - below) / (2 * step))
            gradients.append(np.reshape(gradient, parameter.shape))
    return gradients


# All models


@over_models
def test_the_model_is_a_vae_in_double_precision_with_one_answer_for_each_datum(name):
    model = MODELS[name]()
    x = model.sample(7)
    assert isinstance(model.vae, VAE)
    assert {tensor.dtype for tensor in model.vae.state_dict().values()} == {torch.float64}
    for answer in (model.log_likelihood(x), model.elbo(x), model.gap(x)):
        assert answer.shape == (7,)
        assert answer.dtype == torch.float64
    torch.testing.assert_close(model.log_likelihood(x[2:3]), model.log_likelihood(x)[2:3])


@over_models
def test_elbo_and_gap_add_up_to_the_log_likelihood(name):
    model = MODELS[name]()
    x = model.sample(50)
    torch.testing.assert_close(model.elbo(x) + model.gap(x), model.log_likelihood(x), rtol=1e-12, atol=0)
    assert (model.gap(x) > 0).all()


@over_models
@pytest.mark.parametrize("answer", ["elbo", "log_likelihood", "gap"])
def test_gradients_are_those_of_finite_differences(name, answer):
    model = MODELS[name]()
    x = model.sample(6)
    used = [p for key, p in model.vae.named_parameters() if answer != "log_likelihood" or not key.startswith("encoder")]
    gradients = torch.autograd.grad(getattr(model, answer)(x).sum(), used)
    for actual, expected in zip(gradients, differences(lambda: getattr(model, answer)(x).sum(), used), strict=True):
        assert array(actual) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@over_models
def test_elbo_is_the_mean_of_the_vaes_own_log_weights(name):
    """z-tests, one for each datum, two-sided at level 1e-4, of 20,000 draws."""
    model = MODELS[name]()
    x, vae = model.sample(5), model.vae
    with torch.no_grad():
        q = vae.encode(x)
        z = q.sample((20_000,))
        log_weight = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z)
        error = log_weight.mean(0) - model.elbo(x)
    assert (error.abs() < 3.9 * log_weight.std(0) / 20_000**0.5).all()


@over_models
def test_answers_follow_the_parameters_after_training(name):
    model = MODELS[name]()
    x = model.sample(20)
    before = model.elbo(x).mean().item()
    optim = torch.optim.Adam(model.vae.parameters(), lr=0.05)
    for _ in range(20):
        optim.zero_grad()
        (-model.elbo(x).mean()).backward()
        optim.step()
    assert model.elbo(x).mean() > before + 0.1
    torch.testing.assert_close(model.elbo(x) + model.gap(x), model.log_likelihood(x), rtol=1e-11, atol=0)


@over_models
def test_draws_are_fixed_by_a_seed_and_leave_the_random_state_alone(name):
    model, state = MODELS[name](), torch.get_rng_state()
    x = model.sample(5, seed=1)
    assert torch.equal(x, model.sample(5, seed=1))
    assert not torch.equal(x, model.sample(5, seed=2))
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    same = MODELS[name]()
    assert torch.equal(model.elbo(x), same.elbo(x))
    assert torch.equal(torch.get_rng_state(), state)


@over_models
def test_float32_data_are_taken_and_other_shapes_refused(name):
    model = MODELS[name]()
    x = model.sample(5).float()
    torch.testing.assert_close(model.elbo(x), model.elbo(x.double()))
    for answer in (model.log_likelihood, model.posterior, model.elbo, model.gap):
        for bad in (x[0], x[:, 1:], x[None], x.long()):
            with pytest.raises(ValueError, match="x holds"):
                answer(bad)


# Linear-Gaussian models


@over_gaussians
def test_log_likelihood_and_marginal_are_scipys(name):
    model = MODELS[name]()
    m, w, b, s = parts(model)
    expected = multivariate_normal(w @ m + b, w @ w.T + s**2 * np.eye(len(b)))
    x = model.sample(20)
    assert array(model.log_likelihood(x)) == pytest.approx(expected.logpdf(x), rel=1e-12)
    assert array(model.marginal().mean) == pytest.approx(expected.mean)
    assert array(model.marginal().covariance_matrix) == pytest.approx(expected.cov)


@over_gaussians
def test_posterior_is_the_joint_gaussian_conditioned(name):
    model = MODELS[name]()
    x = model.sample(20)
    mean, covariance = exact_posterior(model, x)
    p = model.posterior(x)
    assert (p.batch_shape, p.event_shape) == ((20,), mean.shape[1:])
    assert array(p.mean) == pytest.approx(mean, rel=1e-12)
    assert array(p.covariance_matrix) == pytest.approx(np.broadcast_to(covariance, (20, *covariance.shape)), abs=1e-14)


def test_parameters_are_what_they_are_called():
    model = LinearGaussian(2, 4, scale=0.7)
    m, w, b, s = parts(model)
    assert array(model.weight) == pytest.approx(w)
    assert array(model.bias) == pytest.approx(b)
    assert model.scale.item() == pytest.approx(s, rel=1e-15)
    assert s == pytest.approx(0.7, rel=1e-15)
    assert np.abs(w[:, 0] @ w[:, 1]) > 0.1  # the posterior is not diagonal
    assert (m == 0).all()
    assert model.weight.requires_grad
    assert model.scale.requires_grad


def test_draws_of_the_linear_gaussian_follow_its_density():
    """Kolmogorov-Smirnov tests of each element and of two sums, at level 1e-3."""
    model = LinearGaussian(2, 4, scale=0.7)
    x, (_, w, b, s) = array(model.sample(4000)), parts(model)
    covariance = w @ w.T + s**2 * np.eye(4)
    for a in (*np.eye(4), np.ones(4), np.array([1, -1, 2, 0])):
        assert kstest(x @ a, norm(a @ b, (a @ covariance @ a) ** 0.5).cdf).pvalue > 1e-3


def kl_and_elbo_in_one_dimension(model, x, loc, scale):
    """KL(q || p(z | x)) and L(x) by adaptive quadrature, in one latent dimension."""
    m, w, b, s = parts(model)
    mean, covariance = (float(np.squeeze(value)) for value in exact_posterior(model, x))
    q, p = norm(loc, scale), norm(mean, covariance**0.5)

    def joint(z):
        return norm(m[0], 1).logpdf(z) + norm(w[:, 0] * z + b, s).logpdf(array(x)[0]).sum()

    limits = loc - 12 * scale, loc + 12 * scale
    kl = quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *limits, epsabs=1e-12)[0]
    return kl, quad(lambda z: q.pdf(z) * (joint(z) - q.logpdf(z)), *limits, epsabs=1e-12)[0]


@pytest.mark.parametrize("make", [lambda: LinearGaussian(1, 3), lambda: shifted(GaussianToy(1))])
@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.9), (-1.0, 0.2)])
def test_elbo_and_gap_of_any_gaussian_are_the_integrals(make, loc, scale):
    model = make()
    x = model.sample(1)
    kl, elbo = kl_and_elbo_in_one_dimension(model, x, loc, scale)
    mean, std = torch.tensor([[loc], [scale]], dtype=torch.float64)
    diagonal, full = dist.Normal(mean, std).to_event(1), dist.MultivariateNormal(mean, std.square()[:, None])
    for q in (diagonal, full):
        assert model.gap(x, q).item() == pytest.approx(kl, rel=1e-8)
        assert model.elbo(x, q).item() == pytest.approx(elbo, rel=1e-8)


@over_gaussians
@pytest.mark.parametrize("batch", [(), (6,)])
def test_elbo_of_a_full_covariance_is_the_mean_of_log_weights(name, batch):
    """z-tests, one for each datum, two-sided at level 1e-4, of 20,000 draws."""
    model = MODELS[name]()
    x, q = model.sample(6), random_gaussian(len(model.loc), batch)
    z = q.sample((20_000,)) if batch else q.sample((20_000, 1))
    with torch.no_grad():
        log_weight = model.vae.prior().log_prob(z) + model.vae.likelihood(z).log_prob(x) - q.log_prob(z)
        assert ((log_weight.mean(0) - model.elbo(x, q)).abs() < 3.9 * log_weight.std(0) / 20_000**0.5).all()
    torch.testing.assert_close(model.elbo(x, q) + model.gap(x, q), model.log_likelihood(x), rtol=1e-12, atol=0)


@over_gaussians
def test_with_the_posterior_for_q_nothing_is_missing(name):
    model = MODELS[name]()
    x = model.sample(6)
    p = model.posterior(x)
    torch.testing.assert_close(model.elbo(x, p), model.log_likelihood(x), rtol=1e-12, atol=0)
    for missing in (model.gap(x, p), model.iwae_limit(x, p)):
        assert array(missing) == pytest.approx(0, abs=1e-12)


@over_gaussians
def test_a_q_that_is_no_gaussian_vector_is_refused(name):
    model = MODELS[name]()
    x, zeros = model.sample(6), torch.zeros(6, len(model.loc)).double()
    for q in (dist.Laplace(zeros, 1.0).to_event(1), dist.Normal(zeros, 1.0), dist.Normal(zeros, 1.0).to_event(2)):
        for answer in (model.elbo, model.gap, model.iwae_limit):
            with pytest.raises(ValueError, match="q must be a MultivariateNormal"):
                answer(x, q)


# The limit of IWAE


@pytest.mark.parametrize("make", [lambda: LinearGaussian(1, 3), lambda: shifted(GaussianToy(1))])
@pytest.mark.parametrize("ratio", [0.75, 1.0, 3.0])
def test_iwae_limit_is_half_the_integral_of_chi_square(make, ratio):
    model = make()
    x = model.sample(1)
    mean, covariance = (float(np.squeeze(value)) for value in exact_posterior(model, x))
    p = norm(mean, covariance**0.5)
    q = norm(mean + 0.3 * p.std(), ratio * p.std())
    limits = mean - 40 * p.std(), mean + 40 * p.std()
    chi_square = quad(lambda z: math.exp(2 * p.logpdf(z) - q.logpdf(z)), *limits, epsabs=1e-12, limit=200)[0] - 1
    given = dist.Normal(torch.tensor([q.mean()]), torch.tensor([q.std()])).to_event(1)
    assert model.iwae_limit(x, given).item() == pytest.approx(chi_square / 2, rel=1e-7)


@pytest.mark.parametrize("ratio", [0.1, 0.7])
def test_iwae_limit_is_infinite_where_chi_square_is(ratio):
    """In one direction of two is enough; below a ratio of standard deviations of 2^(-1/2) = 0.7071 it diverges."""
    model = LinearGaussian(2, 4)
    x = model.sample(5)
    p = model.posterior(x)
    values, vectors = torch.linalg.eigh(p.covariance_matrix)
    narrow = (vectors * (values * torch.tensor([ratio**2, 4.0]).double())[:, None]) @ vectors.mT
    finite = (vectors * (values * torch.tensor([0.7072**2, 4.0]).double())[:, None]) @ vectors.mT
    limit = model.iwae_limit(x, dist.MultivariateNormal(p.mean, narrow))
    assert (limit == math.inf).all()
    assert model.iwae_limit(x, dist.MultivariateNormal(p.mean, finite)).isfinite().all()


def test_iwae_limit_where_some_data_diverge_has_gradients_for_the_others():
    model = LinearGaussian(2, 4)
    x = model.sample(2)
    p = model.posterior(x)
    scale = torch.tensor([0.1, 1.5]).double()[:, None, None].requires_grad_()
    limit = model.iwae_limit(x, dist.MultivariateNormal(p.mean.detach(), scale * p.covariance_matrix.detach()))
    assert limit.isfinite().tolist() == [False, True]
    (gradient,) = torch.autograd.grad(limit[1], scale)
    assert gradient.isfinite().all()
    assert gradient[1] != 0


@over_gaussians
def test_iwae_falls_short_by_the_limit_over_k(name):
    """A z-test at level 1e-3: K (log p - IWAE_K) from 2 x 10,000 draws of K and 2 K weights, its 1 / K term taken off.

    E[w / p(x)] = 1, so w / p(x) - 1 is subtracted without a change in the mean.
    """
    model = MODELS[name]()
    x, runs = model.sample(1), 10_000
    q = dist.MultivariateNormal(model.posterior(x).mean + 0.15, 1.3 * model.posterior(x).covariance_matrix)

    def shortfall(k):
        with torch.no_grad():
            z = q.sample((runs, k))
            log_joint = model.vae.prior().log_prob(z) + model.vae.likelihood(z).log_prob(x)
            mean = (log_joint - q.log_prob(z) - model.log_likelihood(x)).exp().mean(1)  # (runs, 1)
        return k * (mean - 1 - mean.log())

    one, two = shortfall(64), shortfall(128)
    estimate = 2 * two.mean() - one.mean()
    std_error = ((4 * two.var() + one.var()) / runs) ** 0.5
    limit = model.iwae_limit(x, q)
    assert std_error < 0.05 * limit
    assert abs(estimate - limit) < 3.29 * std_error


# Probabilistic PCA


def ppca_data(n=300, d=5):
    rng = np.random.default_rng(4)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + 0.4 * rng.normal(size=(n, d)) + rng.normal(size=d)


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_maximum_likelihood_is_scikit_learns_and_the_closed_form(latent_dim):
    data = ppca_data()
    x = torch.from_numpy(data)
    model = LinearGaussian.maximum_likelihood(x, latent_dim)
    n, d = data.shape
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(data.T, bias=True)))[::-1]
    s2 = eigenvalues[latent_dim:].mean()
    kept = np.log(eigenvalues[:latent_dim]).sum()
    closed = -0.5 * (d * np.log(2 * np.pi) + kept + (d - latent_dim) * np.log(s2) + d)
    assert model.log_likelihood(x).mean().item() == pytest.approx(closed, rel=1e-12)
    assert model.scale.item() == pytest.approx(s2**0.5, rel=1e-12)
    # scikit-learn divides by N - 1 throughout.
    covariance = PCA(latent_dim).fit(data).get_covariance() * (n - 1) / n
    assert array(model.marginal().covariance_matrix) == pytest.approx(covariance, rel=1e-9)
    assert array(model.bias) == pytest.approx(data.mean(0))


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_at_maximum_likelihood_the_elbo_is_the_log_likelihood(latent_dim):
    x = torch.from_numpy(ppca_data())
    model = LinearGaussian.maximum_likelihood(x, latent_dim)
    torch.testing.assert_close(model.elbo(x), model.log_likelihood(x), rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(model.elbo(x).mean(), model.vae.parameters())
    assert all(array(gradient) == pytest.approx(0, abs=1e-8) for gradient in gradients)
    assert array(model.iwae_limit(x)) == pytest.approx(0, abs=1e-10)


def test_no_neighbour_of_the_maximum_is_better():
    x = torch.from_numpy(ppca_data())
    model = LinearGaussian.maximum_likelihood(x, 2)
    best = model.log_likelihood(x).mean().item()
    for seed in range(20):
        other = LinearGaussian.maximum_likelihood(x, 2)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in other.vae.likelihood.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        assert other.log_likelihood(x).mean().item() < best


def test_rotation_keeps_the_likelihood_and_opens_the_known_gap():
    x = torch.from_numpy(ppca_data())
    model = LinearGaussian.maximum_likelihood(x, 2)
    before = model.log_likelihood(x)
    c, s = math.cos(0.6), math.sin(0.6)
    with torch.no_grad():
        model.weight.copy_(model.weight @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    model.solve_encoder()
    torch.testing.assert_close(model.log_likelihood(x), before, rtol=1e-12, atol=0)
    w, s2 = array(model.weight), model.scale.item() ** 2
    m = w.T @ w + s2 * np.eye(2)
    gap = 0.5 * (np.log(np.diag(m)).sum() - np.linalg.slogdet(m)[1])
    assert gap > 0.01
    assert array(model.gap(x)) == pytest.approx(gap, rel=1e-9)
    assert array(before - model.elbo(x)) == pytest.approx(gap, rel=1e-9)


def test_the_solved_encoder_is_the_best_of_its_family():
    model = LinearGaussian(3, 5)
    model.solve_encoder()
    x = model.sample(50)
    gradients = torch.autograd.grad(model.elbo(x).sum(), model.vae.encoder.parameters())
    assert all(array(gradient) == pytest.approx(0, abs=1e-9) for gradient in gradients)
    q, (mean, _) = model.vae.encode(x), exact_posterior(model, x)
    assert array(q.mean) == pytest.approx(mean)


@pytest.mark.parametrize("latent_dim", [0, 5, 6])
def test_maximum_likelihood_of_too_many_dimensions_is_refused(latent_dim):
    with pytest.raises(ValueError, match=rf"latent_dim must be .* below the 5 of the data, not {latent_dim}"):
        LinearGaussian.maximum_likelihood(torch.from_numpy(ppca_data()), latent_dim)


def test_data_without_a_maximum_of_the_likelihood_are_refused():
    x = torch.from_numpy(ppca_data())
    for degenerate in (x[:3], torch.zeros(10, 5), x[:, :2] @ torch.randn(2, 5).double()):
        with pytest.raises(ValueError, match="take fewer dimensions, more data"):
            LinearGaussian.maximum_likelihood(degenerate, 2)
    with pytest.raises(ValueError, match=r"shape \(N, data_dim\), not \(300, 5, 1\)"):
        LinearGaussian.maximum_likelihood(x[..., None], 2)


def test_an_encoder_below_the_least_scale_is_refused():
    model = LinearGaussian(1, 3, scale=0.001)
    with torch.no_grad():
        model.weight.fill_(100.0)
    with pytest.raises(ValueError, match=r"below the encoder's least of 0\.0001"):
        model.solve_encoder()


# The toy of Rainforth et al.


@pytest.mark.parametrize(("variance", "gap"), [(2 / 3, 0.45651), (4 / 9, 0.06672)])
def test_gap_at_the_optimum_is_the_known_number(variance, gap):
    model = GaussianToy(20, variance)
    x = model.sample(1024)
    model.solve(x)
    assert array(model.gap(x)) == pytest.approx(gap, abs=5e-6)
    ratio = 2 * variance
    assert array(model.gap(x)) == pytest.approx(10 * (ratio - 1 - math.log(ratio)), rel=1e-10)


def test_the_optimum_has_the_papers_parameters_and_no_gradient():
    model = GaussianToy(4)
    x = model.sample(100)
    model.solve(x)
    parameters = dict(model.vae.named_parameters())
    mu, layer = array(x).mean(0), "encoder.network.layers.1"
    assert set(parameters) == {"prior.loc", f"{layer}.weight", f"{layer}.bias"}
    assert array(parameters["prior.loc"]) == pytest.approx(mu)
    assert array(parameters[f"{layer}.weight"]) == pytest.approx(np.eye(4) / 2)
    assert array(parameters[f"{layer}.bias"]) == pytest.approx(mu / 2)
    gradients = torch.autograd.grad(model.elbo(x).mean(), model.vae.parameters())
    assert all(array(gradient) == pytest.approx(0, abs=1e-12) for gradient in gradients)


def test_the_toy_is_that_of_the_paper():
    model = GaussianToy()
    _, w, b, s = parts(model)
    assert (len(b), s) == (20, pytest.approx(1, rel=1e-15))
    assert np.array_equal(w, np.eye(20))
    assert (b == 0).all()
    assert array(model.vae.encode(model.sample(3)).variance) == pytest.approx(2 / 3, rel=1e-15)


def test_the_toys_data_have_one_mean_and_the_variance_two():
    """Chi-square and z-tests at level 1e-3."""
    x = array(GaussianToy().sample(4000, seed=5))
    squares = ((x - x.mean(0)) ** 2).sum() / 2  # chi-square of 20 * 3999
    assert abs(squares - 20 * 3999) < 3.29 * (2 * 20 * 3999) ** 0.5
    assert kstest(x.mean(0), norm(0, 1).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x.T) - np.eye(20)).max() < 5 * 4000**-0.5


def test_perturb_offsets_every_parameter_alike():
    model, other = GaussianToy(), GaussianToy()
    other.perturb(0.01, seed=3)
    pairs = zip(other.vae.parameters(), model.vae.parameters(), strict=True)
    offsets = np.concatenate([array(a - b).ravel() for a, b in pairs])
    assert len(offsets) == 20 + 400 + 20
    assert kstest(offsets, norm(0, 0.01).cdf).pvalue > 1e-3
    other.perturb(0.01, seed=3)
    assert array(other.loc - model.loc) == pytest.approx(2 * offsets[:20])


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_variance_of_no_gaussian_is_refused(variance):
    with pytest.raises(ValueError, match="variance must be a finite number above 0"):
        GaussianToy(2, variance)


# The sigmoid belief network


def brute_force(model, x):
    """log p(x, z) and log q(z | x) of all states, by loops over elements: `(B, 2^D)`."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def log_prob(v, p):
        return sum(math.log(p_i if v_i else 1 - p_i) for v_i, p_i in zip(v, p, strict=True))

    values = {key: array(value) for key, value in model.vae.named_parameters()}
    decoder, encoder = (
        SimpleNamespace(w=values[f"{k}.network.layers.1.weight"], b=values[f"{k}.network.layers.1.bias"])
        for k in ("likelihood", "encoder")
    )
    a = values["prior.logits"]
    states = [np.array(z) for z in itertools.product([0, 1], repeat=len(a))]
    joint = [
        [log_prob(z, sigmoid(a)) + log_prob(v, sigmoid(decoder.w @ z + decoder.b)) for z in states] for v in array(x)
    ]
    return np.array(joint), np.array(
        [[log_prob(z, sigmoid(encoder.w @ v + encoder.b)) for z in states] for v in array(x)]
    )


@pytest.mark.parametrize("latent_dim", [1, 3, 5])
def test_answers_of_the_network_are_the_sums_over_all_states(latent_dim):
    model = BernoulliToy(latent_dim, 4, seed=2)
    x = model.sample(6)
    assert np.array_equal(array(model.latents()), list(itertools.product([0, 1], repeat=latent_dim)))
    joint, log_q = brute_force(model, x)
    p, q = np.exp(joint).sum(1), np.exp(log_q)
    posterior = np.exp(joint) / p[:, None]
    assert array(model.log_likelihood(x)) == pytest.approx(np.log(p), rel=1e-12)
    assert array(model.posterior(x)) == pytest.approx(posterior, rel=1e-11)
    assert array(model.elbo(x)) == pytest.approx((q * (joint - log_q)).sum(1), rel=1e-12)
    assert array(model.gap(x)) == pytest.approx((q * (log_q - np.log(posterior))).sum(1), rel=1e-11)


def test_likelihoods_of_all_data_add_up_to_one():
    model = BernoulliToy(4, 6)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    assert model.log_likelihood(x).exp().sum().item() == pytest.approx(1, rel=1e-12)


def test_extreme_parameters_of_the_network_stay_finite():
    model = BernoulliToy(4, 6)
    x = model.sample(10)
    with torch.no_grad():
        for parameter in model.vae.parameters():
            parameter.mul_(300)
    gradients = torch.autograd.grad(model.elbo(x).sum(), model.vae.parameters())
    assert all(t.isfinite().all() for t in (model.log_likelihood(x), model.elbo(x), model.gap(x), *gradients))


def test_states_too_many_to_sum_are_refused():
    with pytest.raises(ValueError, match="latent_dim is at most 16"):
        BernoulliToy(latent_dim=17)
    with pytest.raises(ValueError, match="needs data in the support"):
        BernoulliToy(2, 3).elbo(torch.full((2, 3), 0.5))


# Quadrature


@pytest.mark.parametrize(("latent_dim", "num_points"), [(1, 201), (2, 161)])
def test_grid_finds_the_log_likelihood_and_posterior_of_the_linear_gaussian(latent_dim, num_points):
    model = LinearGaussian(latent_dim, 4, scale=0.7)
    x = model.sample(8)
    grid = grid_posterior(model.vae, x, num_points, limits=(-8, 8))
    _, w, b, s = parts(model)
    expected = multivariate_normal(b, w @ w.T + s**2 * np.eye(4)).logpdf(x)
    assert array(grid.log_likelihood) == pytest.approx(expected, abs=1e-8)
    assert (np.abs(array(grid.log_likelihood) - expected) <= array(grid.error) + 1e-12).all()
    assert grid.z.shape == (num_points**latent_dim, latent_dim)
    mean, covariance = exact_posterior(model, x)
    for density, m in zip(array(grid.density), mean, strict=True):
        assert density == pytest.approx(multivariate_normal(m, covariance).pdf(grid.z), abs=1e-8)


def test_points_of_two_dimensions_are_in_the_order_of_a_mesh():
    model = LinearGaussian(2, 3)
    x = model.sample(1)
    grid = grid_posterior(model.vae, x, 61, limits=[(-5, 7), (-8, 6)], tolerance=0.9)
    z = np.stack(np.meshgrid(np.linspace(-5, 7, 61), np.linspace(-8, 6, 61), indexing="ij"), -1)
    assert array(grid.z).reshape(61, 61, 2) == pytest.approx(z)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("num_points", [7, 8, 21, 40, 101])
@pytest.mark.parametrize("limits", [(-10, 10), (-6, 6), (-3, 4), (-1.5, 1)], ids=str)
def test_the_true_error_is_within_the_reported_one_or_the_grid_is_refused(latent_dim, num_points, limits):
    """Models from very sharp posteriors to flat ones, and 8 data each, at the greatest tolerance there is."""
    for seed, scale in enumerate([0.02, 0.15, 0.4, 1.0, 3.0]):
        model = LinearGaussian(latent_dim, 3, scale, seed)
        for v in model.sample(8)[:, None]:
            try:
                grid = grid_posterior(model.vae, v, num_points, limits, tolerance=1.0)
            except ValueError as error:
                assert "above the tolerance of 1" in str(error)  # noqa: PT017
            else:
                true = (grid.log_likelihood - model.log_likelihood(v)).abs()
                assert (true <= grid.error + 1e-10).all()


def test_a_grid_that_is_too_coarse_or_too_narrow_is_refused_with_advice():
    model = LinearGaussian(1, 3, scale=0.3)
    x = model.sample(20)
    with pytest.raises(ValueError, match=r"above the tolerance of 0\.001.*take more than 25 points"):
        grid_posterior(model.vae, x, num_points=25)
    with pytest.raises(ValueError, match=r"take wider limits than \(-1\.0, 1\.0\)"):
        grid_posterior(model.vae, x, limits=(-1.0, 1.0))
    grid = grid_posterior(model.vae, x)
    assert (grid.error <= 1e-3).all()


class Sharp(nn.Module):
    """A nonlinear map from z to the mean of x."""

    out_shape = (2,)

    def forward(self, z):
        return torch.stack([torch.sin(2 * z).sum(-1), z.square().sum(-1) / 2], -1)


def test_grid_of_a_nonlinear_decoder_in_one_dimension_is_scipys_integral():
    vae = VAE(
        priors.MixtureOfNormals(1, components=3),
        likelihoods.Normal(Sharp(), scale=0.4),
        encoders.DiagonalNormal(networks.MLP(2, 2)),
    ).double()
    x = torch.tensor([[0.5, 0.3], [-0.8, 1.0]]).double()
    grid = grid_posterior(vae, x, 401, limits=(-8, 8))
    prior, s = vae.prior(), vae.likelihood(torch.zeros(1).double()).stddev[0].item()
    weights, loc, scale = (
        array(t)
        for t in (
            prior.mixture_distribution.probs,
            prior.component_distribution.mean,
            prior.component_distribution.stddev,
        )
    )

    def joint(z, v):
        p_z = (weights * norm(loc[:, 0], scale[:, 0]).pdf(z)).sum()
        return p_z * norm(math.sin(2 * z), s).pdf(v[0]) * norm(z**2 / 2, s).pdf(v[1])

    for i, v in enumerate(array(x)):
        p_x = quad(joint, -8, 8, args=(v,), epsabs=1e-13, limit=400)[0]
        assert grid.log_likelihood[i].item() == pytest.approx(math.log(p_x), abs=1e-8)
        assert grid.density[i, 210].item() == pytest.approx(joint(grid.z[210].item(), v) / p_x, rel=1e-7)


def test_grid_of_images_in_two_dimensions_is_scipys_integral():
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (1, 2, 2), hidden=(8,), activation=nn.Tanh, initializer=nn.init.normal_)),
        encoders.DiagonalNormal(networks.MLP((1, 2, 2), 4)),
    ).double()
    x = torch.tensor([[[[1.0, 0], [0, 1]]]]).double()
    (_, first, _, last) = vae.likelihood.network.layers
    w, b, v, c = (array(t) for t in (first.weight, first.bias, last.weight, last.bias))
    sign = 2 * array(x).ravel() - 1

    def joint(z1, z0):
        logits = v @ np.tanh(w @ [z0, z1] + b) + c
        return math.exp(-(z0**2 + z1**2) / 2) / (2 * math.pi) / np.prod(1 + np.exp(-sign * logits))

    expected = math.log(dblquad(joint, -6.5, 6.5, -6.5, 6.5, epsabs=1e-7, epsrel=1e-6)[0])
    grid = grid_posterior(vae, x, 121, limits=(-6.5, 6.5))
    assert grid.log_likelihood.item() == pytest.approx(expected, abs=1e-6)


def test_float32_vaes_get_sums_in_float64_and_no_gradient():
    model = LinearGaussian(1, 3)
    x = model.sample(10)
    expected = model.log_likelihood(x)
    grid = grid_posterior(model.vae.float(), x.float())
    assert {t.dtype for t in grid} == {torch.float64}
    assert not any(t.requires_grad for t in grid)
    assert array(grid.log_likelihood) == pytest.approx(array(expected), abs=1e-5)


def test_the_mode_of_every_module_is_left_as_it_was():
    network = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    network[1].eval()
    vae = VAE(priors.StandardNormal(1), likelihoods.Normal(network), encoders.DiagonalNormal(networks.MLP(3, 2)))
    before, state = [m.training for m in vae.modules()], {k: v.clone() for k, v in vae.state_dict().items()}
    one, two = (grid_posterior(vae, torch.zeros(2, 3), tolerance=0.9) for _ in range(2))
    assert torch.equal(one.log_likelihood, two.log_likelihood)  # without dropout
    assert [m.training for m in vae.modules()] == before
    assert all(torch.equal(v, state[k]) for k, v in vae.state_dict().items())
    with pytest.raises(ValueError, match="tolerance"):
        grid_posterior(vae, torch.zeros(2, 3), num_points=7, tolerance=1e-12)
    assert [m.training for m in vae.modules()] == before


def test_no_more_than_the_limit_is_decoded_at_once(monkeypatch):
    """Neither of the grid's points nor of points and data together, and in chunks the result is the same."""
    sizes = []

    class Watched(likelihoods.Likelihood):
        support, remedy = dist.constraints.real, ""

        def forward(self, z):
            (loc,) = self.parameters_of(z)
            return Recording(loc, torch.ones(())).to_event(1)

        def marginal_parameters(self, x):
            return (x.mean(0),)

    class Recording(dist.Normal):
        def log_prob(self, value):
            result = super().log_prob(value)
            sizes.append((self.loc.numel(), result.numel()))
            return result

    network = networks.MLP(2, 50, hidden=(), initializer=nn.init.normal_)
    vae = VAE(priors.StandardNormal(2), Watched(network), encoders.DiagonalNormal(networks.MLP(50, 4))).double()
    x = 0.1 * torch.randn(7, 50).double()
    whole = grid_posterior(vae, x, 161)
    sizes.clear()
    monkeypatch.setattr("pyrovae.quadrature._CHUNK", 50 * 1500)
    chunks = grid_posterior(vae, x, 161)
    assert len(sizes) > 7
    assert max(max(pair) for pair in sizes) <= 50 * 1500
    for a, b in zip(whole, chunks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-300)


def test_what_has_no_grid_is_refused():
    three = LinearGaussian(3, 5)
    with pytest.raises(ValueError, match=r"one or two dimensions, but z has 3.*evaluation\.log_likelihood"):
        grid_posterior(three.vae, three.sample(2))
    discrete = BernoulliToy(2, 3)
    with pytest.raises(ValueError, match=r"sum over the states of a discrete z"):
        grid_posterior(discrete.vae, discrete.sample(2))
    q = encoders.PowerSpherical(networks.MLP(5, 4))
    sphere = VAE(priors.HypersphericalUniform(3), likelihoods.Normal(networks.MLP(3, 5)), q)
    with pytest.raises(ValueError, match=r"no points in the unit sphere: use evaluation\.log_likelihood"):
        grid_posterior(sphere, torch.zeros(2, 5))
    model = LinearGaussian(2, 5)
    x = model.sample(2)
    with pytest.raises(ValueError, match=r"num_points must be at least 7, .*not 6"):
        grid_posterior(model.vae, x, num_points=6)
    for limits in (4.0, (1, 1), (2, -2), (-math.inf, 6), (math.nan, 1), [(-1, 1), (2, 1)]):
        with pytest.raises(ValueError, match="limits must be finite"):
            grid_posterior(model.vae, x, limits=limits)
    for limits in ((1, 2, 3), [(-1, 1)] * 3, "ab"):
        with pytest.raises(ValueError, match="limits must be one pair"):
            grid_posterior(model.vae, x, limits=limits)
    for tolerance in (0.0, 2.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be"):
            grid_posterior(model.vae, x, tolerance=tolerance)
    with pytest.raises(ValueError, match="x holds"):
        grid_posterior(model.vae, x[:, 1:])
