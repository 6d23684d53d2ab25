"""M2 with its classes enumerated, against explicit sums, Pyro's enumeration, and what known classes must do."""

import itertools

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy.stats import chi2
from torch import nn
from torch.distributions import Bernoulli
from torch.nn import functional as F

from pyrovae import encoders, evaluation, fit, gradients, likelihoods, networks, objectives, priors
from pyrovae.m2 import M2

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
ENUMERATED = objectives.ELBO(gradient=gradients.Enumerate())
Y = torch.tensor([-1, 0, 2, -1, 1])


def bits(alpha=0.5):
    """z of two bits, x of three, y of three classes."""
    torch.manual_seed(0)
    make = lambda *sizes: networks.MLP(*sizes, hidden=(), initializer=nn.init.normal_).double()  # noqa: E731
    prior = priors.Bernoulli(2).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.4, -0.9]))
    return M2(prior, likelihoods.Bernoulli(make(5, 3)), encoders.Bernoulli(make(6, 2)), make(3, 3), alpha)


def data(m2):
    torch.manual_seed(1)
    return m2.sample(len(Y))


def of_class(m2, x, c):
    """log p(x, z, y = c) and log q(z | x, y = c) for all z, `(4, B)` each."""
    y = F.one_hot(torch.full((len(x),), c), 3).double()
    log_p, log_q = [], []
    for z in itertools.product([0.0, 1.0], repeat=2):
        z = torch.tensor(z).double().expand(len(x), 2)
        p = Bernoulli(logits=m2.prior.logits).log_prob(z).sum(-1) - torch.tensor(3.0).double().log()
        log_p.append(p + Bernoulli(logits=m2.likelihood.network(torch.cat([z, y], 1))).log_prob(x).sum(-1))
        log_q.append(Bernoulli(logits=m2.encoder.network(torch.cat([x, y], 1))).log_prob(z).sum(-1))
    return torch.stack(log_p), torch.stack(log_q)


def explicit(m2, x, y):
    """L(x, y) where y is known, else sum_y q(y | x) (L(x, y) - log q(y | x)): equations 6 and 7, `(B,)`."""
    labelled = torch.stack([(q.exp() * (p - q)).sum(0) for p, q in (of_class(m2, x, c) for c in range(3))], 1)  # (B, C)
    log_q = m2.classifier(x).log_softmax(1)
    unlabelled = (log_q.exp() * (labelled - log_q)).sum(1)
    return torch.where(y < 0, unlabelled, labelled.gather(1, y.clamp(min=0)[:, None])[:, 0])


@pytest.mark.parametrize("training", [False, True])
def test_the_enumerated_bound_is_the_explicit_sum_and_so_is_its_gradient(training):
    m2 = bits().train(training)
    x = data(m2)
    exact = explicit(m2, x, Y)
    torch.testing.assert_close(ENUMERATED.bound(m2.model, m2.guide, x, Y), exact)
    torch.testing.assert_close(ENUMERATED.bound(m2.model, m2.guide, x), explicit(m2, x, torch.full_like(Y, -1)))
    target = exact.sum()
    if training:  # the classifier learns beside
        target = target + 0.5 * m2.classifier(x).log_softmax(1)[[1, 2, 4], [0, 2, 1]].sum()
    parameters = list(m2.parameters())
    loss = ENUMERATED.differentiable_loss(m2.model, m2.guide, x, Y)
    assert loss.item() == pytest.approx(-exact.sum().item())
    found = torch.autograd.grad(-loss, parameters)
    for g, expected in zip(found, torch.autograd.grad(target, parameters), strict=True):
        torch.testing.assert_close(g, expected)


def test_it_is_the_bound_of_pyros_enumeration():
    m2, elbo = bits().train(), TraceEnum_ELBO(max_plate_nesting=1)
    x = data(m2)
    m2.prior, m2.encoder = priors.StandardNormal(2).double(), encoders.DiagonalNormal(networks.MLP(6, 4).double())
    pyro.set_rng_seed(0)
    loss = elbo.differentiable_loss(m2.model, config_enumerate(m2.guide, "parallel"), x, Y)
    pyro.set_rng_seed(0)
    ours = ENUMERATED.differentiable_loss(m2.model, m2.guide, x, Y)
    assert loss.item() == pytest.approx(ours.item())
    parameters = list(m2.parameters())
    for theirs, g in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(ours, parameters), strict=True):
        torch.testing.assert_close(theirs, g)


