"""Gradient estimates against exact gradients: quadrature for two Gaussian sites, enumeration for Bernoulli latents.

Each estimate is a mean over independent batches, each of which draws evenly. Hotelling's T^2 compares it with the exact
gradient, block by block, at a level of 1e-3. That it would notice a bias of 1 % of the gradient's norm, in whichever
direction, is asserted: such a bias must be at least 8 standard errors, which the test misses with a probability of 2 %
at most.
"""

import functools
import itertools
import math
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from nets import evenly
from scipy.stats import f as f_distribution
from two_sites import PHI, THETA, TwoSites, noise

from pyrovae import exact, gradients, networks, objectives
from pyrovae.baselines import Learned, LeaveOneOut, MovingAverage
from pyrovae.check import unvalidated
from pyrovae.gradients import STL, VIMCO, Covariance, DReG, Enumerate, Pathwise, ScoreFunction, Sleep, Wake

LEVEL = 1e-3
X = torch.tensor([3.0, 2.0], dtype=torch.float64)


def log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def tvo(log_w, betas=(0.0, 0.1, 0.1**0.5, 1.0)):
    return sum((b - a) * ((a * log_w).softmax(0) * log_w).sum(0) for a, b in itertools.pairwise(betas))


# Each a function of two log-weights, written out.
F = {
    "ELBO": lambda log_w: log_w.mean(0),
    "IWAE": log_mean,
    "Renyi": lambda log_w: 2 * log_mean(log_w / 2),
    "VR-max": lambda log_w: log_w.amax(0),
    "CIWAE": lambda log_w: 0.3 * log_w.mean(0) + 0.7 * log_mean(log_w),
    "TVO": tvo,
}


def estimates(objective, model, guide, x, parameters, batches, even=False):
    """The objective and its gradient for each of many batches, `(batches,)` and `(batches, parameters)`."""
    values, draws = [], []
    for i in range(batches):
        pyro.set_rng_seed(i)
        for p in parameters:
            p.grad = None
        validation = unvalidated() if i else nullcontext()  # as SVI does, which validates in the first step
        with validation, evenly(len(x), seed=i) if even else nullcontext():
            values.append(-objective.loss_and_grads(model, guide, x))
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        draws.append(-torch.cat([g.flatten() for g in grads]))
    return np.array(values), torch.stack(draws).numpy()


def hotelling(draws, expected):
    """P-value of a mean of batches being what is expected, and 1 % of its norm in standard errors, at the least."""
    n, d = draws.shape
    norm = np.linalg.norm(expected)
    # Even draws of bits hardly vary in some directions: errors are taken for 1e-4 of the norm at the least.
    covariance = np.cov(draws.T).reshape(d, d) / n + (1e-4 * norm) ** 2 * np.eye(d)
    off = draws.mean(0) - expected
    t2 = off @ np.linalg.solve(covariance, off)
    noticed = 0.01 * norm / np.linalg.eigvalsh(covariance)[-1] ** 0.5
    return f_distribution.sf(t2 * (n - d) / (d * (n - 1)), d, n - d), noticed


def assert_unbiased(draws, expected, blocks):
    for name, block in blocks.items():
        p, noticed = hotelling(draws[:, block], expected[block])
        assert noticed > 8, f"{name}: more draws are needed, 1 % is {noticed:.1f} standard errors"
        assert p > LEVEL, f"{name}: p = {p:.1e}"


# --- two dependent Gaussian sites, guide bottom up, model top down ---

BLOCKS = {"theta": slice(0, 4), "phi": slice(4, 10)}


@functools.cache
def programs():
    return TwoSites()


def parameters():
    return [getattr(programs(), name) for name in (*THETA, *PHI)]


@functools.cache
def by_quadrature(name, nodes=18):
    """E[F] and its gradient, for K = 2."""
    value = programs().expectation(F[name], X, 2, nodes).sum()
    return value.item(), torch.stack(torch.autograd.grad(value, parameters())).numpy()


def sampled(objective, copies=1024, batches=50):
    """Estimates for each datum copied many times, each of which is a draw of its own."""
    x = X.repeat_interleave(copies)
    values, draws = estimates(objective, programs().model, programs().guide, x, parameters(), batches, even=True)
    return values / copies, draws / copies


