"""Laws of every likelihood: p(x | z), event the shape of one datum, its parameters computed by a network."""

import copy
import re
from functools import partial
from itertools import product

import mpmath
import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from scipy.stats import norm
from torch import nn

from pyrovae import likelihoods, networks
from pyrovae.distributions.grid import Grid
from pyrovae.distributions.open_interval import OpenUnitInterval

# Arguments of a likelihood beyond its network: one case for each entry, the defaults for one that is not listed.
SCALES = [{}, {"scale": None}, {"scale": 0.5, "learned": False}]
VARIANTS = {
    "Categorical": [{"categories": 16}, {"categories": 5, "step": 1.0}],
    "DiscretizedLogistic": [{}, {"levels": 4}],
    "DiscretizedLogisticMixture": [{"components": 3}, {"components": 1, "levels": 4}],
    "Laplace": SCALES,
    "Multinomial": [{"total_count": 20}],
    "NegativeBinomial": [{}, {"inverse_dispersion": None}],
    "Normal": SCALES,
    "StudentT": [{}, {"df": 2.5, "scale": None}],
    "ZeroInflatedNegativeBinomial": [{}, {"inverse_dispersion": None}],
}
CASES = [(name, variant) for name in likelihoods.__all__ for variant in VARIANTS.get(name, [{}])]

DEPENDENT = {"DiscretizedLogisticMixture", "Multinomial"}  # elements of x depend on each other given z
GIVEN_TOTAL = {"Multinomial"}  # p(x | z) sums to 1 for each total of x
NOT_AT_MEAN = {"Categorical", "DiscretizedLogistic", "DiscretizedLogisticMixture", "Laplace", "StudentT"}  # but close

SHAPES = [(5,), (1, 8, 8), (3, 4, 4)]
LEADS = [(), (6,), (2, 6)]
LATENT_DIM = 2
MLP = partial(networks.MLP, hidden=(16,))
CONV_TRANSPOSE = partial(networks.ConvTranspose, channels=(4, 4), hidden=16)


class Constant(nn.Module):
    """A network that gives the same output whatever its input, and does not tell its shape."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.double())

    def forward(self, z):
        return self.output.expand(*z.shape[:-1], *self.output.shape)


def label(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(value)


def rand(*shape):
    return torch.rand(shape, dtype=torch.float64)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def family(name, network, variant):
    return getattr(likelihoods, name)(network, **variant)


def make(name, variant, shape, build=MLP):
    """A likelihood in float64, its parameters moved away from where they start."""
    likelihood = family(name, lambda n: build(LATENT_DIM, (n(shape[0]), *shape[1:])), variant).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return likelihood


def num_outputs(name, variant, size):
    """How many first-dimension outputs the family asks the builder of its network for."""
    asked = []
    family(name, lambda n: asked.append(n(size)) or nn.Identity(), variant)
    (number,) = asked
    return number


def support(name, variant):
    return family(name, nn.Identity(), variant).support


def elements(support):
    """Values of one element all over its support, and the measure that each stands for: sum f(x) m = int f(x) dx."""
    if support.is_discrete:
        values = torch.arange(-10.0, 4000, dtype=torch.float64) * getattr(support, "step", 1.0)
        values = values[support.check(values)]
        return values, torch.ones_like(values)
    t = torch.arange(-40, 40, 1e-3, dtype=torch.float64)  # the trapezoidal rule, where the integrand falls off
    if support is constraints.real:
        return t.sinh(), t.cosh() * 1e-3
    values, measure = t.sigmoid(), t.sigmoid() * (-t).sigmoid() * 1e-3
    inside = support.check(values)
    return values[inside], measure[inside]


def outside(support):
    """A finite value outside the support, or None."""
    values = torch.tensor([0.5, -1.0, 2.0, 1e6], dtype=torch.float64)
    bad = values[~support.check(values)]
    return bad[0] if len(bad) else None


def farthest(support, dtype):
    """The values at the ends of a support, or far out where it has none."""
    if isinstance(support, Grid):
        return [0.0, support.step * (support.levels - 1)]
    if isinstance(support, OpenUnitInterval):
        return [torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps / 2]
    values = torch.tensor([-1e4, 0.0, 1.0, 1e4])
    return values[support.check(values)].tolist()


def silence(likelihood):
    """Set the last weights to 0, so that z tells nothing."""
    nn.init.zeros_([m for m in likelihood.network.modules() if hasattr(m, "weight")][-1].weight)


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_normalized = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[0] not in GIVEN_TOTAL], ids=label)
over_stacked = pytest.mark.parametrize(
    ("name", "variant"), [case for case in CASES if num_outputs(*case, 1) > 1], ids=label
)
over_bounded = pytest.mark.parametrize(
    ("name", "variant"), [c for c in CASES if outside(support(*c)) is not None], ids=label
)
over_means = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[0] not in NOT_AT_MEAN], ids=label)


# The distribution


@over_cases
@over_shapes
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_event_is_one_datum_for_any_leading_dimensions(name, variant, shape, lead):
    likelihood, z = make(name, variant, shape), randn(*lead, LATENT_DIM)
    p = likelihood(z)
    assert (p.batch_shape, p.event_shape, likelihood.event_shape) == (lead, shape, shape)
    x = p.sample()
    assert x.shape == p.mean.shape == (*lead, *shape)
    log_prob = p.log_prob(x)
    assert log_prob.shape == lead
    one_by_one = [likelihood(a).log_prob(b) for a, b in zip(z.reshape(-1, 2), x.reshape(-1, *shape), strict=True)]
    torch.testing.assert_close(log_prob, torch.stack(one_by_one).reshape(lead), rtol=1e-10, atol=1e-12)
    wider = p.expand((3, *lead))
    assert (wider.batch_shape, wider.event_shape) == ((3, *lead), shape)
    assert wider.sample((2,)).shape == (2, 3, *lead, *shape)
    torch.testing.assert_close(wider.log_prob(x), log_prob.expand(3, *lead), rtol=1e-10, atol=1e-12)


@over_cases
def test_density_in_a_program_with_two_plates_is_that_of_each_datum(name, variant):
    """The data's plate, and the particles' to its left; under Pyro's validation."""
    likelihood, z = make(name, variant, (3, 4, 4)), randn(2, 6, LATENT_DIM)
    x = likelihood(z[0]).sample()

    def model():
        with pyro.plate("particles", 2, dim=-2), pyro.plate("data", 6, dim=-1):
            pyro.sample("x", likelihood(z), obs=x)
            pyro.sample("y", likelihood(z[0]))

    with pyro.validation_enabled(True):
        trace = pyro.poutine.trace(model).get_trace()
        trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], likelihood(z).log_prob(x))
    assert trace.nodes["y"]["value"].shape == (2, 6, 3, 4, 4)
    assert trace.nodes["y"]["log_prob"].shape == (2, 6)


