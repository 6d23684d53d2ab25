import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete import Bits, Mixture
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy.stats import chisquare, ks_2samp, kstest

from pyrovae import draws, gradients, objectives
from pyrovae.densities import log_densities

one = torch.ones((), dtype=torch.float64)


def values(fn):
    return [tuple(v.flatten().tolist()) for v in draws.support(fn)]


def drawn(messenger, fn, size):
    """The value of a site `(size,)` in a guide under a messenger, and its site when a model is replayed."""

    def program():
        with pyro.plate("data", size):
            return pyro.sample("z", fn)

    with messenger:
        trace = poutine.trace(program).get_trace()
        site = poutine.trace(poutine.replay(program, trace=trace)).get_trace().nodes["z"]
    return trace.nodes["z"]["value"], site


# All values ----------------------------------------------------------------------------------------------------------


def test_support_lists_every_value_once():
    eye = [tuple(row) for row in np.eye(3).tolist()]
    assert values(dist.Bernoulli(0.3)) == [(0.0,), (1.0,)]
    assert values(dist.Categorical(logits=torch.zeros(5, 4))) == [(0,), (1,), (2,), (3,)]
    assert values(dist.OneHotCategorical(logits=torch.zeros(7, 3))) == eye
    bits = dist.Bernoulli(torch.full((6, 2, 3), 0.3)).to_event(2)
    assert draws.support(bits).shape == (64, 2, 3)
    assert values(bits) == list(itertools.product([0.0, 1.0], repeat=6))
    classes = dist.OneHotCategorical(logits=torch.zeros(4, 2, 3)).to_event(1)
    assert draws.support(classes).shape == (9, 2, 3)
    assert values(classes) == [a + b for a, b in itertools.product(eye, repeat=2)]


def test_too_many_and_endless_values_are_refused():
    with pytest.raises(ValueError, match=r"'z' has 2\^17 values, too many.*use gradients.ScoreFunction"):
        draws.support(dist.Bernoulli(torch.full((17,), 0.5)).to_event(1))
    for fn in (dist.Poisson(2.0), dist.Geometric(0.5)):
        with pytest.raises(ValueError, match=r"'z'.*cannot be enumerated: use gradients.ScoreFunction"):
            draws.support(fn)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("nesting", [1, 2])
def test_enumerated_elbo_is_the_sum_over_all_values(k, b, nesting):
    x, objective = torch.randn(b).double(), objectives.ELBO(k, gradients.Enumerate(), max_plate_nesting=nesting)
    program = Mixture()
    np.testing.assert_allclose(objective.bound(program.model, program.guide, x), program.elbo(x), rtol=1e-12)
    assert objective.loss(program.model, program.guide, x) == pytest.approx(-program.elbo(x).sum(), rel=1e-12)
    x = torch.randn(b, 3).double()
    log_w, q = Bits().table(x)
    bound = objective.bound(Bits().model, Bits().guide, x)
    np.testing.assert_allclose(bound, (q * log_w).sum(0), rtol=1e-12)


def test_other_sites_are_drawn_for_each_value():
    x, program = torch.randn(4).double(), Mixture(continuous=True)
    many = 4000
    densities = log_densities(
        program.model, program.guide, x, num_samples=many, draws=draws.Enumerated(-3), max_plate_nesting=1
    )
    assert densities.log_weight.shape == (3, 2, many, 4)
    each = (densities.score["b"] + densities.score["c"]).exp() * densities.log_weight
    each = each.sum((0, 1)).detach()  # (K, B)
    np.testing.assert_allclose(each.mean(0), densities.mean(densities.log_weight).detach(), rtol=1e-10)
    z = (each.mean(0).numpy() - program.elbo(x)) / (each.std(0).numpy() / many**0.5)
    assert np.abs(z).max() < 4.5  # p < 1e-5 for each of 4


def test_enumerated_value_and_gradient_equal_those_of_pyro():
    x, bits, results = torch.randn(5, 3).double(), Bits(), []
    ours, pyros = objectives.ELBO(gradient=gradients.Enumerate()), TraceEnum_ELBO(max_plate_nesting=1)
    for elbo, programs in ((ours, (bits.model, bits.guide)), (ours, split(bits)), (pyros, split(bits))):
        bits.zero_grad()
        results.append((elbo.loss_and_grads(*programs, x), torch.cat([p.grad.flatten() for p in bits.parameters()])))
    for loss, grad in results[:2]:
        assert loss == pytest.approx(results[2][0], rel=1e-10)
        assert torch.allclose(grad, results[2][1], rtol=1e-9)