def test_the_quadrature_has_converged():
    for name in ("IWAE", "TVO"):
        coarse, fine = by_quadrature(name, 14), by_quadrature(name)
        np.testing.assert_allclose(coarse[0], fine[0], rtol=1e-5)
        np.testing.assert_allclose(coarse[1], fine[1], atol=1e-4 * np.linalg.norm(fine[1]))
    coarse, fine = by_quadrature_of_the_chain(7), by_quadrature_of_the_chain()
    np.testing.assert_allclose(coarse[1], fine[1], atol=1e-3 * np.linalg.norm(fine[1]))


UNBIASED = [
    ("ELBO", objectives.ELBO(2)),
    ("ELBO", objectives.ELBO(2, analytic_kl=True)),
    ("ELBO", objectives.ELBO(2, STL())),
    ("ELBO", objectives.ELBO(2, DReG())),
    ("ELBO", objectives.ELBO(2, ScoreFunction(LeaveOneOut()))),
    ("ELBO", objectives.ELBO(2, VIMCO())),
    ("IWAE", objectives.IWAE(2)),
    ("IWAE", objectives.IWAE(2, DReG())),
    ("IWAE", objectives.IWAE(2, ScoreFunction(LeaveOneOut()))),
    ("IWAE", objectives.IWAE(2, VIMCO())),
    ("IWAE", objectives.MIWAE(2, 2)),
    ("IWAE", objectives.MIWAE(2, 2, DReG())),
    ("IWAE", objectives.MIWAE(2, 2, VIMCO())),
    ("Renyi", objectives.Renyi(0.5, 2)),
    ("Renyi", objectives.Renyi(0.5, 2, DReG())),
    ("Renyi", objectives.Renyi(0.5, 2, VIMCO())),
    ("CIWAE", objectives.CIWAE(0.3, 2)),
    ("CIWAE", objectives.CIWAE(0.3, 2, DReG())),
    ("TVO", objectives.TVO(2, 3, 0.1, Pathwise())),
    ("TVO", objectives.TVO(2, 3, 0.1, DReG())),
    ("TVO", objectives.TVO(2, 3, 0.1, VIMCO())),
]


def label(case):
    if isinstance(case, str):
        return case
    parts = [case] if isinstance(case, gradients.Gradient) else [case, case.gradient]
    parts += [b for b in [getattr(parts[-1], "baseline", None)] if b is not None]
    return "-".join(type(part).__name__ for part in parts)


@pytest.mark.parametrize(("name", "objective"), UNBIASED, ids=label)
def test_unbiased_estimators_have_the_exact_gradient_in_every_block(name, objective):
    value, gradient = by_quadrature(name)
    values, draws = sampled(objective)
    assert abs(values.mean() - value) < 4 * values.std() / len(values) ** 0.5  # p = 1e-4
    assert_unbiased(draws, gradient, BLOCKS)


def test_the_test_notices_a_bias_of_one_percent():
    _, gradient = by_quadrature("IWAE")
    _, draws = sampled(objectives.IWAE(2, DReG()))
    for block in BLOCKS.values():
        assert hotelling(1.01 * draws[:, block], gradient[block])[0] < LEVEL


def test_stl_is_biased_for_more_than_one_draw_in_the_guide_alone():
    _, gradient = by_quadrature("IWAE")
    _, draws = sampled(objectives.IWAE(2, STL()), batches=20)
    assert hotelling(draws[:, BLOCKS["theta"]], gradient[BLOCKS["theta"]])[0] > LEVEL
    phi = BLOCKS["phi"]
    bias = np.linalg.norm(draws[:, phi].mean(0) - gradient[phi]) / np.linalg.norm(gradient[phi])
    assert 0.2 < bias < 2  # of the gradient's norm