@over_normalized
def test_probabilities_of_one_element_sum_to_one_with_the_mean_stated(name, variant):
    likelihood = make(name, variant, (1,))
    values, measure = elements(likelihood.support)
    rel = 1e-6 if likelihood.support.is_discrete else 1e-4  # of the trapezoidal rule
    for z in 0.3 * randn(5, LATENT_DIM):  # so that no density piles up closer to 1 than the numbers lie
        probability = likelihood(z).log_prob(values[:, None]).exp() * measure
        assert probability.sum().item() == pytest.approx(1, rel=rel)
        assert (probability * values).sum().item() == pytest.approx(likelihood(z).mean.item(), rel=rel, abs=rel)


@over_normalized
def test_samples_of_one_element_follow_the_density(name, variant):
    """The test of Kolmogorov and Smirnov at level 1e-3, conservative for discrete values."""
    likelihood, n = make(name, variant, (1,)), 20_000
    values, measure = elements(likelihood.support)
    for z in randn(2, LATENT_DIM):
        p = likelihood(z)
        cdf = (p.log_prob(values[:, None]).exp() * measure).cumsum(0)
        x = p.sample((n,)).flatten().sort().values
        gap = 0.5 * getattr(likelihood.support, "step", 1.0) if likelihood.support.is_discrete else 0.0
        distance = (torch.searchsorted(x, values + gap) / n - cdf).abs().max().item()
        assert distance * n**0.5 < 1.95


@pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[0] not in DEPENDENT], ids=label)
def test_elements_are_independent(name, variant):
    likelihood, z = make(name, variant, (2,)), randn(LATENT_DIM)
    a, b = likelihood(z).sample((2,))
    mixed = torch.stack([a[0], b[1]]), torch.stack([b[0], a[1]])
    straight, crossed = (sum(likelihood(z).log_prob(x).item() for x in pair) for pair in ((a, b), mixed))
    assert straight == pytest.approx(crossed, rel=1e-12)