def split(bits):
    """With a site for each bit, as Pyro enumerates no Independent sites."""

    def model(x):
        pyro.module("split", bits)
        with pyro.plate("data", len(x)):
            z = torch.broadcast_tensors(*(pyro.sample(f"z{i}", dist.Bernoulli(logits=bits.a[i])) for i in range(2)))
            pyro.sample("x", dist.Normal(torch.stack(z, -1) @ bits.w.T, 1.0).to_event(1), obs=x)

    @config_enumerate
    def guide(x):
        pyro.module("split", bits)
        with pyro.plate("data", len(x)):
            for i in range(2):
                pyro.sample(f"z{i}", dist.Bernoulli(logits=x @ bits.v[i]))

    return model, guide


@pytest.mark.parametrize("gradient", [gradients.Enumerate(), gradients.ScoreFunction(), gradients.VIMCO()])
def test_a_scale_multiplies_value_and_gradient_once(gradient):
    x, results = torch.randn(5, 3).double(), []
    per_datum = torch.full((5,), 0.1, dtype=torch.float64)
    for bits in (Bits(), Bits(scale=0.1), Bits(scale=per_datum)):
        pyro.set_rng_seed(3)
        loss = objectives.ELBO(3, gradient).loss_and_grads(bits.model, bits.guide, x)
        results.append((loss, torch.cat([p.grad.flatten() for p in bits.parameters()])))
    for loss, grad in results[1:]:
        assert loss == pytest.approx(0.1 * results[0][0], rel=1e-10)
        assert torch.allclose(grad, 0.1 * results[0][1], rtol=1e-9)


@pytest.mark.parametrize(
    "gradient", [gradients.Enumerate(), gradients.ScoreFunction(), gradients.VIMCO(), gradients.REBAR()]
)
def test_a_scale_of_the_latent_site_alone_is_a_weight_of_its_kl(gradient):
    x, bits, results = torch.randn(5, 3).double(), Bits(), []

    def model(x):
        pyro.module("bits", bits)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.1):
                z = pyro.sample("z", dist.Bernoulli(logits=bits.a).to_event(1))
            pyro.sample("x", dist.Normal(z @ bits.w.T, 1.0).to_event(1), obs=x)

    for beta, programs in ((1.0, (model, poutine.scale(bits.guide, 0.1))), (0.1, (bits.model, bits.guide))):
        bits.zero_grad()
        pyro.set_rng_seed(3)
        loss = objectives.ELBO(3, gradient, beta=beta).loss_and_grads(*programs, x)
        results.append((loss, torch.cat([p.grad.flatten() for p in bits.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-10)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-9)


def test_a_masked_site_is_still_drawn_with_its_probability():
    x, bits = torch.randn(5, 3).double(), Bits(mask=torch.tensor([True, False, True, False, False]))
    log_w, q = bits.table(x)
    for k in (1, 2):
        bound = objectives.ELBO(k, gradients.Enumerate()).bound(bits.model, bits.guide, x)
        np.testing.assert_allclose(bound, (q * log_w).sum(0), rtol=1e-12)


def test_an_enumerated_site_needs_to_know_how_many_plates_there_are():
    x = torch.randn(2, 5).double()

    def model(x):
        with pyro.plate("data", 5, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.3 * one))
            with pyro.plate("pixels", 2, dim=-2):
                pyro.sample("x", dist.Normal(z, one), obs=x)

    def guide(x):
        with pyro.plate("data", 5, dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x[0])))

    with pytest.raises(ValueError, match=r"more than 1 plates.*max_plate_nesting"):
        objectives.ELBO(gradient=gradients.Enumerate()).bound(model, guide, x)
    q = torch.sigmoid(x[0])
    log_w = [
        dist.Normal(z * one, one).log_prob(x).sum(0) + np.log(p) - dist.Bernoulli(q).log_prob(z * one)
        for z, p in ((0.0, 0.7), (1.0, 0.3))
    ]
    expected = (1 - q) * log_w[0] + q * log_w[1]
    for k in (1, 2):
        objective = objectives.ELBO(k, gradients.Enumerate(), max_plate_nesting=2)
        np.testing.assert_allclose(objective.bound(model, guide, x), expected, rtol=1e-10)