@pytest.mark.parametrize("gradient", [Pathwise(), STL(), DReG()], ids=label)
def test_piwae_gives_the_model_iwae_and_the_guide_miwae(gradient):
    """With groups of one draw: the model has the IWAE gradient of both draws, the guide that of the ELBO."""
    _, draws = sampled(objectives.PIWAE(1, 2, gradient))
    assert_unbiased(draws, by_quadrature("IWAE")[1], {"theta": BLOCKS["theta"]})
    assert_unbiased(draws, by_quadrature("ELBO")[1], {"phi": BLOCKS["phi"]})


def by_wake(nodes=18):
    """E[sum_k w_k / (sum w) d/dphi log q(z_k | x)] for K = 2."""
    sites = programs()
    e1, e2, weight = noise(2, nodes)
    total = 0
    for x in X:
        with torch.no_grad():
            v = sites.log_weights(x, e1, e2).softmax(0)
            z1 = sites.u * x + sites.v + sites.r.exp() * e1
            z2 = sites.h * z1 + sites.k * x + sites.t.exp() * e2
        log_q = -0.5 * ((z1 - sites.u * x - sites.v) / sites.r.exp()) ** 2 - sites.r
        log_q = log_q - 0.5 * ((z2 - sites.h * z1 - sites.k * x) / sites.t.exp()) ** 2 - sites.t
        total = total + (weight * v * log_q).sum()
    return torch.stack(torch.autograd.grad(total, parameters(), allow_unused=True)[4:]).numpy()


@pytest.mark.parametrize("gradient", [Wake(), DReG()], ids=label)
def test_wake_updates(gradient):
    _, draws = sampled(objectives.RWS(2, gradient))
    expected = np.concatenate([by_quadrature("IWAE")[1][:4], by_wake()])
    assert_unbiased(draws, expected, BLOCKS)


def test_sleep_updates():
    """E_p(z, x)[log q(z | x)] in closed form: x, z1, z2 are jointly Gaussian."""
    sites = programs()
    m, a, c, d = (p.item() for p in parameters()[:4])
    # (z2, z1, x) = mean + factor e
    factor = torch.tensor([[1, 0, 0], [a, 0.8, 0], [c * a + d, 0.8 * c, 0.6]], dtype=torch.float64)
    mean = torch.tensor([m, a * m, c * a * m + d * m], dtype=torch.float64)
    cov = factor @ factor.T

    def expected_square(weights, constant):
        """E[(weights . (z2, z1, x) + constant)^2]."""
        return weights @ cov @ weights + (weights @ mean + constant) ** 2

    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    first = expected_square(torch.stack([zero, one, -sites.u]), -sites.v) / (2 * sites.r).exp()
    second = expected_square(torch.stack([one, -sites.h, -sites.k]), zero) / (2 * sites.t).exp()
    objective = -0.5 * (first + second) - sites.r - sites.t
    expected = len(X) * torch.stack(torch.autograd.grad(objective, parameters()[4:])).numpy()
    _, draws = sampled(objectives.RWS(2, Sleep()))
    assert_unbiased(draws, np.concatenate([by_quadrature("IWAE")[1][:4], expected]), BLOCKS)


def test_tensor_monte_carlo_against_quadrature():
    sites = programs()
    e1, e2, weight = noise(2, 18)

    def log_normal(y, mean, scale):
        return -0.5 * ((y - mean) / scale) ** 2 - torch.as_tensor(scale).log() - 0.5 * math.log(2 * math.pi)

    total = 0
    for x in X:
        z1 = sites.u * x + sites.v + sites.r.exp() * e1
        z2 = sites.h * z1 + sites.k * x + sites.t.exp() * e2
        terms = []
        for i, j in itertools.product(range(2), repeat=2):
            log_p = log_normal(z2[j], sites.m, 1.0) + log_normal(z1[i], sites.a * z2[j], 0.8)
            log_p = log_p + log_normal(x, sites.c * z1[i] + sites.d * z2[j], 0.6)
            mixture = log_mean(torch.stack([log_normal(z2[j], sites.h * z + sites.k * x, sites.t.exp()) for z in z1]))
            terms.append(log_p - log_normal(z1[i], sites.u * x + sites.v, sites.r.exp()) - mixture)
        total = total + (weight * log_mean(torch.stack(terms))).sum()
    gradient = torch.stack(torch.autograd.grad(total, parameters())).numpy()
    values, draws = sampled(objectives.TMC(2))
    assert abs(values.mean() - total.item()) < 4 * values.std() / len(values) ** 0.5  # p = 1e-4
    assert_unbiased(draws, gradient, BLOCKS)