@over_cases
@over_shapes
def test_samples_lie_in_the_support_and_average_to_the_mean(name, variant, shape):
    """A two-sided z-test at level 1e-3 over all elements together (Bonferroni)."""
    if name == "DiscretizedLogisticMixture":
        shape = (1, *shape[1:])  # the mean stated for later channels is not exact
    likelihood, n = make(name, variant, shape), 4000
    p = likelihood(randn(LATENT_DIM))
    x = p.sample((n,))
    assert likelihood.support.check(x).all()
    assert p.support.check(x).all()
    assert (likelihood.support.is_discrete, p.support.event_dim) == (p.support.is_discrete, len(shape))
    z = (x.mean(0) - p.mean) / (x.std(0) / n**0.5).clamp(min=1 / n)  # a value that never came may be rare
    assert z.abs().max() < norm.isf(0.5e-3 / p.mean.numel())


# Twins: log-density, by scipy, of x given the network's output a, the parameters stacked along its first dimension


def softplus(a):
    return np.logaddexp(0, a) + 1e-4


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    return np.exp(a) / np.exp(a).sum(0)


def nbinom(x, a, b):
    mean, r = np.exp(a), softplus(b)
    return stats.nbinom.logpmf(x, r, r / (r + mean))


def zinb(x, a, b, c):
    p = (1 - sigmoid(b)) * np.exp(nbinom(x, a, c))
    return np.log(np.where(x == 0, sigmoid(b) + p, p))


def discretized_logistic(x, loc, a, levels=256):
    """The cells of the grid by the difference of two cdfs."""
    half, scale = 0.5 / (levels - 1), softplus(a)
    edges = np.where(x == 0, -np.inf, x - half), np.where(x == 1, np.inf, x + half)
    below, above = (stats.logistic.cdf(edge, loc, scale) for edge in edges)
    return np.log(above - below)


def mixture(x, *output, components=3, levels=256):
    """Loops over the components and the channels of one pixel; x is `(n, C)`, and output has no other dimensions."""
    size = x.shape[-1]
    total = 0.0
    rows = np.concatenate(output).reshape(components, -1)
    weights = np.exp(rows[:, 0]) / np.exp(rows[:, 0]).sum()
    for weight, row in zip(weights, rows, strict=True):
        loc, scale, k, p = row[1 : 1 + size], row[1 + size : 1 + 2 * size], iter(np.tanh(row[1 + 2 * size :])), weight
        for c in range(size):
            shifted = loc[c] + sum(next(k) * (x[:, j] - 0.5) for j in range(c))
            p = p * np.exp(discretized_logistic(x[:, c], shifted, scale[c], levels))
        total = total + p
    return np.log(total)[:, None]


TWINS = {
    "Bernoulli": lambda x, a: stats.bernoulli.logpmf(x, sigmoid(a)),
    "Beta": lambda x, a, b: stats.beta.logpdf(x, softplus(a), softplus(b)),
    "Categorical": lambda x, *a: np.log(softmax(np.stack(a))[np.rint(15 * x).astype(int), np.arange(4)]),
    "ContinuousBernoulli": lambda x, a: np.log(a / np.expm1(a)) + a * x,
    "DiscretizedLogistic": discretized_logistic,
    "DiscretizedLogisticMixture": mixture,
    "Laplace": lambda x, loc, a: stats.laplace.logpdf(x, loc, softplus(a)),
    "NegativeBinomial": nbinom,
    "Normal": lambda x, loc, a: stats.norm.logpdf(x, loc, softplus(a)),
    "Poisson": lambda x, a: stats.poisson.logpmf(x, np.exp(a)),
    "StudentT": lambda x, loc, a: stats.t.logpdf(x, 4.0, loc, softplus(a)),
    "ZeroInflatedNegativeBinomial": zinb,
}
TWIN_VARIANTS = {
    "Categorical": {"categories": 16},
    "DiscretizedLogisticMixture": {"components": 3},
    "Laplace": {"scale": None},
    "NegativeBinomial": {"inverse_dispersion": None},
    "Normal": {"scale": None},
    "StudentT": {"scale": None},
    "ZeroInflatedNegativeBinomial": {"inverse_dispersion": None},
}