def test_a_discrete_site_in_a_plate_inside_a_datum_is_not_enumerated_but_may_be_sampled():
    x, logits = torch.randn(5).double(), torch.nn.Parameter(torch.zeros(3, 5).double())

    def guide(x):
        with pyro.plate("data", 5, dim=-1), pyro.plate("parts", 3, dim=-2):
            return pyro.sample("z", dist.Bernoulli(logits=logits))

    def model(x):
        with pyro.plate("data", 5, dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Bernoulli(0.3 * one))
            pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), one), obs=x)

    for k in (1, 2):
        with pytest.raises(
            ValueError, match=r"'z' is in a plate inside.*to_event\(1\), or use gradients.ScoreFunction"
        ):
            objectives.ELBO(k, gradients.Enumerate(), max_plate_nesting=2).bound(model, guide, x)
        for gradient in (gradients.ScoreFunction(), gradients.REBAR(), gradients.Concrete()):
            objective = objectives.ELBO(k, gradient, max_plate_nesting=2)
            assert np.isfinite(objective.loss_and_grads(model, guide, x))
            assert torch.isfinite(logits.grad).all()
    bound = objectives.ELBO(20_000, gradients.ScoreFunction(), max_plate_nesting=2).bound(model, guide, x)
    kl = 3 * (np.log(0.5) - 0.5 * np.log(0.7 * 0.3))
    counts = [(1, 0.0), (3, 1.0), (3, 2.0), (1, 3.0)]
    expected = sum(n / 8 * dist.Normal(c * one, one).log_prob(x) for n, c in counts) - kl
    assert (bound - expected).abs().max() < 0.1  # 5 standard errors and more


# Other draws ---------------------------------------------------------------------------------------------------------