class Chain(torch.nn.Module):
    """Three sites, each of which the guide draws given all before it; x ~ N(z3, 0.7^2)."""

    def __init__(self):
        super().__init__()
        self.phi = torch.nn.Parameter(torch.tensor([0.5, 0.8, 0.6, -0.4, 0.3], dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            z2 = pyro.sample("z2", dist.Normal(0.5 * z1, 1.0))
            z3 = pyro.sample("z3", dist.Normal(z2 - 0.3 * z1, 1.0))
            pyro.sample("x", dist.Normal(z3, 0.7), obs=x)

    def guide(self, x):
        pyro.module("chain", self)
        a, b, c, d, e = self.phi
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(a * x, 0.8))
            z2 = pyro.sample("z2", dist.Normal(b * z1 + e * x, 0.9))
            pyro.sample("z3", dist.Normal(c * z2 + d * z1 * x, 0.7))

    def log_weights(self, x, e):
        """Log w of draws made from standard normal noise `(3, ...)`, by the formulas of the densities alone."""
        a, b, c, d, f = self.phi
        z1 = a * x + 0.8 * e[0]
        z2 = b * z1 + f * x + 0.9 * e[1]
        z3 = c * z2 + d * z1 * x + 0.7 * e[2]
        log_p = z1**2 + (z2 - 0.5 * z1) ** 2 + (z3 - z2 + 0.3 * z1) ** 2 + ((x - z3) / 0.7) ** 2
        constant = math.log(0.8 * 0.9 * 0.7 / 0.7) - 0.5 * math.log(2 * math.pi)
        return -0.5 * log_p + 0.5 * (e**2).sum(0) + constant


@functools.cache
def by_quadrature_of_the_chain(nodes=8):
    """The IWAE bound of two draws at x = 1.5, and its gradient by phi."""
    chain, x = Chain(), torch.tensor([1.5], dtype=torch.float64)
    e, weight = np.polynomial.hermite_e.hermegauss(nodes)
    e = torch.tensor(list(itertools.product(e, repeat=6))).T.reshape(2, 3, -1)
    weight = torch.tensor(list(itertools.product(weight / weight.sum(), repeat=6))).prod(1)
    total = (weight * log_mean(torch.stack([chain.log_weights(x, noise) for noise in e]))).sum()
    return total.item(), torch.autograd.grad(total, chain.phi)[0].numpy()


@pytest.mark.parametrize("gradient", [Pathwise(), DReG(), VIMCO()], ids=label)
def test_a_chain_of_three_sites(gradient):
    """Each draw's parameters depend on all before it, by more than one way."""
    chain, (value, gradient_of_phi) = Chain(), by_quadrature_of_the_chain()
    copies = 8192 if isinstance(gradient, VIMCO) else 2048
    objective, x = objectives.IWAE(2, gradient), torch.full((copies,), 1.5, dtype=torch.float64)
    values, draws = estimates(objective, chain.model, chain.guide, x, [chain.phi], batches=50, even=True)
    assert abs(values.mean() / copies - value) < 4 * values.std() / copies / len(values) ** 0.5  # p = 1e-4
    assert_unbiased(draws / copies, gradient_of_phi, {"phi": slice(None)})


# --- the exact posterior as guide ---


@pytest.fixture
def exact_posterior():
    """Two latent dimensions, orthogonal columns of W: the diagonal posterior is in the encoder's family."""
    toy = exact.LinearGaussian(2, 5, scale=0.7, seed=1)
    x = toy.sample(6, seed=2)
    return exact.LinearGaussian.maximum_likelihood(toy.sample(500, seed=3), 2), x


@pytest.mark.parametrize(
    "objective",
    [objectives.ELBO(gradient=STL()), objectives.ELBO(5, STL()), objectives.IWAE(5, STL()), objectives.IWAE(5, DReG())],
    ids=label,
)
def test_at_the_exact_posterior_the_guide_has_no_gradient_at_all(exact_posterior, objective):
    model, x = exact_posterior
    objective.loss_and_grads(model.vae.model, model.vae.guide, x)
    assert all(p.grad.abs().max() < 1e-10 for p in model.vae.encoder.parameters())
    assert all(p.grad.abs().max() > 1e-3 for p in model.vae.likelihood.parameters())
    model.vae.zero_grad()
    objectives.ELBO().loss_and_grads(model.vae.model, model.vae.guide, x)  # where the pathwise gradient is noise
    assert all(p.grad.abs().max() > 1e-3 for p in model.vae.encoder.parameters())


# --- Bernoulli latents ---


def by_block(vae):
    """Parameters of the model, then of the guide."""
    return [*vae.prior.parameters(), *vae.likelihood.parameters(), *vae.encoder.parameters()]


@functools.cache
def toy():
    model = exact.BernoulliToy(2, 3, seed=0)
    with torch.no_grad():  # away from the optimum, where gradients are not small
        for i, p in enumerate(by_block(model.vae)):
            p.copy_(2 * torch.from_numpy(np.random.default_rng(400 + i).normal(size=p.shape)))
    return model


OBSERVED = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 0]], dtype=torch.float64)


