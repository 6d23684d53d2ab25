"""Laws of every likelihood: p(x | z), event the shape of one datum, its parameters computed by a network."""

import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import bernoulli, norm
from torch import nn

from pyrovae import likelihoods, networks

# Arguments of a likelihood beyond its network: one case for each entry, the defaults for one that is not listed.
VARIANTS = {"Normal": [{}, {"scale": None}, {"scale": 0.5, "learned": False}]}
CASES = [(name, variant) for name in likelihoods.__all__ for variant in VARIANTS.get(name, [{}])]

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
    likelihood = family(name, lambda p: build(LATENT_DIM, (p * shape[0], *shape[1:])), variant).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return likelihood


def num_parameters(name, variant):
    """How many parameters the family asks the builder of its network for."""
    asked = []
    family(name, lambda p: asked.append(p) or networks.MLP(LATENT_DIM, p), variant)
    (number,) = asked
    return number


def elements(support):
    """Values of one element all over its support, and the measure that each stands for."""
    if support.is_discrete:
        values, measure = np.arange(-10.0, 300), 1.0
    else:  # midpoints of cells that end at the whole numbers
        values, measure = np.arange(-40, 40, 1e-3) + 5e-4, 1e-3
    values = torch.from_numpy(values)
    return values[support.check(values)], measure


def outside(support):
    """A finite value outside the support, or None."""
    values = torch.tensor([0.5, -1.0, 2.0, 1e6], dtype=torch.float64)
    bad = values[~support.check(values)]
    return bad[0] if len(bad) else None


def silence(likelihood):
    """Set the last weights to 0, so that z tells nothing."""
    nn.init.zeros_([m for m in likelihood.network.modules() if hasattr(m, "weight")][-1].weight)


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_stacked = pytest.mark.parametrize(
    ("name", "variant"), [case for case in CASES if num_parameters(*case) > 1], ids=label
)
over_bounded = pytest.mark.parametrize(
    ("name", "variant"), [c for c in CASES if outside(getattr(likelihoods, c[0]).support) is not None], ids=label
)


# The distribution


@over_cases
@over_shapes
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_event_is_one_datum_for_any_leading_dimensions(name, variant, shape, lead):
    likelihood, z = make(name, variant, shape), randn(*lead, LATENT_DIM)
    p = likelihood(z)
    assert (p.batch_shape, p.event_shape, likelihood.event_shape) == (lead, shape, shape)
    x = p.sample()
    assert x.shape == (*lead, *shape)
    assert p.log_prob(x).shape == lead
    one_by_one = [likelihood(a).log_prob(b) for a, b in zip(z.reshape(-1, 2), x.reshape(-1, *shape), strict=True)]
    torch.testing.assert_close(p.log_prob(x), torch.stack(one_by_one).reshape(lead), rtol=1e-10, atol=1e-12)


@over_cases
def test_probabilities_of_one_element_sum_to_one_with_the_mean_stated(name, variant):
    likelihood = make(name, variant, (1,))
    values, measure = elements(likelihood.support)
    for z in 2 * randn(5, LATENT_DIM):
        probability = likelihood(z).log_prob(values[:, None]).exp() * measure
        assert probability.sum().item() == pytest.approx(1, abs=1e-6)
        assert (probability * values).sum().item() == pytest.approx(likelihood(z).mean.item(), abs=1e-6)


@over_cases
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
    likelihood, n = make(name, variant, shape), 4000
    p = likelihood(randn(LATENT_DIM))
    x = p.sample((n,))
    assert likelihood.support.check(x).all()
    z = (x.mean(0) - p.mean) / (x.std(0) / n**0.5)
    assert z.abs().max() < norm.isf(0.5e-3 / p.mean.numel())


def test_bernoulli_is_scipys():
    logits = 3 * randn(3, 4, 4)
    x = rand(20, 3, 4, 4).round()
    log_prob = likelihoods.Bernoulli(Constant(logits))(randn(20, 2)).log_prob(x).detach()
    expected = bernoulli.logpmf(x.numpy(), 1 / (1 + np.exp(-logits.numpy()))).sum((1, 2, 3))
    assert log_prob.numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("logit", [-60.0, 60.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_is_exact_at_large_logits(logit, x, dtype):
    bernoulli_ = likelihoods.Bernoulli(Constant(torch.tensor([logit]))).to(dtype)
    log_prob = bernoulli_(torch.zeros(2, dtype=dtype)).log_prob(torch.tensor([x], dtype=dtype))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-np.logaddexp(0, -logit if x else logit), rel=1e-6)
    assert bernoulli_.network.output.grad.item() == pytest.approx(x - 1 / (1 + np.exp(-logit)), rel=1e-6, abs=1e-25)


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_normal_with_a_scale_for_each_element_is_scipys(lead):
    """The first C of 2 C channels are the mean, the last C the unconstrained scale."""
    loc, a, x = randn(3, 4, 4), randn(3, 4, 4), randn(*lead, 3, 4, 4)
    log_prob = likelihoods.Normal(Constant(torch.cat([loc, a])), scale=None)(randn(*lead, 2)).log_prob(x).detach()
    expected = norm(loc.numpy(), np.logaddexp(0, a.numpy()) + 1e-4).logpdf(x.numpy()).sum((-1, -2, -3))
    assert log_prob.numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 30.0])