def test_combined_draws_are_scored_in_all_combinations():
    def model(x):
        with pyro.plate("data", len(x)):
            a, b = pyro.sample("a", dist.Normal(0 * one, 1.0)), pyro.sample("b", dist.Normal(one, 2.0))
            pyro.sample("x", dist.Normal(a * b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 1.5))
            pyro.sample("b", dist.Normal(-x, 0.5))

    x = torch.randn(3).double()
    pyro.set_rng_seed(11)
    densities = log_densities(model, guide, x, draws=draws.Combined(-2, 4))
    a, b = (densities.q[name]["value"].reshape(4, 3).numpy() for name in "ab")
    expected = np.empty((4, 4, 3))
    for i, j in itertools.product(range(4), repeat=2):

        def normal(y, mean, scale):
            return -0.5 * ((y - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)

        log_w = normal(a[i], 0, 1) + normal(b[j], 1, 2) + normal(x.numpy(), a[i] * b[j], 1)
        expected[i, j] = log_w - normal(a[i], x.numpy(), 1.5) - normal(b[j], -x.numpy(), 0.5)
    bound = np.logaddexp.reduce(expected.reshape(16, 3)) - np.log(16)
    for nesting in (1, 2):
        pyro.set_rng_seed(11)
        np.testing.assert_allclose(objectives.TMC(4, max_plate_nesting=nesting).bound(model, guide, x), bound)


def test_relaxed_draws_lie_inside_and_are_scored_by_the_continued_mass_function():
    logits = torch.randn(1000, 3).double().requires_grad_()
    value, site = drawn(draws.Relaxed(0.5, rounded=False), dist.OneHotCategorical(logits=logits), 1000)
    assert ((value > 0) & (value < 1)).all()
    assert torch.allclose(value.sum(-1), one)
    assert torch.allclose(site["fn"].log_prob(value), (value * logits.log_softmax(-1)).sum(-1))
    assert torch.autograd.grad(value[:, 0].sum(), logits)[0].abs().sum() > 1
    value, site = drawn(draws.Relaxed(0.5, rounded=False), dist.Bernoulli(logits=logits).to_event(1), 1000)
    assert ((value > 0) & (value < 1)).all()
    linear = value * torch.sigmoid(logits).log() + (1 - value) * torch.sigmoid(-logits).log()
    assert torch.allclose(site["fn"].log_prob(value), linear.sum(-1))
    # Relaxed z is above 1/2 with the probability of the bit.
    z = ((value > 0.5).double() - torch.sigmoid(logits)).sum(0)
    z = z / (torch.sigmoid(logits) * torch.sigmoid(-logits)).sum(0).sqrt()
    assert z.abs().max() < 4.5  # p < 1e-5 for each of 3


@pytest.mark.parametrize("rounded", [False, True])
def test_what_cannot_be_relaxed_is_refused_and_what_need_not_be_is_left(rounded):
    normal = dist.Normal(torch.zeros(5), 1.0)
    value, site = drawn(draws.Relaxed(0.5, rounded), normal, 5)
    assert isinstance(site["fn"], dist.Normal)
    assert not torch.equal(value, value.round())
    message = r"'z' .*cannot be relaxed.*use gradients.ScoreFunction"
    for fn in (dist.Categorical(logits=torch.zeros(5, 3)), dist.Poisson(torch.ones(5))):
        with pytest.raises(ValueError, match=message):
            drawn(draws.Relaxed(0.5, rounded), fn, 5)


def test_rounded_draws_are_discrete_with_the_right_frequencies():
    n, logits = 6000, torch.tensor([0.5, -1.0, 0.2]).double().requires_grad_()
    one_hot, bits = dist.OneHotCategorical(logits=logits), dist.Bernoulli(logits=logits).to_event(1)
    value, site = drawn(draws.Relaxed(0.7, rounded=True), one_hot, n)
    assert torch.equal(value.detach(), value.detach().round())
    assert chisquare(value.detach().sum(0).numpy(), n * logits.detach().softmax(0).numpy()).pvalue > 1e-4
    assert torch.allclose(site["fn"].log_prob(value), one_hot.log_prob(value.detach()))
    assert torch.autograd.grad(value[:, 0].sum(), logits)[0].abs().min() > 1
    value, site = drawn(draws.Relaxed(0.7, rounded=True), bits, n)
    assert set(value.detach().flatten().tolist()) == {0.0, 1.0}
    for count, p in zip(value.detach().sum(0), torch.sigmoid(logits).detach(), strict=True):
        assert chisquare([count, n - count], [n * p, n * (1 - p)]).pvalue > 1e-4
    assert torch.equal(site["fn"].log_prob(value), bits.log_prob(value))


def test_coupled_draws_share_their_bit():
    n, temperature, logit = 4000, 0.6, 0.8
    logits = torch.full((3 * n, 1, 1), logit).double()

    def program():
        with pyro.plate("draws", 3 * n, dim=-2), pyro.plate("data", 1, dim=-1):
            return pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    with draws.Coupled(temperature):
        b, s, s_given_b = program().flatten().chunk(3)
    assert set(b.tolist()) == {0.0, 1.0}
    p = 1 / (1 + np.exp(-logit))
    assert chisquare([b.sum(), n - b.sum()], [n * p, n * (1 - p)]).pvalue > 1e-4
    for relaxed in (s, s_given_b):  # all three on the same side
        assert torch.equal((relaxed > 0.5).double(), b)
        z = temperature * torch.logit(relaxed).numpy() - logit  # logistic
        assert kstest(z, "logistic").pvalue > 1e-4
    assert ks_2samp(s, s_given_b).pvalue > 1e-4
    # Given the bit, the third is another draw than the second.
    for bit in (0, 1):
        assert abs(np.corrcoef(s[b == bit], s_given_b[b == bit])[0, 1]) < 5 / np.sqrt((b == bit).sum().item())
    with pytest.raises(ValueError, match=r"REBAR couples Bernoulli variables.*'z'.*gradients.Enumerate"):
        drawn(draws.Coupled(0.5), dist.OneHotCategorical(logits=torch.zeros(3, 1, 3)), 1)


def test_detached_draws_carry_no_gradient_unless_pathwise():
    loc = torch.zeros(5, requires_grad=True)
    assert not drawn(draws.Detached(), dist.Normal(loc, 1.0), 5)[0].requires_grad
    assert drawn(draws.Detached(pathwise=True), dist.Normal(loc, 1.0), 5)[0].requires_grad
    assert not drawn(draws.Detached(pathwise=True), dist.Bernoulli(logits=loc), 5)[0].requires_grad
