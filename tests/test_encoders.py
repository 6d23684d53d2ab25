"""Laws of every encoder: q(z | x), event (D,), its parameters computed by a network."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.stats import bernoulli, chisquare, kstest, norm
from torch import nn

from pyrovae import encoders, networks

# Arguments of an encoder beyond its network: one case for each entry, the defaults for one that is not listed.
VARIANTS = {}
CASES = [(name, variant) for name in encoders.__all__ for variant in VARIANTS.get(name, [{}])]

SHAPE = (2, 3, 4)
LEADS = [(), (6,), (2, 6)]
GRID = np.linspace(-16, 16, 401)
MIN_SCALE = 1e-4


class Constant(nn.Module):
    """A network that gives the same output whatever its input, and does not tell its shape."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.double())

    def forward(self, x):
        return self.output.expand(*x.shape[:-1], *self.output.shape)


def label(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(value)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def family(name, network, variant):
    return getattr(encoders, name)(network, **variant)


def make(name, variant, latent_dim, shape=SHAPE):
    """An encoder in float64, its parameters moved away from where they start."""
    encoder = family(name, lambda p: networks.MLP(shape, p * latent_dim, hidden=(16,)), variant).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def num_parameters(name, variant):
    """How many parameters the family asks the builder of its network for."""
    asked = []
    family(name, lambda p: asked.append(p) or networks.MLP(SHAPE, p), variant)
    (number,) = asked
    return number


def density(q, z):
    """q(z) of an array `(..., D)`, as an array."""
    with torch.no_grad():
        return q.log_prob(torch.from_numpy(np.ascontiguousarray(z))).exp().numpy()


def is_discrete(name, variant):
    return make(name, variant, 1)(randn(*SHAPE)).support.is_discrete


def draw(q, shape=()):
    """Samples, with a pathwise gradient where the family has one."""
    return q.rsample(shape) if q.has_rsample else q.sample(shape)


def states(latent_dim):
    """All vectors of bits, `(2^D, D)`."""
    return np.array(list(product([0.0, 1.0], repeat=latent_dim)))


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)
over_continuous = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if not is_discrete(*c)], ids=label)
over_discrete = pytest.mark.parametrize(("name", "variant"), [c for c in CASES if is_discrete(*c)], ids=label)
over_dims = pytest.mark.parametrize("latent_dim", [1, 2, 5])


# The distribution


@over_cases
@over_dims
@pytest.mark.parametrize("shape", [(5,), (1, 8, 8), SHAPE], ids=str)
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_event_is_the_latent_vector_for_any_leading_dimensions(name, variant, latent_dim, shape, lead):
    encoder, x = make(name, variant, latent_dim, shape), randn(*lead, *shape)
    q = encoder(x)
    assert (q.batch_shape, q.event_shape, encoder.event_shape) == (lead, (latent_dim,), (latent_dim,))
    z = draw(q)
    assert z.shape == (*lead, latent_dim)
    assert q.log_prob(z).shape == lead
    pairs = zip(x.reshape(-1, *shape), z.reshape(-1, latent_dim), strict=True)
    one_by_one = torch.stack([encoder(a).log_prob(b) for a, b in pairs])
    torch.testing.assert_close(q.log_prob(z), one_by_one.reshape(lead), rtol=1e-10, atol=1e-12)


@over_cases
@over_dims
def test_many_samples_of_each_datum(name, variant, latent_dim):
    q = make(name, variant, latent_dim)(randn(6, *SHAPE))
    z = draw(q, (7,))
    assert z.shape == (7, 6, latent_dim)
    assert q.log_prob(z).shape == (7, 6)


@over_continuous
def test_density_integrates_to_one_in_one_dimension(name, variant):
    q = make(name, variant, 1)(randn(*SHAPE))
    assert trapezoid(density(q, GRID[:, None]), GRID) == pytest.approx(1, abs=1e-8)