def test_normal_with_one_scale_is_scipys(scale, learned):
    loc, x = randn(3, 4, 4), randn(6, 3, 4, 4)
    log_prob = likelihoods.Normal(Constant(loc), scale=scale, learned=learned)(randn(6, 2)).log_prob(x).detach()
    expected = norm(loc.numpy(), scale).logpdf(x.numpy()).sum((1, 2, 3))
    assert log_prob.numpy() == pytest.approx(expected, rel=1e-5)  # a scale is stored in float32


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [(-60.0, 60.0), (-1e4, 1e4)], ids=str)
def test_extremes_stay_finite(name, variant, dtype, extreme):
    x = make(name, variant, (3,))(randn(8, LATENT_DIM)).sample().to(dtype)
    for values in product(extreme, repeat=num_parameters(name, variant)):
        network = Constant(torch.tensor(values).repeat_interleave(3))
        likelihood = family(name, network, variant).to(dtype)
        own = [p for p in likelihood.parameters() if p is not network.output]
        for value in extreme:
            with torch.no_grad():
                for parameter in own:
                    parameter.fill_(value)
            p = likelihood(torch.zeros(8, LATENT_DIM, dtype=dtype))
            log_prob = p.log_prob(x)
            assert log_prob.dtype == dtype
            gradients = torch.autograd.grad(log_prob.sum(), [network.output, *own])
            assert all(t.isfinite().all() for t in (log_prob, p.mean, p.sample(), *gradients))


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
    likelihood = family(name, Constant(randn(3 * num_parameters(name, variant))), variant).double()
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
def test_state_dict_round_trip_gives_the_same_log_prob_bit_for_bit(name, variant):
    likelihood, other, z = *(make(name, variant, (3, 4, 4)) for _ in range(2)), randn(6, LATENT_DIM)
    x = likelihood(z).sample()
    assert not torch.equal(likelihood(z).log_prob(x), other(z).log_prob(x))
    other.load_state_dict(likelihood.state_dict())
    assert torch.equal(likelihood(z).log_prob(x), other(z).log_prob(x))


# The network


@over_cases
@over_shapes
def test_builder_is_asked_once_for_the_number_of_parameters(name, variant, shape):
    asked = []

    def build(number):
        asked.append(number)
        return networks.MLP(LATENT_DIM, (number * shape[0], *shape[1:]))

    likelihood = family(name, build, variant)
    assert asked == [likelihood.num_parameters]
    assert likelihood.event_shape == shape


@pytest.mark.parametrize(
    ("name", "variant", "number"),
    [("Bernoulli", {}, 1), ("Normal", {}, 1), ("Normal", {"scale": None}, 2), ("Normal", {"learned": False}, 1)],
    ids=label,
)
def test_number_of_parameters(name, variant, number):
    assert num_parameters(name, variant) == number


@over_stacked
@over_shapes
def test_output_that_cannot_be_split_is_refused_with_the_shape_to_build(name, variant, shape):
    number = num_parameters(name, variant)
    bad = (number * shape[0] + 1, *shape[1:])
    with pytest.raises(ValueError, match=name) as error:
        family(name, networks.MLP(LATENT_DIM, bad), variant)
    assert str(bad) in str(error.value)
    assert str((number * bad[0], *bad[1:])) in str(error.value)


@over_stacked
def test_output_of_a_network_without_out_shape_is_refused_when_it_cannot_be_split(name, variant):
    number = num_parameters(name, variant)
    likelihood = family(name, nn.Linear(LATENT_DIM, 5 * number + 1), variant)
    with pytest.raises(ValueError, match=re.escape(str((5 * number + 1,)))):
        likelihood(torch.zeros(6, LATENT_DIM))


@over_cases
@over_shapes
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_network_without_out_shape_works(name, variant, shape, lead):
    stacked = (num_parameters(name, variant) * shape[0], *shape[1:])
    network = nn.Sequential(nn.Linear(LATENT_DIM, int(np.prod(stacked))), nn.Unflatten(-1, stacked)).double()
    likelihood = family(name, network, variant)
    p = likelihood(randn(*lead, LATENT_DIM))
    assert likelihood.event_shape is None
    assert (p.batch_shape, p.event_shape) == (lead, shape)
    likelihood.check(p.sample((3,)).reshape(-1, *shape))


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
def test_normal_scale_is_a_parameter_where_it_is_learned(variant, own):
    normal = likelihoods.Normal(lambda p: networks.MLP(LATENT_DIM, p * 3), **variant)
    assert {key for key, _ in normal.named_parameters() if not key.startswith("network.")} == own


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_normal_scale_that_is_not_positive_and_finite_is_refused(scale):
    with pytest.raises(ValueError, match=rf"scale.*{scale}"):
        likelihoods.Normal(networks.MLP(LATENT_DIM, 3), scale=scale)


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


@over_cases
@over_shapes
def test_start_at_mean_gives_the_mean_of_the_data_where_z_tells_nothing(name, variant, shape):
    likelihood, x = make(name, variant, shape), data(name, variant, shape)
    silence(likelihood)
    likelihood.start_at_mean(x)
    torch.testing.assert_close(likelihood(randn(LATENT_DIM)).mean, x.mean(0), rtol=1e-9, atol=1e-9)


@over_cases
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
        x[(slice(None), *[0] * len(shape))] = x[(0,) * x.dim()].clone()
    likelihood = family(name, lambda p: networks.MLP(LATENT_DIM, (p * shape[0], *shape[1:])), variant).double()
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
    x = likelihood(randn(6, LATENT_DIM)).sample()
    likelihood.check(x, "valid")
    likelihood.check(x.float(), "valid")
    return likelihood, x


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