@pytest.mark.parametrize("y", [Y, None])
def test_draws_of_the_class_weigh_the_evidence(y):
    m2 = bits()
    x = data(m2)
    joint = torch.stack([of_class(m2, x, c)[0].logsumexp(0) for c in range(3)], 1)  # log p(x, y), (B, C)
    exact = joint.logsumexp(1)
    if y is not None:
        exact = torch.where(y < 0, exact, joint.gather(1, y.clamp(min=0)[:, None])[:, 0])
    found = evaluation.log_likelihood(m2, x if y is None else (x, y), 20_000)
    z = (found.value - exact).detach() / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), len(x)) < 1 - LEVEL


def test_a_sampled_class_has_the_same_gradient_on_average():
    m2 = bits(alpha=0.0)
    x, y = m2.sample(40), torch.full((40,), -1)
    parameters = list(m2.classifier.parameters())
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(explicit(m2, x, y).sum(), parameters)])
    objective = objectives.ELBO(num_particles=100, gradient=gradients.ScoreFunction())
    pyro.set_rng_seed(0)
    found = []
    for _ in range(200):
        loss = objective.differentiable_loss(m2.model, m2.guide, x, y)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(-loss, parameters)]))
    found = torch.stack(found)
    kept = slice(0, 6)  # without the last class's, as the logits' gradients sum to 0
    off = (found.mean(0) - exact)[kept]
    covariance = found[:, kept].T.cov() / len(found)
    assert chi2.sf(float(off @ torch.linalg.solve(covariance, off)), 6) > LEVEL


@pytest.mark.parametrize(
    "objective", [ENUMERATED, objectives.ELBO(gradient=gradients.ScoreFunction(), num_particles=5)]
)
def test_few_classes_that_are_known_tell_the_others(objective):
    torch.manual_seed(0)
    centres = torch.bernoulli(torch.full((3, 30), 0.5))
    truth = torch.arange(300) % 3
    x = torch.where(torch.rand(300, 30) < 0.2, 1 - centres[truth], centres[truth])
    known = torch.where(torch.arange(300) < 30, truth, -1)  # ten of each class
    small = {"hidden": (16,)}
    m2 = M2(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1 + 3, 30, **small)),
        encoders.DiagonalNormal(networks.MLP(30 + 3, 2, **small)),
        networks.MLP(30, 3, **small),
        alpha=20.0,
    )
    assert m2.own_numbers(x) == {}
    before = m2.own_numbers(x, labels=truth)["accuracy"]
    fit(
        m2,
        (x, known),
        objective=objective,
        epochs=80,
        batch_size=32,
        optimizer=lambda g: torch.optim.Adam(g, 5e-3),
        progress=False,
    )
    assert before < 0.6
    assert m2.own_numbers(x, labels=truth)["accuracy"] > 0.95
    torch.testing.assert_close(m2.sample(3, "mean", torch.arange(3)).round(), centres)
    assert m2.reconstruct(x[:4], known[:4]).shape == (4, 30)


def test_classes_that_there_are_not_are_refused():
    m2 = bits()
    x = data(m2)
    for y in (torch.full((5,), 3), torch.full((5,), -2), torch.zeros(5)):
        with pytest.raises(ValueError, match="classes of train are whole numbers from 0 to 2, -1 where"):
            fit(m2, (x, y), epochs=1)
    with pytest.raises(ValueError, match="alpha must be a finite number at least 0"):
        bits(alpha=-1.0)
    make = lambda *sizes: networks.MLP(*sizes, hidden=())  # noqa: E731
    with pytest.raises(ValueError, match=r"the network of q\(z \| x, y\) takes \(3,\), but .* has the shape \(6,\)"):
        M2(priors.Bernoulli(2), likelihoods.Bernoulli(make(5, 3)), encoders.Bernoulli(make(3, 2)), make(3, 3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_classes_may_be_whole_numbers_of_any_kind(dtype):
    m2 = bits().train()
    x = data(m2)
    losses = [ENUMERATED.loss(m2.model, m2.guide, x, y) for y in (Y, Y.to(dtype))]
    assert losses[0] == losses[1]
    m2.check(x, Y.clamp(min=0).to(torch.uint8))  # which has no -1: all are known
    assert m2.sample(5, y=Y.clamp(min=0).to(dtype)).shape == (5, 3)


@pytest.mark.parametrize(("y", "message"), [([0, 3], "from 0 to 2"), ([0, -1], "from 0 to 2"), ([0], "as many")])
def test_no_draws_of_classes_that_there_are_not(y, message):
    with pytest.raises(ValueError, match=message):
        bits().sample(2, y=torch.tensor(y))