@over_continuous
def test_samples_follow_the_density(name, variant):
    """In two dimensions, whose density integrates to 1: Kolmogorov-Smirnov tests of each at level 1e-3."""
    q = make(name, variant, 2)(randn(*SHAPE))
    p, z = density(q, np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1)), q.sample((4000,)).numpy()
    assert trapezoid(trapezoid(p, GRID), GRID) == pytest.approx(1, abs=1e-8)
    for axis in (0, 1):
        cdf = cumulative_trapezoid(trapezoid(p, GRID, axis=1 - axis), GRID, initial=0)
        assert kstest(z[:, axis], lambda v, cdf=cdf: np.interp(v, GRID, cdf)).pvalue > 1e-3


@over_discrete
@over_dims
def test_probabilities_of_all_states_add_up_to_one(name, variant, latent_dim):
    p = density(make(name, variant, latent_dim)(randn(6, *SHAPE)), states(latent_dim)[:, None])
    assert p.shape == (2**latent_dim, 6)
    assert p.sum(0) == pytest.approx(1, rel=1e-12)


@over_discrete
@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_samples_follow_the_probabilities_of_all_states(name, variant, latent_dim):
    """Chi-square test at level 1e-3 of how often each state is drawn."""
    q, n = make(name, variant, latent_dim)(randn(*SHAPE)), 20_000
    z = q.sample((n,)).numpy()
    assert np.isin(z, [0, 1]).all()
    counts = [(z == state).all(1).sum() for state in states(latent_dim)]
    assert chisquare(counts, n * density(q, states(latent_dim))).pvalue > 1e-3


@over_discrete
def test_samples_without_a_pathwise_gradient_say_so(name, variant):
    q = make(name, variant, 2)(randn(6, *SHAPE))
    assert not q.has_rsample
    assert not q.sample().requires_grad


@over_dims
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_bernoulli_is_scipys(latent_dim, lead):
    """The outputs of the network are the logits."""
    logits, z = randn(latent_dim), (randn(*lead, latent_dim) > 0).double()
    q = encoders.Bernoulli(Constant(logits))(randn(*lead, 3))
    expected = bernoulli(1 / (1 + np.exp(-logits.numpy()))).logpmf(z.numpy()).sum(-1)
    assert q.log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-12)


@over_dims
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_diagonal_normal_is_scipys(latent_dim, lead):
    """The first D outputs of the network are the mean, the last D the unconstrained scale."""
    loc, a, z = randn(latent_dim), randn(latent_dim), randn(*lead, latent_dim)
    q = encoders.DiagonalNormal(Constant(torch.cat([loc, a])))(randn(*lead, 3))
    expected = norm(loc.numpy(), np.logaddexp(0, a.numpy()) + MIN_SCALE).logpdf(z.numpy()).sum(-1)
    assert q.log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-12)


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("output", [-200.0, 200.0, -1e4, 1e4])
def test_extreme_outputs_keep_a_floored_scale_and_stay_finite(name, variant, dtype, latent_dim, output):
    encoder = make(name, variant, latent_dim).to(dtype)
    last = [m for m in encoder.network.modules() if hasattr(m, "weight")][-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, output)
    q = encoder(randn(6, *SHAPE).to(dtype))
    if not is_discrete(name, variant):
        assert (q.stddev >= MIN_SCALE * (1 - 1e-6)).all()
    for z in (draw(q), torch.zeros(6, latent_dim, dtype=dtype)):
        log_prob = q.log_prob(z)
        assert log_prob.dtype == dtype
        gradients = torch.autograd.grad(log_prob.sum(), list(encoder.parameters()), retain_graph=True)
        assert all(t.isfinite().all() for t in (z, log_prob, *gradients))


# Gradients