def toy_blocks():
    vae = toy().vae
    n = sum(p.numel() for p in (*vae.prior.parameters(), *vae.likelihood.parameters()))
    return {"theta": slice(0, n), "phi": slice(n, None)}


def toy_parameters():
    return by_block(toy().vae)


def toy_log_weights():
    """Log q(z | x) and log w of the four z, for each datum, by the formulas of the densities alone."""
    vae = toy().vae
    decoder, encoder = vae.likelihood.network.layers[-1], vae.encoder.network.layers[-1]
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)

    def log_bernoulli(values, logits):
        return (values * logits - torch.nn.functional.softplus(logits)).sum(-1)

    for x in OBSERVED:
        log_q = log_bernoulli(z, x @ encoder.weight.T + encoder.bias)
        log_p = log_bernoulli(z, vae.prior.logits) + log_bernoulli(x, z @ decoder.weight.T + decoder.bias)
        yield log_q, log_p - log_q


def toy_gradient(total):
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, toy_parameters())]).numpy()


@functools.cache
def by_enumeration(name, k=2):
    """E[F] and its gradient by the sum over all K draws of z."""
    total = 0
    for log_q, log_w in toy_log_weights():
        for draws in itertools.product(range(len(log_q)), repeat=k):
            total = total + log_q[list(draws)].sum().exp() * F[name](log_w[list(draws)])
    return total.item(), toy_gradient(total)


def toy_sampled(objective, copies=512, batches=60, even=True):
    x = OBSERVED.repeat_interleave(copies, 0)
    vae = toy().vae
    values, draws = estimates(objective, vae.model, vae.guide, x, toy_parameters(), batches, even)
    return values / copies, draws / copies


DISCRETE = [
    ("ELBO", objectives.ELBO(2, ScoreFunction())),
    ("ELBO", objectives.ELBO(2, ScoreFunction(LeaveOneOut()))),
    ("ELBO", objectives.ELBO(1, gradients.REBAR())),
    ("ELBO", objectives.ELBO(2, gradients.REBAR(temperature=0.3, eta=0.7))),
    ("IWAE", objectives.IWAE(2, ScoreFunction())),
    ("IWAE", objectives.IWAE(2, ScoreFunction(MovingAverage()))),
    ("IWAE", objectives.IWAE(2, ScoreFunction(Learned(networks.MLP(3, 1, hidden=()).double())))),
    ("IWAE", objectives.IWAE(2, ScoreFunction(LeaveOneOut()))),
    ("IWAE", objectives.IWAE(2, VIMCO())),
    ("Renyi", objectives.Renyi(0.5, 2, VIMCO())),
    ("VR-max", objectives.Renyi(-math.inf, 2, VIMCO())),
    ("CIWAE", objectives.CIWAE(0.3, 2, VIMCO())),
    ("TVO", objectives.TVO(2, 3, 0.1, VIMCO())),
]