@pytest.mark.parametrize("name", TWINS)
def test_density_is_scipys(name):
    """The first C of P C outputs are the first parameter of each of the C elements, and so on."""
    variant, shape = TWIN_VARIANTS.get(name, {}), (4,)
    output = randn(num_outputs(name, variant, 4))
    p = family(name, Constant(output), variant)(randn(200, LATENT_DIM))
    x = p.sample()
    parameters = output.numpy().reshape(-1, *shape) if name != "DiscretizedLogisticMixture" else [output.numpy()]
    expected = TWINS[name](x.numpy(), *parameters)
    assert p.log_prob(x).detach().numpy() == pytest.approx(expected.sum(-1), rel=1e-8)


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_multinomial_is_scipys_for_each_total_and_sums_to_one_over_it(shape):
    logits = randn(*shape)
    x = torch.tensor([k for k in product(range(8), repeat=4) if sum(k) in (3, 7)], dtype=torch.float64)
    p = likelihoods.Multinomial(Constant(logits), total_count=5)(torch.zeros(2).double())
    log_prob = p.log_prob(x.reshape(-1, *shape)).detach().numpy()
    totals, probs = x.sum(1).numpy().astype(int), softmax(logits.numpy().flatten())
    assert log_prob == pytest.approx(stats.multinomial.logpmf(x.numpy().astype(int), totals, probs), rel=1e-12)
    assert np.exp(log_prob).sum() == pytest.approx(2, rel=1e-12)
    assert (p.sample((10,)).flatten(1).sum(1) == 5).all()
    assert p.mean.detach().numpy() == pytest.approx(5 * probs.reshape(shape), rel=1e-12)


def test_multinomial_draws_the_mean_total_of_the_training_data_unless_told_otherwise():
    class Data:
        train = torch.tensor([[1.0, 2, 0], [4, 0, 0], [5, 0, 4]])  # totals 3, 4, 9

    for given, total in ((None, 5), (2, 2)):
        likelihood = likelihoods.Multinomial(networks.MLP(LATENT_DIM, 3), total_count=given)
        likelihood.start_from(Data)
        assert likelihood(torch.zeros(LATENT_DIM)).sample().sum() == total
        other = likelihoods.Multinomial(networks.MLP(LATENT_DIM, 3))
        other.load_state_dict(likelihood.state_dict())
        assert other(torch.zeros(LATENT_DIM)).mean.sum().item() == pytest.approx(total)


@pytest.mark.parametrize("size", [2, 3])
def test_mixture_of_several_channels_sums_to_one(size):
    likelihood = make("DiscretizedLogisticMixture", {"components": 2, "levels": 5}, (size,))
    x = torch.tensor(list(product(np.arange(5) / 4, repeat=size)))
    for z in 2 * randn(3, LATENT_DIM):
        assert likelihood(z).log_prob(x).exp().sum().item() == pytest.approx(1, rel=1e-12)


def test_mixture_of_several_channels_draws_its_density():
    """A chi-squared test at level 1e-3, over all values of three channels that depend on each other."""
    likelihood = make("DiscretizedLogisticMixture", {"components": 2, "levels": 3}, (3,))
    with torch.no_grad():  # narrow, and the later channels far from independent of the earlier
        first, second = [0, 0.2, 0.4, 0.1, -2, -2, -2, 2, -2, 3], [0, 1, 0.5, 0.6, -2, -2, -2, -2, -2, -2]
        likelihood.network.set_output_bias(torch.tensor([*first, *second]))
    x, n = torch.tensor(list(product([0.0, 0.5, 1.0], repeat=3)), dtype=torch.float64), 20_000
    p = likelihood(randn(LATENT_DIM))
    expected = p.log_prob(x).exp() * n
    counts = (p.sample((n, 1)) == x).all(-1).sum(0)
    assert counts.sum() == n
    assert ((counts - expected).square() / expected).sum().item() < stats.chi2.isf(1e-3, len(x) - 1)


def test_mixture_of_several_channels_has_the_mean_of_its_draws_where_nothing_is_cut_off():
    """A two-sided z-test at level 1e-3 (Bonferroni), for locations and scales that stay within 0 and 1."""
    output = torch.tensor([[0, 0.5, 0.4, 0.6, -5, -5, -5, 2, -2, 0.5], [1, 0.6, 0.5, 0.4, -5, -5, -5, 0, 0.5, 1]])
    likelihood = likelihoods.DiscretizedLogisticMixture(Constant(output.flatten()), components=2)
    p, n = likelihood(torch.zeros(2).double()), 20_000
    x = p.sample((n,))
    assert ((x.mean(0) - p.mean) / (x.std(0) / n**0.5)).abs().max() < norm.isf(0.5e-3 / 3)