@over_continuous
@over_dims
def test_gradient_of_samples_reaches_every_parameter(name, variant, latent_dim):
    encoder = make(name, variant, latent_dim)
    (encoder(randn(20, *SHAPE)).rsample() * randn(20, latent_dim)).sum().backward()
    assert list(encoder.parameters())
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_cases
@over_dims
def test_gradient_of_log_prob_reaches_every_parameter(name, variant, latent_dim):
    encoder = make(name, variant, latent_dim)
    q = encoder(randn(20, *SHAPE))
    (q.log_prob(q.sample()) * randn(20)).sum().backward()
    assert list(encoder.parameters())
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_cases
def test_gradient_of_log_prob_is_that_of_finite_differences(name, variant):
    """At a given z, for each output of the network."""
    output = randn(num_parameters(name, variant) * 2)
    z = family(name, Constant(output), variant)(randn(3)).sample()

    def log_prob(output):
        return family(name, Constant(output), variant)(randn(3)).log_prob(z)

    encoder = family(name, Constant(output), variant)
    encoder(randn(3)).log_prob(z).backward()
    steps = 1e-6 * torch.eye(len(output)).double()
    expected = [(log_prob(output + step) - log_prob(output - step)).item() / 2e-6 for step in steps]
    assert encoder.network.output.grad.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-8)


@over_continuous
def test_gradient_of_samples_is_that_of_finite_differences(name, variant):
    """The same noise at shifted outputs: a pathwise derivative, checked for each output of the network."""
    output = randn(num_parameters(name, variant) * 2)

    def sample(output):
        torch.manual_seed(3)
        return family(name, Constant(output), variant)(randn(3)).rsample().sum()

    encoder = family(name, Constant(output), variant)
    torch.manual_seed(3)
    encoder(randn(3)).rsample().sum().backward()
    steps = 1e-6 * torch.eye(len(output)).double()
    expected = [(sample(output + step) - sample(output - step)).item() / 2e-6 for step in steps]
    assert encoder.network.output.grad.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-8)


@over_cases
def test_state_dict_round_trip_gives_the_same_log_prob_bit_for_bit(name, variant):
    encoder, other = make(name, variant, 3), make(name, variant, 3)
    x = randn(6, *SHAPE)
    z = encoder(x).sample()
    assert not torch.equal(encoder(x).log_prob(z), other(x).log_prob(z))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(x).log_prob(z), other(x).log_prob(z))


# The network


@over_cases
@over_dims
def test_builder_is_asked_once_for_the_number_of_parameters(name, variant, latent_dim):
    asked = []

    def build(number):
        asked.append(number)
        return networks.MLP(SHAPE, number * latent_dim)

    encoder = family(name, build, variant)
    assert asked == [encoder.num_parameters]
    assert encoder.event_shape == (latent_dim,)


@pytest.mark.parametrize(("name", "number"), [("Bernoulli", 1), ("DiagonalNormal", 2)])
def test_how_many_parameters_each_family_needs(name, number):
    assert num_parameters(name, {}) == number


@pytest.mark.parametrize(("name", "variant"), [case for case in CASES if num_parameters(*case) > 1], ids=label)
def test_output_that_cannot_be_split_is_refused_with_the_shape_to_build(name, variant):
    number = num_parameters(name, variant)
    bad = 3 * number + 1
    with pytest.raises(ValueError, match=rf"{name}.*{re.escape(str((bad,)))}.*{re.escape(str((number * bad,)))}"):
        family(name, networks.MLP(SHAPE, bad), variant)
    plain = family(name, nn.Linear(5, bad), variant)
    with pytest.raises(ValueError, match=rf"{name}.*{re.escape(str((bad,)))}.*{re.escape(str((number * bad,)))}"):
        plain(torch.zeros(6, 5))


@over_cases
def test_output_that_is_no_vector_is_refused(name, variant):
    number = num_parameters(name, variant)
    with pytest.raises(ValueError, match=re.escape(str((2 * number, 2 * number)))):
        family(name, networks.MLP(SHAPE, (2 * number, 2 * number)), variant)


@over_cases
@over_dims
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_network_without_out_shape_works(name, variant, latent_dim, lead):
    network = nn.Sequential(nn.Flatten(-3), nn.Linear(24, num_parameters(name, variant) * latent_dim)).double()
    encoder = family(name, network, variant)
    q = encoder(randn(*lead, *SHAPE))
    assert encoder.event_shape is None
    assert (q.batch_shape, q.event_shape) == (lead, (latent_dim,))
