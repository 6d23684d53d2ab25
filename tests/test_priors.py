"""Laws of every prior: a density over vectors z of D dimensions, batch (), event (D,)."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.special import log_softmax, logsumexp
from scipy.stats import bernoulli, chisquare, kstest, multivariate_normal

from pyrovae import priors

# Arguments of a prior beyond latent_dim: one case for each entry, the defaults for a prior that is not listed.
VARIANTS = {"MixtureOfNormals": [{}, {"components": 3}]}
CASES = [(name, variant) for name in priors.__all__ for variant in VARIANTS.get(name, [{}])]

GRID = np.linspace(-16, 16, 401)


def label(value):
    return ",".join(f"{k}={v}" for k, v in value.items()) or "default" if isinstance(value, dict) else None


def is_discrete(name, variant):
    return getattr(priors, name)(1, **variant)().support.is_discrete


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)
over_continuous = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if not is_discrete(*c)], ids=label)
over_discrete = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if is_discrete(*c)], ids=label)
over_learned = pytest.mark.parametrize(
    ("name", "variant"),
    [c for c in CASES if list(getattr(priors, c[0])(1, **c[1]).parameters())],
    ids=label,
)


def make(name, variant, latent_dim=2, seed=1):
    """A prior in float64, its parameters moved away from where they start."""
    torch.manual_seed(seed)
    prior = getattr(priors, name)(latent_dim, **variant).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return prior


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def points(prior, *shape):
    """Vectors `(*shape, D)` from all over the support: of normals, or of bits."""
    z = randn(*shape, prior.latent_dim)
    return (z > 0).to(z) if prior().support.is_discrete else z


def states(latent_dim):
    """All vectors of bits, `(2^D, D)`."""
    return np.array(list(product([0.0, 1.0], repeat=latent_dim)))


def density(prior, z):
    """p(z) of an array `(..., D)`, as an array."""
    with torch.no_grad():
        return prior().log_prob(torch.from_numpy(np.ascontiguousarray(z))).exp().numpy()


def plane():
    return np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1)


# The distribution


@over_cases
@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_batch_is_empty_and_event_is_the_latent_vector(name, variant, latent_dim):
    prior = make(name, variant, latent_dim)
    assert prior.latent_dim == latent_dim
    assert prior().batch_shape == ()
    assert prior().event_shape == (latent_dim,)
    for shape in ((), (3,), (4, 3)):
        z = prior().sample(shape)
        assert z.shape == (*shape, latent_dim)
        assert prior().log_prob(z).shape == shape


@over_cases
def test_log_prob_of_many_is_that_of_each(name, variant):
    prior = make(name, variant, 3)
    z = points(prior, 4, 5)
    one_by_one = torch.stack([prior().log_prob(v) for v in z.reshape(-1, 3)])
    torch.testing.assert_close(prior().log_prob(z), one_by_one.reshape(4, 5), rtol=1e-13, atol=0)


@over_continuous
def test_density_integrates_to_one_in_one_dimension(name, variant):
    assert trapezoid(density(make(name, variant, 1), GRID[:, None]), GRID) == pytest.approx(1, abs=1e-8)


@over_continuous
def test_density_integrates_to_one_in_two_dimensions(name, variant):
    p = density(make(name, variant, 2), plane())
    assert trapezoid(trapezoid(p, GRID), GRID) == pytest.approx(1, abs=1e-8)


@over_continuous
def test_samples_follow_the_density_in_one_dimension(name, variant):
    """Kolmogorov-Smirnov test at level 1e-3 against the integrated density."""
    prior = make(name, variant, 1)
    cdf = cumulative_trapezoid(density(prior, GRID[:, None]), GRID, initial=0)
    z = prior().sample((4000,)).numpy()[:, 0]
    assert kstest(z, lambda v: np.interp(v, GRID, cdf)).pvalue > 1e-3


@over_continuous
def test_samples_follow_the_density_in_two_dimensions(name, variant):
    """Kolmogorov-Smirnov tests at level 1e-3 of the coordinates and of their sum, each by its integrated density."""
    prior = make(name, variant, 2)
    p, z = density(prior, plane()), prior().sample((4000,)).numpy()
    for axis in (0, 1):
        cdf = cumulative_trapezoid(trapezoid(p, GRID, axis=1 - axis), GRID, initial=0)
        assert kstest(z[:, axis], lambda v, cdf=cdf: np.interp(v, GRID, cdf)).pvalue > 1e-3
    total = plane()
    total[..., 0] -= total[..., 1]  # the coordinates (s - t, t), whose sum is s
    cdf = cumulative_trapezoid(trapezoid(density(prior, total), GRID, axis=1), GRID, initial=0)
    assert kstest(z.sum(1), lambda v: np.interp(v, GRID, cdf)).pvalue > 1e-3


@over_continuous
def test_dimensions_beyond_two_are_sampled_as_the_density_says(name, variant):
    """Means of samples agree with importance sums of the density: z-tests, each two-sided at level 1e-3."""
    prior, n = make(name, variant, 4), 20_000
    proposal = multivariate_normal(np.zeros(4), 9 * np.eye(4))
    u = proposal.rvs(n, random_state=3)
    weights = density(prior, u) / proposal.pdf(u)
    z = prior().sample((n,)).numpy()
    for statistic in (lambda v: np.ones(len(v)), lambda v: np.cos(v[:, 0] - v[:, 3]), lambda v: np.tanh(v.sum(1))):
        a, b = statistic(z), weights * statistic(u)
        assert abs(a.mean() - b.mean()) < 3.29 * ((a.var() + b.var()) / n) ** 0.5


@over_discrete
@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_probabilities_of_all_states_add_up_to_one(name, variant, latent_dim):
    assert density(make(name, variant, latent_dim), states(latent_dim)).sum() == pytest.approx(1, rel=1e-12)


@over_discrete
@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_samples_follow_the_probabilities_of_all_states(name, variant, latent_dim):
    """Chi-square test at level 1e-3 of how often each state is drawn."""
    prior, n = make(name, variant, latent_dim), 20_000
    z = prior().sample((n,)).numpy()
    assert np.isin(z, [0, 1]).all()
    counts = [(z == state).all(1).sum() for state in states(latent_dim)]
    assert chisquare(counts, n * density(prior, states(latent_dim))).pvalue > 1e-3


@over_discrete
def test_what_is_no_state_is_refused(name, variant):
    with pytest.raises(ValueError, match="support"):
        make(name, variant)().log_prob(torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_bernoulli_is_the_product_of_scipys(latent_dim):
    prior = make("Bernoulli", {}, latent_dim)
    z, probs = points(prior, 10), 1 / (1 + np.exp(-prior.logits.detach().numpy()))
    expected = bernoulli(probs).logpmf(z.numpy()).sum(-1)
    assert prior().log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-12)


def test_bernoulli_starts_with_equal_probabilities():
    assert priors.Bernoulli(3)().mean.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_standard_normal_is_scipys(latent_dim):
    z = 3 * randn(10, latent_dim)
    expected = multivariate_normal(np.zeros(latent_dim), np.eye(latent_dim)).logpdf(z.numpy())
    assert make("StandardNormal", {}, latent_dim)().log_prob(z).numpy() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("components", [1, 3, 10])
def test_mixture_of_normals_is_the_sum_of_scipys(latent_dim, components):
    prior, z = make("MixtureOfNormals", {"components": components}, latent_dim), 3 * randn(10, latent_dim)
    logits, loc, a = (getattr(prior, n).detach().numpy() for n in ("logits", "loc", "unconstrained_scale"))
    assert loc.shape == (components, latent_dim)
    scale = np.logaddexp(0, a) + 1e-4
    normals = [multivariate_normal(m, np.diag(s**2)) for m, s in zip(loc, scale, strict=True)]
    log_prob = np.stack([normal.logpdf(z.numpy()) for normal in normals], -1)
    expected = logsumexp(log_softmax(logits) + log_prob, axis=-1)
    assert prior().log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-12)


def test_mixture_of_normals_starts_with_equal_weights_and_unit_scales():
    mixture = priors.MixtureOfNormals(3, components=4)()
    torch.testing.assert_close(mixture.mixture_distribution.probs, torch.full((4,), 0.25))
    torch.testing.assert_close(mixture.component_distribution.stddev, torch.ones(4, 3))


# The module


@over_learned
def test_gradient_reaches_every_parameter(name, variant):
    prior = make(name, variant)
    prior().log_prob(points(prior, 20)).sum().backward()
    for key, parameter in prior.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_cases
def test_state_dict_round_trip_gives_the_same_log_prob_bit_for_bit(name, variant):
    prior, other = make(name, variant, seed=1), make(name, variant, seed=2)
    z = points(prior, 20)
    if list(prior.parameters()):
        assert not torch.equal(prior().log_prob(z), other().log_prob(z))
    other.load_state_dict(prior.state_dict())
    assert torch.equal(prior().log_prob(z), other().log_prob(z))


@over_cases
def test_a_copy_is_independent(name, variant):
    prior = make(name, variant)
    z = points(prior, 20)
    before, other = prior().log_prob(z), copy.deepcopy(prior)
    assert torch.equal(other().log_prob(z), before)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(torch.rand_like(tensor))
    assert not torch.equal(other().log_prob(z), before)
    assert torch.equal(prior().log_prob(z), before)


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name, variant, dtype):
    prior = make(name, variant).to(dtype)
    assert prior().sample().dtype == dtype
    assert prior().log_prob(points(prior, 5).to(dtype)).dtype == dtype


@over_cases
def test_distribution_follows_the_parameters_as_they_are(name, variant):
    prior = make(name, variant)
    z = points(prior, 20)
    before = prior().log_prob(z)
    with torch.no_grad():
        for tensor in (*prior.parameters(), *prior.buffers()):
            tensor.add_(torch.rand_like(tensor))
    assert not torch.equal(prior().log_prob(z), before)


@over_cases
@pytest.mark.parametrize("size", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("extreme", [0.0, -200.0, 200.0, "signs"])
def test_extremes_stay_finite(name, variant, size, extreme):
    prior = make(name, variant)
    z = points(prior, 20) if is_discrete(name, variant) else size * points(prior, 20)
    z.requires_grad_()
    with torch.no_grad():
        for parameter in prior.parameters():
            signs = extreme == "signs"
            parameter.copy_(200 * torch.randn_like(parameter).sign() if signs else torch.full_like(parameter, extreme))
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in (z, *prior.parameters()))
    assert prior().sample((10,)).isfinite().all()


@over_cases
@pytest.mark.parametrize("latent_dim", [0, -1])
def test_latent_dim_below_one_is_refused(name, variant, latent_dim):
    with pytest.raises(ValueError, match=rf"latent_dim.*{latent_dim}"):
        getattr(priors, name)(latent_dim, **variant)


@pytest.mark.parametrize("components", [0, -1])
def test_mixture_without_components_is_refused(components):
    with pytest.raises(ValueError, match=rf"components.*{components}"):
        priors.MixtureOfNormals(2, components=components)