@pytest.mark.parametrize("logit", [-60.0, 60.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_is_exact_at_large_logits(logit, x, dtype):
    bernoulli_ = likelihoods.Bernoulli(Constant(torch.tensor([logit]))).to(dtype)
    log_prob = bernoulli_(torch.zeros(2, dtype=dtype)).log_prob(torch.tensor([x], dtype=dtype))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-np.logaddexp(0, -logit if x else logit), rel=1e-6)
    assert bernoulli_.network.output.grad.item() == pytest.approx(x - 1 / (1 + np.exp(-logit)), rel=1e-6, abs=1e-25)


@pytest.mark.parametrize("x", [0.0, 1.0, 100 / 255])
@pytest.mark.parametrize(("loc", "a"), [(0.4, -60.0), (0.39, -4.0), (-3.0, -3.0), (30.0, -5.0), (0.4, 60.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discretized_logistic_is_exact_far_from_its_location(loc, a, x, dtype):
    """Against 60 digits, where the difference of two cdfs would be 0 or 1."""
    with mpmath.workdps(60):
        tensors = torch.tensor([loc, a, x], dtype=dtype)
        scale, (loc_, _, x_) = softplus_exactly(tensors[1].item()), map(mpmath.mpf, tensors.tolist())
        half = mpmath.mpf(1) / 510
        below = 0 if x == 0 else 1 / (1 + mpmath.exp(-(x_ - half - loc_) / scale))
        above = 1 if x == 1 else 1 / (1 + mpmath.exp(-(x_ + half - loc_) / scale))
        tail = 1 / (1 + mpmath.exp((x_ - half - loc_) / scale))  # 1 - below, which 60 digits may not hold
        expected = mpmath.log(tail if x == 1 else above if x == 0 else above - below)
    p = likelihoods.DiscretizedLogistic(Constant(tensors[:2])).to(dtype)(torch.zeros(2, dtype=dtype))
    rel = 2e-4 if dtype == torch.float32 else 1e-9
    assert p.log_prob(tensors[2:]).item() == pytest.approx(float(expected), rel=rel)


def softplus_exactly(a):
    return mpmath.log1p(mpmath.exp(a)) + mpmath.mpf(1e-4)


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_normal_with_a_scale_for_each_element_is_scipys(lead):
    """The first C of 2 C channels are the mean, the last C the unconstrained scale."""
    loc, a, x = randn(3, 4, 4), randn(3, 4, 4), randn(*lead, 3, 4, 4)
    log_prob = likelihoods.Normal(Constant(torch.cat([loc, a])), scale=None)(randn(*lead, 2)).log_prob(x).detach()
    expected = norm(loc.numpy(), softplus(a.numpy())).logpdf(x.numpy()).sum((-1, -2, -3))
    assert log_prob.numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 30.0])
@pytest.mark.parametrize(
    ("name", "twin"), [("Normal", stats.norm), ("Laplace", stats.laplace), ("StudentT", stats.t(4))]
)
def test_one_scale_is_scipys(name, twin, scale, learned):
    loc, x = randn(3, 4, 4), randn(6, 3, 4, 4)
    p = family(name, Constant(loc), {"scale": scale, "learned": learned})(randn(6, 2))
    expected = (twin.logpdf((x - loc).numpy() / scale) - np.log(scale)).sum((1, 2, 3))
    assert p.log_prob(x).detach().numpy() == pytest.approx(expected, rel=1e-5)  # a scale is stored in float32


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [100.0, 1e4])
def test_extremes_stay_finite(name, variant, dtype, extreme):
    """For outputs of either sign in many combinations, all where there are few, and the ends of the support."""
    likelihood = make(name, variant, (3,))
    x = likelihood(randn(8, LATENT_DIM)).sample().to(dtype)
    x = torch.cat([x, torch.tensor(farthest(likelihood.support, dtype), dtype=dtype)[:, None].expand(-1, 3)])
    number = num_outputs(name, variant, 3)
    if number <= 9:  # elements alike
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=number // 3))).repeat_interleave(3, 1)
    else:
        signs = rand(12, number).round() * 2 - 1
    for sign in signs:
        network = Constant(extreme * sign)
        likelihood = family(name, network, variant).to(dtype)
        own = [p for p in likelihood.parameters() if p is not network.output]
        for value in (-extreme, extreme):
            with torch.no_grad():
                for parameter in own:
                    parameter.fill_(value)
            p = likelihood(torch.zeros(len(x), LATENT_DIM, dtype=dtype))
            log_prob = p.log_prob(x)
            assert log_prob.dtype == dtype
            gradients = torch.autograd.grad(log_prob.sum(), [network.output, *own])
            assert all(t.isfinite().all() for t in (log_prob, p.mean, *gradients))
            assert likelihood.support.check(p.sample()).all()


@over_cases
@over_shapes
def test_gradient_reaches_every_parameter(name, variant, shape):
    likelihood = make(name, variant, shape)
    p = likelihood(randn(20, LATENT_DIM))
    p.log_prob(p.sample()).sum().backward()
    assert list(likelihood.parameters())
    for key, parameter in likelihood.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_cases
def test_gradient_is_that_of_finite_differences(name, variant):
    """For each output of the network, and each parameter of the likelihood's own."""
    likelihood = family(name, Constant(randn(num_outputs(name, variant, 3))), variant).double()
    z = randn(6, LATENT_DIM)
    x = likelihood(z).sample()
    likelihood(z).log_prob(x).sum().backward()
    for parameter in likelihood.parameters():
        flat = parameter.data.view(-1)
        for i, gradient in enumerate(parameter.grad.flatten().tolist()):
            middle, sums = flat[i].item(), []
            for step in (1e-5, -1e-5):
                flat[i] = middle + step
                sums.append(likelihood(z).log_prob(x).sum().item())
            flat[i] = middle
            assert gradient == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5, abs=1e-6)