@pytest.mark.parametrize(("name", "objective"), DISCRETE, ids=label)
def test_unbiased_estimators_for_discrete_latents(name, objective):
    value, gradient = by_enumeration(name)
    values, draws = toy_sampled(objective)
    assert abs(values.mean() - value) < 4 * values.std() / len(values) ** 0.5  # p = 1e-4
    assert_unbiased(draws, gradient, toy_blocks())


def test_enumeration_is_exact():
    vae, objective = toy().vae, objectives.ELBO(gradient=Enumerate())
    value, gradient = by_enumeration("ELBO")
    values, draws = estimates(objective, vae.model, vae.guide, OBSERVED, toy_parameters(), 1)
    np.testing.assert_allclose(values, value, rtol=1e-12)
    np.testing.assert_allclose(draws[0], gradient, atol=1e-12)
    np.testing.assert_allclose(objective.bound(vae.model, vae.guide, OBSERVED).sum(), value, rtol=1e-12)


def relative_bias(objective):
    """Of the guide's gradient, in its norm."""
    _, gradient = by_enumeration("ELBO")
    _, draws = toy_sampled(objective, batches=20)
    phi = toy_blocks()["phi"]
    return np.linalg.norm(draws[:, phi].mean(0) - gradient[phi]) / np.linalg.norm(gradient[phi])


def test_relaxations_are_biased_the_less_the_colder():
    warm, cold = (relative_bias(objectives.ELBO(2, gradients.Concrete(t))) for t in (1.0, 0.2))
    assert 0.01 < cold < warm / 2
    assert warm < 1
    straight = relative_bias(objectives.ELBO(2, gradients.StraightThrough(1.0)))
    assert 0.01 < straight < 1


def test_a_relaxed_objective_has_the_discrete_bound():
    vae = toy().vae
    objective = objectives.ELBO(10_000, gradients.Concrete(1.0))
    value, _ = by_enumeration("ELBO")
    bound = objective.bound(vae.model, vae.guide, OBSERVED).sum().item()
    assert bound == pytest.approx(value, rel=0.005)
    assert -objective.loss(vae.model, vae.guide, OBSERVED) != pytest.approx(value, rel=0.02)


def test_the_covariance_gradient_is_that_of_the_thermodynamic_bound():
    """Against the bound itself, with exact expectations under each tempered posterior; K = 500 leaves little bias."""
    total = 0
    for log_q, log_w in toy_log_weights():
        for a, b in itertools.pairwise((0.0, 0.1, 0.1**0.5, 1.0)):
            total = total + (b - a) * ((log_q + a * log_w).softmax(0) * log_w).sum()
    expected = toy_gradient(total)
    values, draws = toy_sampled(objectives.TVO(500, 3, 0.1, Covariance()), copies=100, batches=30, even=False)
    assert values.mean() == pytest.approx(total.item(), rel=0.005)
    for block in toy_blocks().values():
        assert np.linalg.norm(draws[:, block].mean(0) - expected[block]) < 0.01 * np.linalg.norm(expected[block])


def test_a_score_function_may_leave_pathwise_what_can_be():
    """On the Gaussian sites all of it is pathwise then."""
    ours, x = [], X.repeat(5)
    for gradient in (Pathwise(), ScoreFunction(pathwise=True)):
        _, draws = estimates(objectives.IWAE(3, gradient), programs().model, programs().guide, x, parameters(), 1)
        ours.append(draws)
    np.testing.assert_allclose(*ours, rtol=1e-10)


def test_no_estimator_runs_the_encoder_twice():
    vae, calls = toy().vae, []
    handle = vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    model = exact.LinearGaussian(2, 5)
    other = model.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    for objective in (objectives.IWAE(3, STL()), objectives.IWAE(3, DReG()), objectives.PIWAE(2, 2, DReG())):
        objective.loss_and_grads(model.vae.model, model.vae.guide, model.sample(4))
        assert len(calls) == 1
        calls.clear()
    for _, objective in DISCRETE:
        objective.loss_and_grads(vae.model, vae.guide, OBSERVED)
        assert len(calls) == 1
        calls.clear()
    handle.remove()
    other.remove()