@over_cases
def test_state_dict_and_copies_give_the_same_log_prob_bit_for_bit(name, variant):
    likelihood, other, z = *(make(name, variant, (3, 4, 4)) for _ in range(2)), randn(6, LATENT_DIM)
    x = likelihood(z).sample()
    expected, twin = likelihood(z).log_prob(x), copy.deepcopy(likelihood)
    assert not torch.equal(expected, other(z).log_prob(x))
    other.load_state_dict(likelihood.state_dict())
    assert torch.equal(expected, other(z).log_prob(x))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(1)
    assert torch.equal(expected, twin(z).log_prob(x))


@over_cases
def test_float32_agrees_with_float64(name, variant):
    double = make(name, variant, (3, 4, 4)).float().double()  # the same parameters
    single, z = copy.deepcopy(double).float(), torch.randn(20, LATENT_DIM)
    x = single(z).sample()
    assert x.dtype == single(z).mean.dtype == torch.float32
    for value, exact in (
        (single(z).log_prob(x), double(z.double()).log_prob(x.double())),
        (single(z).mean, double(z.double()).mean),
    ):
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-4)


# The network


@over_cases
@over_shapes
def test_builder_is_asked_once_for_the_number_of_outputs(name, variant, shape):
    asked = []

    def build(outputs):
        asked.append(outputs(shape[0]))
        return networks.MLP(LATENT_DIM, (outputs(shape[0]), *shape[1:]), hidden=())

    likelihood = family(name, build, variant)
    assert asked == [likelihood.num_outputs(shape[0])]
    assert likelihood.event_shape == shape


@pytest.mark.parametrize(
    ("name", "variant", "size", "number"),
    [
        ("Bernoulli", {}, 3, 3),
        ("Normal", {}, 3, 3),
        ("Normal", {"scale": None}, 3, 6),
        ("Normal", {"learned": False}, 3, 3),
        ("Categorical", {}, 3, 768),
        ("DiscretizedLogisticMixture", {}, 1, 30),
        ("DiscretizedLogisticMixture", {}, 3, 100),  # as for PixelCNN++
        ("ZeroInflatedNegativeBinomial", {"inverse_dispersion": None}, 3, 9),
    ],
    ids=label,
)
def test_number_of_outputs(name, variant, size, number):
    assert num_outputs(name, variant, size) == number


@over_stacked
@over_shapes
def test_output_that_cannot_be_split_is_refused_with_the_shape_to_build(name, variant, shape):
    bad = (num_outputs(name, variant, shape[0]) + 1, *shape[1:])
    with pytest.raises(ValueError, match=name) as error:
        family(name, networks.MLP(LATENT_DIM, bad), variant)
    assert str(bad) in str(error.value)
    assert str((num_outputs(name, variant, shape[0] + 1), *bad[1:])) in str(error.value)


@over_stacked
def test_output_of_a_network_without_out_shape_is_refused_when_it_cannot_be_split(name, variant):
    bad = num_outputs(name, variant, 5) + 1
    likelihood = family(name, nn.Linear(LATENT_DIM, bad), variant)
    with pytest.raises(ValueError, match=re.escape(str((bad,)))):
        likelihood(torch.zeros(6, LATENT_DIM))


@over_cases
@over_shapes
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_network_without_out_shape_works(name, variant, shape, lead):
    stacked = (num_outputs(name, variant, shape[0]), *shape[1:])
    network = nn.Sequential(nn.Linear(LATENT_DIM, int(np.prod(stacked))), nn.Unflatten(-1, stacked)).double()
    likelihood = family(name, network, variant)
    p = likelihood(randn(*lead, LATENT_DIM))
    assert likelihood.event_shape is None
    assert (p.batch_shape, p.event_shape) == (lead, shape)
    likelihood.check(p.sample((3,)).reshape(-1, *shape))


@pytest.mark.parametrize("name", ["Laplace", "Normal", "StudentT"])
@pytest.mark.parametrize(
    ("variant", "own"),
    [
        ({}, {"unconstrained_scale"}),
        ({"scale": 0.5}, {"unconstrained_scale"}),
        ({"scale": 0.5, "learned": False}, set()),
        ({"scale": None}, set()),
    ],
    ids=label,
)
def test_scale_is_a_parameter_where_it_is_learned(name, variant, own):
    likelihood = family(name, lambda n: networks.MLP(LATENT_DIM, n(3)), variant)
    assert {key for key, _ in likelihood.named_parameters() if not key.startswith("network.")} == own


@pytest.mark.parametrize(
    ("name", "argument", "values"),
    [
        ("Categorical", "categories", [0, 1]),
        ("Categorical", "step", [0.0, -1.0]),
        ("DiscretizedLogistic", "levels", [1]),
        ("DiscretizedLogisticMixture", "components", [0]),
        ("DiscretizedLogisticMixture", "levels", [1]),
        ("Laplace", "scale", [0.0, -1.0]),
        ("Multinomial", "total_count", [0, -1]),
        ("NegativeBinomial", "inverse_dispersion", [0.0, 1e-5, float("nan")]),
        ("Normal", "scale", [0.0, -1.0, float("nan"), float("inf")]),
        ("StudentT", "df", [1.0, 0.0, float("nan"), float("inf")]),
    ],
)
def test_argument_that_makes_no_distribution_is_refused_with_its_value(name, argument, values):
    word = {"categories": "grid", "levels": "grid", "components": "component"}.get(argument, argument)
    for value in values:
        with pytest.raises(ValueError, match=rf"{word}.*{value}"):
            family(name, lambda n: networks.MLP(LATENT_DIM, max(n(3), 1)), {argument: value})


@pytest.mark.parametrize("learned", [True, False])
def test_normal_scale_below_the_floor_is_refused(learned):
    """A number that the floor of 1e-4 would silently replace is no scale."""
    with pytest.raises(ValueError, match=r"scale.*1e-05"):
        likelihoods.Normal(networks.MLP(LATENT_DIM, 3), scale=1e-5, learned=learned)


# Where training starts


def data(name, variant, shape, n=300):
    """Data in the support, of another mean (and spread) at each element."""
    source = make(name, variant, shape)
    source.network.set_output_bias(torch.empty(source.network.out_shape).uniform_(-1.5, 1.5))
    silence(source)
    return source(torch.zeros(n, LATENT_DIM).double()).sample()


@over_means
@over_shapes
def test_start_at_mean_gives_the_mean_of_the_data_where_z_tells_nothing(name, variant, shape):
    likelihood, x = make(name, variant, shape), data(name, variant, shape)
    silence(likelihood)
    likelihood.start_at_mean(x)
    torch.testing.assert_close(likelihood(randn(LATENT_DIM)).mean, x.mean(0), rtol=1e-9, atol=1e-9)


def test_start_at_mean_needs_a_network_with_a_bias_to_set():
    with pytest.raises(ValueError, match="output bias of a pyrovae network, not of Linear"):
        likelihoods.Bernoulli(nn.Linear(2, 3)).start_at_mean(torch.ones(4, 3))


@over_means
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) == 3], ids=str)
def test_start_at_mean_gives_the_mean_of_each_channel_where_a_channel_shares_its_bias(name, variant, shape):
    likelihood, x = make(name, variant, shape, build=CONV_TRANSPOSE), data(name, variant, shape)
    silence(likelihood)
    likelihood.start_at_mean(x)
    mean = likelihood(randn(LATENT_DIM)).mean
    torch.testing.assert_close(mean.mean((-1, -2)), x.mean((0, -1, -2)), rtol=1e-9, atol=1e-9)


@over_shapes
def test_start_at_mean_gives_the_normal_the_deviation_of_the_data(shape):
    x = data("Normal", {"scale": None}, shape)
    normal = make("Normal", {"scale": None}, shape)
    silence(normal)
    normal.start_at_mean(x)
    expected = torch.from_numpy(x.numpy().std(0))
    torch.testing.assert_close(normal(randn(LATENT_DIM)).stddev, expected, rtol=1e-9, atol=0)


def test_start_at_mean_gives_the_normal_the_deviation_of_each_channel_where_a_channel_shares_its_bias():
    x = data("Normal", {"scale": None}, (3, 4, 4))
    normal = make("Normal", {"scale": None}, (3, 4, 4), build=CONV_TRANSPOSE)
    silence(normal)
    normal.start_at_mean(x)
    expected = torch.from_numpy(x.numpy().std((0, 2, 3)))
    stddev = normal(randn(LATENT_DIM)).stddev
    torch.testing.assert_close(stddev, expected[:, None, None].expand(3, 4, 4), rtol=1e-9, atol=0)


@over_cases
@over_shapes
@pytest.mark.parametrize("constant", [False, True])
def test_start_at_mean_raises_the_density_of_data(name, variant, shape, constant):
    """Also where an element never varies, like the border of an image, and with weights as they start."""
    x = data(name, variant, shape)
    if constant:
        x[(slice(None), *[0] * len(shape))] = x.flatten().mode().values  # of grey values black or white
    likelihood = family(name, lambda n: networks.MLP(LATENT_DIM, (n(shape[0]), *shape[1:])), variant).double()
    z = randn(len(x), LATENT_DIM)
    before = likelihood(z).log_prob(x).mean()
    likelihood.start_at_mean(x)
    assert likelihood(z).log_prob(x).mean() > before


@over_cases
def test_start_at_mean_stays_finite_where_no_element_varies(name, variant):
    likelihood = make(name, variant, (5,))
    x = likelihood(randn(LATENT_DIM)).sample().expand(10, 5)
    likelihood.start_at_mean(x)
    log_prob = likelihood(randn(10, LATENT_DIM)).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in likelihood.parameters())


# Data without a density

SHAPE, INDEX = (2, 3, 4), (1, 0, 2, 1)


def refusal(likelihood, x):
    with pytest.raises(ValueError, match="valid") as error:
        likelihood.check(x, "valid")
    return str(error.value)


@pytest.fixture
def checked(name, variant):
    """A likelihood, and data that it takes."""
    likelihood = make(name, variant, SHAPE)
    x = copy.deepcopy(likelihood).float()(torch.randn(6, LATENT_DIM)).sample()
    likelihood.check(x, "valid")
    likelihood.check(x.double(), "valid")
    return likelihood, x.double()


@over_cases
def test_empty_data_are_refused(checked):
    likelihood, x = checked
    assert re.search(r"valid is empty.*\(0, 2, 3, 4\).*at least one", refusal(likelihood, x[:0]))


@over_cases
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_refused(checked, dtype):
    likelihood, x = checked
    assert re.search(rf"valid.*{dtype}.*floating point.*\.float\(\)", refusal(likelihood, x.to(dtype)))


@over_cases
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_place(checked, value):
    likelihood, x = checked
    x[INDEX] = value
    assert re.search(rf"valid\[1, 0, 2, 1\] is {value}.*(remove|impute)", refusal(likelihood, x))


@over_cases
@pytest.mark.parametrize("shape", [(6, 2, 4, 3), (6, 24), (2, 3, 4), (6, 1, 2, 3, 4)], ids=str)
def test_data_of_another_shape_are_refused_with_both_shapes(checked, shape):
    likelihood, x = checked
    message = refusal(likelihood, x.flatten()[: int(np.prod(shape))].reshape(shape))
    assert str(shape[1:]) in message
    assert str(SHAPE) in message
    assert re.search(r"reshape", message)


@over_cases
def test_a_number_is_refused(checked):
    likelihood, x = checked
    assert str(SHAPE) in refusal(likelihood, x[INDEX])


@over_bounded
def test_data_outside_the_support_are_refused_with_their_place_and_a_remedy(checked):
    likelihood, x = checked
    bad = outside(likelihood.support)
    x[INDEX] = x[4, 1, 1, 1] = bad
    assert re.search(rf"valid\[1, 0, 2, 1\] is {bad:.9g}\b.*\b1 more\b.*: \w+ \w+ \w+", refusal(likelihood, x))


def test_grey_values_are_refused_by_bernoulli_with_the_ways_out():
    message = refusal(make("Bernoulli", {}, SHAPE), rand(6, *SHAPE))
    assert all(word in message for word in ("grey", "binarize", "Normal"))


@pytest.mark.parametrize("value", [1 - 1e-6, 1 + 1e-6])
def test_refused_value_is_not_rounded_to_one_that_would_be_taken(value):
    x = torch.ones(6, *SHAPE).double()
    x[INDEX] = value
    assert not re.search(r"is [01] ", refusal(make("Bernoulli", {}, SHAPE), x))
