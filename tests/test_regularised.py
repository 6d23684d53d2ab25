"""Objectives with a penalty on q(z), against mixtures that are written down, quadrature and known log-ratios."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from objective_checks import assert_same, gradients_of
from programs import make_data, make_vae
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import chi2, ncx2, norm
from torch import nn
from two_sites import TwoSites

from pyrovae import SVI, VAE, data, encoders, fit, likelihoods, networks, priors
from pyrovae import gradients as G
from pyrovae import objectives as E
from pyrovae.diagnostics import information
from pyrovae.discrepancy import mmd

LEVEL = 1e-4
ALL = [
    E.BetaTCVAE(0.5, 3.0, 2.0, num_particles=2),
    E.BetaTCVAE(beta=3.0, stratified=True, num_data=100),
    E.FactorVAE(gamma=3.0, num_particles=2),
    E.InfoVAE(0.3, 7.0, num_particles=2),
    E.WAE(5.0, num_particles=2),
]
OBJECTIVES = pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)


def draws(objective, exact):
    """Log-densities of a VAE of which everything is known, and z `(K, B, D)`."""
    with torch.no_grad():
        densities = objective.densities(exact.vae.model, exact.vae.guide, exact.data)
    z = densities.q["z"]["value"].numpy()
    return densities, z.reshape(-1, *z.shape[-2:])


def posteriors(exact):
    """Means `(B, D)` and scales `(D,)` of q(z | x)."""
    return exact.x @ exact.V.T + exact.c, exact.t


# What is maximised, what is told -------------------------------------------------------------------------------------


@OBJECTIVES
def test_the_bound_is_the_elbo_and_the_objective_is_less_its_penalties(objective):
    exact = LinearGaussian()
    programs = exact.vae.model, exact.vae.guide, exact.data
    elbo, found = E.ELBO(objective.num_particles), []
    for tell in (elbo.bound, objective.bound, objective.penalties, objective.loss):
        pyro.set_rng_seed(3)
        found.append(tell(*programs))
    assert torch.equal(*found[:2])
    penalties, loss = found[2:]
    pyro.set_rng_seed(3)
    densities, _ = draws(objective, exact)
    kl = densities.kl.mean().item()
    w = objective.weights
    if isinstance(objective, E.BetaTCVAE):
        mi, tc, dimension_kl = penalties.values()
        penalty = w["alpha"] * mi + w["beta"] * tc + w["gamma"] * dimension_kl
    elif isinstance(objective, E.FactorVAE):
        assert penalties["kl"] == pytest.approx(kl)
        penalty = kl + w["gamma"] * penalties["total_correlation"]
    elif isinstance(objective, E.InfoVAE):
        penalty = (1 - w["alpha"]) * kl + (w["alpha"] + w["lambd"] - 1) * penalties["mmd"]
    else:
        penalty = w["lambd"] * penalties["mmd"]
    assert -loss / 6 == pytest.approx(densities.reconstruction.mean().item() - float(penalty), rel=1e-9)


@OBJECTIVES
def test_the_gradient_is_that_of_finite_differences(objective):
    """Of the value at fixed noise, along random directions, by a learned prior, the decoder and the encoder."""
    pyro.set_rng_seed(0)
    vae = make_vae(prior=priors.Normal).double()
    x, parameters = make_data(8).double(), list(vae.parameters())
    with torch.no_grad():
        vae.prior.loc.normal_()
    objective = type(objective)(**{**objective.weights, "num_particles": 2})  # a discriminator of these z
    objective.loss(vae.model, vae.guide, x)
    _, gradient = gradients_of(objective, vae.model, vae.guide, x, vae)
    start = [p.detach().clone() for p in parameters]

    def at(step, direction):
        with torch.no_grad():
            for p, s, d in zip(parameters, start, direction, strict=True):
                p.copy_(s + step * d)
        pyro.set_rng_seed(7)
        return objective.loss(vae.model, vae.guide, x)

    for _ in range(3):
        direction = [torch.randn_like(p) for p in parameters]
        slope = (at(1e-5, direction) - at(-1e-5, direction)) / 2e-5
        exact = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)).item()
        assert slope == pytest.approx(exact, rel=1e-6, abs=1e-6)


# Total correlation in parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
def test_with_all_data_in_the_batch_q_is_the_mixture(stratified):
    exact, objective = LinearGaussian(), E.BetaTCVAE(stratified=stratified, num_particles=3)
    densities, z = draws(objective, exact)
    loc, scale = posteriors(exact)
    table = norm(loc, scale).logpdf(z[:, :, None])  # log q(z_d | x), (K, B of z, B of x, D)
    own = np.einsum("kbbd->kb", table)
    log_q = logsumexp(table.sum(-1), axis=-1) - np.log(6)
    log_product = (logsumexp(table, axis=-2) - np.log(6)).sum(-1)
    log_p = norm.logpdf(z).sum(-1)
    expected = [own - log_q, log_q - log_product, log_product - log_p]
    for (_, found), by_hand in zip(objective.terms_of(densities).values(), expected, strict=True):
        np.testing.assert_allclose(found, by_hand, atol=1e-12)


def test_the_terms_are_the_integrals_that_they_are_named_after():
    """By quadrature over a grid of z; of 4000 draws for each datum, at level 1e-4."""
    exact, k = LinearGaussian(), 4000
    pyro.set_rng_seed(0)
    densities, _ = draws(objective := E.BetaTCVAE(num_particles=k), exact)
    loc, scale = posteriors(exact)
    axis = np.linspace(-9, 9, 1201)
    cell = axis[1] - axis[0]
    q = norm(loc[:, None], scale).pdf(axis[:, None])  # q(z_d | x), (B, grid, D)
    both = np.einsum("bi,bj->bij", q[..., 0], q[..., 1])
    mixture, product, p = both.mean(0), np.outer(*q.mean(0).T), np.outer(norm.pdf(axis), norm.pdf(axis))
    integral = lambda f, a, b: (f * np.log((a + 1e-300) / (b + 1e-300))).sum() * cell**2  # noqa: E731
    expected = {
        "mutual_information": np.mean([integral(b, b, mixture) for b in both]),
        "total_correlation": integral(mixture, mixture, product),
        "dimension_kl": integral(mixture, product, p),
    }
    assert sum(expected.values()) == pytest.approx(exact.kl().sum(1).mean())
    for name, (_, term) in objective.terms_of(densities).items():
        by_draw = term.mean(1)
        z = (by_draw.mean().item() - expected[name]) / (by_draw.std().item() / k**0.5)
        assert chi2.sf(z**2, 1) > LEVEL, name


def test_stratified_sampling_has_no_bias_over_batches():
    """The mean over all batches of 4 of 7 data that hold the first is q(z) of all, at a z of the first."""
    exact, seven = LinearGaussian(), torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5)))
    objective, z, found = E.BetaTCVAE(stratified=True, num_data=7), torch.tensor([0.3, -0.2]).double(), []
    for others in itertools.combinations(range(1, 7), 3):
        with torch.no_grad():
            densities = objective.densities(exact.vae.model, exact.vae.guide, seven[[0, *others]])
        at = replace(densities, q={"z": {**densities.q["z"], "value": z.expand(4, 2)}})
        found.append([t[0, 0].exp().item() for t in objective._aggregate(at)])
    loc = seven.numpy() @ exact.V.T + exact.c
    q = norm(loc, exact.t).pdf(z.numpy())  # (7, D)
    assert np.mean(found, 0)[0] == pytest.approx(q.prod(1).mean(), rel=1e-12)
    assert np.std(found, 0)[0] > 1e-3  # as batches differ


@pytest.mark.parametrize("stratified", [True, False])
def test_with_weights_of_one_it_is_the_elbo(stratified):
    vae, x = make_vae().double(), make_data().double()
    objective = E.BetaTCVAE(1.0, 1.0, 1.0, stratified, num_data=500, num_particles=3)
    assert_same(*(gradients_of(o, vae.model, vae.guide, x, vae) for o in (objective, E.ELBO(3))))


def test_a_subsampling_plate_tells_the_number_of_data():
    vae, x = make_vae().double(), make_data(8).double()

    def in_plate(program, size):
        def run(x):
            with pyro.plate("data", size, subsample=torch.arange(len(x)), dim=-1):
                program(x)

        return run

    def model(x):
        pyro.sample("x", vae.likelihood(pyro.sample("z", vae.prior())), obs=x)

    def guide(x):
        pyro.sample("z", vae.encoder(x))

    objective = E.BetaTCVAE(stratified=True)
    loss = gradients_of(objective, in_plate(model, 100), in_plate(guide, 100), x, vae)[0]
    told = gradients_of(E.BetaTCVAE(stratified=True, num_data=100), vae.model, vae.guide, x, vae)[0]
    untold = gradients_of(objective, vae.model, vae.guide, x, vae)[0]
    assert loss == pytest.approx(100 / 8 * told)
    assert told != pytest.approx(untold, rel=1e-5)


def test_fit_tells_the_number_of_data():
    objective = E.BetaTCVAE(beta=2.0, stratified=True)
    history = fit(make_vae(), make_data(24), objective=objective, epochs=1, batch_size=10, progress=False)
    assert objective.num_data == 24
    assert history[0].keys() >= {"alpha", "beta", "gamma"}
    assert history["beta"] == [2.0]
    vae = make_vae()
    with pytest.raises(ValueError, match="num_data is 24, but a batch has 48 data"):
        objective.loss(vae.model, vae.guide, make_data(48))


# A discriminator ------------------------------------------------------------------------------------------------------

RHO, NOISE = 0.8, 0.4


class Correlated(nn.Module):
    """q(z | x) = N(x, 0.16 I), so that q(z) = N(0, [[1, rho], [rho, 1]]) where x ~ N(0, that less 0.16 I)."""

    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]])

    def data(self, n):
        return torch.randn(n, 2) @ torch.linalg.cholesky(self.covariance - NOISE**2 * torch.eye(2)).T

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, NOISE).to_event(1))


def test_the_discriminator_learns_the_log_ratio():
    """log q(z) - sum_d log q(z_d) at draws of q(z), within 0.1 on average, and its mean within 0.02 nats."""
    torch.manual_seed(0)
    toy, f = Correlated(), networks.MLP(2, 1, hidden=(32, 32), activation=nn.Tanh)
    objective = E.FactorVAE(discriminator=f)
    optim = torch.optim.Adam(objective.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 400)
    for _ in range(400):
        optim.zero_grad()
        objective.differentiable_loss(toy.model, toy.guide, toy.data(500)).backward()
        optim.step()
        schedule.step()
    z = torch.randn(20_000, 2) @ torch.linalg.cholesky(toy.covariance).T
    joint = dist.MultivariateNormal(torch.zeros(2), toy.covariance).log_prob(z)
    ratio = joint - dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    with torch.no_grad():
        assert (f(z).squeeze(-1) - ratio).abs().mean() < 0.1
    found = objective.penalties(toy.model, toy.guide, toy.data(100_000))["total_correlation"].item()
    assert found == pytest.approx(-0.5 * math.log(1 - RHO**2), abs=0.02)  # 0.511 nats


def test_the_discriminator_and_the_vae_do_not_move_each_other():
    vae, x = make_vae().double(), make_data().double()
    f, grads = networks.MLP(3, 1, hidden=(8,)).double(), {}
    for gamma in (0.0, 10.0):
        objective = E.FactorVAE(gamma, f)
        f.zero_grad()
        grads[gamma] = gradients_of(objective, vae.model, vae.guide, x, vae), [p.grad.clone() for p in f.parameters()]
    elbo = gradients_of(E.ELBO(), vae.model, vae.guide, x, vae)
    assert_same(grads[0.0][0], elbo)  # the discriminator's loss does not reach the VAE
    assert all(torch.equal(a, b) for a, b in zip(grads[0.0][1], grads[10.0][1], strict=True))
    assert any(g.abs().max() > 1e-3 for g in grads[0.0][1])
    encoder = vae.encoder.network.layers[-1].weight
    by_gamma = [g for p, g in zip(vae.parameters(), grads[10.0][0][1], strict=True) if p is encoder]
    by_elbo = [g for p, g in zip(vae.parameters(), elbo[1], strict=True) if p is encoder]
    assert (by_gamma[0] - by_elbo[0]).abs().max() > 1e-3


def test_a_discriminator_is_made_where_none_is_given():
    vae, x = make_vae(), make_data()
    objective = E.FactorVAE()
    assert not [*objective.parameters()]
    history = fit(vae, x, objective=objective, epochs=1, progress=False)
    assert objective.discriminator.in_shape == (3,)
    assert history["gamma"] == [10.0]
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        again = E.FactorVAE()
        again.loss(vae.model, vae.guide, x)
        starts.append(next(again.parameters()))
    assert torch.equal(*starts[:2])
    assert not torch.equal(*starts[1:])
    with pytest.raises(ValueError, match="the optimiser does not hold it"):
        SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), E.FactorVAE()).step(x)


# Maximum mean discrepancy ---------------------------------------------------------------------------------------------


def mean_kernel(d, shift, variance, c):
    """E[C / (C + |u|^2)], u ~ N(shift, variance I) in D dimensions, as |u|^2 / variance is noncentral chi-squared."""
    density = partial(ncx2.pdf, df=d, nc=d * shift**2 / variance + 1e-12)
    return quad(lambda r: c / (c + variance * r) * density(r), 0, np.inf, limit=200)[0]


def exact_mmd(d, mean, std, scale=1.0):
    """MMD^2 between N(0, I) and N(mean, std^2 I)."""
    c = 2 * d * scale**2
    within = mean_kernel(d, 0.0, 2.0, c) + mean_kernel(d, 0.0, 2 * std**2, c)
    return within - 2 * mean_kernel(d, mean, 1 + std**2, c)


@pytest.mark.parametrize(("d", "mean", "std", "scale"), [(3, 0.0, 1.0, 1.0), (3, 0.7, 1.5, 1.0), (1, -0.5, 0.4, 0.3)])
def test_the_mmd_has_no_bias(d, mean, std, scale):
    """Of 20,000 pairs of samples of 6, at level 1e-4; the first are of one distribution."""
    torch.manual_seed(0)
    x, y = torch.randn(20_000, 6, d).double(), mean + std * torch.randn(20_000, 6, d).double()
    found = mmd(x, y, scale)
    expected = exact_mmd(d, mean, std, scale)
    z = (found.mean().item() - expected) / (found.std().item() / len(found) ** 0.5)
    assert chi2.sf(z**2, 1) > LEVEL
    assert (found < 0).any()
    if (mean, std) == (0.0, 1.0):
        assert expected == pytest.approx(0.0, abs=1e-9)
        dependent = mmd(x, -x)  # of one distribution too, but pair by pair not independent
        assert chi2.sf((dependent.mean() / dependent.std()).item() ** 2 * len(dependent), 1) > LEVEL


def test_the_mmd_is_the_double_sum():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    k = lambda a, b: 6 / (6 + ((a - b) ** 2).sum())  # noqa: E731
    pairs = [(n, m) for n in range(5) for m in range(5) if n != m]
    by_hand = np.mean([k(x[n], x[m]) + k(y[n], y[m]) - 2 * k(x[n], y[m]) for n, m in pairs])
    assert mmd(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(by_hand, rel=1e-12)
    assert mmd(torch.from_numpy(x[:1]), torch.from_numpy(y[:1])) == 0


@pytest.mark.parametrize("path", [True, False])
def test_the_mmd_has_the_gradient_of_its_mean(path):
    """By the mean of y, along a path or by the score, against the derivative of the quadrature, at level 1e-4."""
    torch.manual_seed(0)
    mean = torch.full((20_000, 1, 1), 0.7, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(20_000, 6, 2).double(), mean + torch.randn(20_000, 6, 2).double()
    score = None
    if not path:
        y = y.detach()
        score = dist.Normal(mean, 1.0).log_prob(y).sum(-1)
    (found,) = torch.autograd.grad(mmd(x, y, score=score).sum(), mean)
    expected = (exact_mmd(2, 0.71, 1.0) - exact_mmd(2, 0.69, 1.0)) / 0.02
    z = (found.mean().item() - expected) / (found.std().item() / len(found) ** 0.5)
    assert chi2.sf(z**2, 1) > LEVEL
    assert expected > 0.1


def test_draws_of_the_prior_are_those_of_the_prior():
    """The MMD of a VAE with q(z) = p(z), of a prior with a path and of one without, is 0 on average, at level 1e-4."""
    for prior in (priors.StandardNormal(2), priors.MixtureOfNormals(2, 3)):
        torch.manual_seed(0)

        def model(x, prior=prior):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior())
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

        x = prior().sample((10,))
        own = E.WAE(num_particles=5000)
        densities = own.densities(model, guide, x)
        at = replace(densities, q={"z": {**densities.q["z"], "value": prior().sample((5000, 10))}})
        ((_, found),) = own.terms_of(at).values()
        assert found.shape == (5000, 1)
        assert chi2.sf((found.mean() / found.std()).item() ** 2 * 5000, 1) > LEVEL


def test_layers_are_compared_one_after_the_other():
    """z2 with its prior, z1 with what the model gives from the guide's z2: at the model's own draws both are 0."""
    two, x, objective = TwoSites(), torch.linspace(-2, 2, 20).double(), E.WAE(num_particles=1000)

    def own(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(two.m, 1.0))
            pyro.sample("z1", dist.Normal(two.a * z2, 0.8))

    found = []
    for guide in (two.guide, own):
        pyro.set_rng_seed(0)
        ((_, term),) = objective.terms_of(objective.densities(two.model, guide, x)).values()
        found.append((term.mean() / term.std()).item() * 1000**0.5)
    assert found[0] > 20
    assert chi2.sf(found[1] ** 2, 1) > LEVEL


@pytest.mark.parametrize("objective", [E.WAE(5.0), E.WAE(5.0, num_particles=3)])
def test_an_encoder_of_points_is_trained_and_has_no_elbo(objective):
    torch.manual_seed(0)
    vae = VAE(
        priors.MixtureOfNormals(2, 3),
        likelihoods.Bernoulli(networks.MLP(2, (1, 4, 4), hidden=(16,))),
        encoders.Delta(networks.MLP((1, 4, 4), 2, hidden=(16,))),
    )
    before = vae.prior.loc.detach().clone()
    history = fit(vae, make_data(), objective=objective, epochs=60, batch_size=24, progress=False)
    assert history["reconstruction"][-1] > history["reconstruction"][0] + 1
    assert objective.bound(vae.model, vae.guide, make_data()).isnan().all()
    assert math.isnan(history["elbo"][-1])
    assert (vae.prior.loc - before).abs().max() > 0.01  # by the score, as its draws have no path


# Refusals, and all of it on digits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: E.BetaTCVAE(beta=-1.0), "beta must be a finite number at least 0, not -1.0"),
        (lambda: E.BetaTCVAE(num_data=0), "num_data must be a whole number of at least 1"),
        (lambda: E.FactorVAE(math.nan), "gamma must be a finite number at least 0, not nan"),
        (lambda: E.WAE(-1.0), "lambd must be a finite number at least 0"),
        (lambda: E.InfoVAE(1.5), "alpha must be a finite number at least 0 and at most 1"),
        (lambda: E.InfoVAE(0.5, 0.2), "lambd must be at least 1 - alpha"),
        (lambda: E.WAE(gradient=G.STL()), "WAE cannot be had with STL, as its penalty is of the draws of all data"),
        (lambda: E.BetaTCVAE(gradient=G.VIMCO()), "use gradients.Pathwise$"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "encoder", "message"),
    [
        (E.BetaTCVAE, encoders.FullRankNormal, "does not factorise over its elements.*use objectives.FactorVAE"),
        (E.BetaTCVAE, encoders.Delta, "has no density"),
        (E.InfoVAE, encoders.Delta, "has no density"),
        (E.FactorVAE, encoders.Delta, "has no density"),
        (partial(E.FactorVAE, discriminator=networks.MLP(3, 1)), encoders.DiagonalNormal, r"takes \(3,\).*MLP\(2, 1\)"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(objective, encoder, message):
    q = encoder(lambda n: networks.MLP(5, n(2), hidden=(4,)))
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(networks.MLP(2, 5, hidden=(4,))), q)
    with pytest.raises(ValueError, match=message):
        fit(vae, torch.zeros(10, 5), objective=objective(), epochs=1, progress=False)


def test_several_sites_masks_and_scales_of_their_own_are_refused():
    two, x, vae = TwoSites(), torch.randn(5).double(), make_vae()
    for objective in (E.BetaTCVAE(), E.FactorVAE()):
        with pytest.raises(ValueError, match=r"one latent site .*, but the guide has 'z1', 'z2': use objectives\.Info"):
            objective.loss(two.model, two.guide, x)
    keep = torch.tensor([True, False, True, True, True])
    handlers = {
        "masked, but q": lambda program: pyro.poutine.mask(program, mask=keep),
        "cannot have scales of their own": lambda program: pyro.poutine.scale(program, scale=torch.linspace(1, 2, 5)),
    }
    for message, handler in handlers.items():
        with pytest.raises(ValueError, match=message):
            E.WAE().loss(handler(vae.model), handler(vae.guide), make_data(5))


def aggregate(vae, x):
    """The exact total correlation of q(z) over the data, and the MMD of one draw for each of them from as many."""
    torch.manual_seed(0)
    with torch.no_grad():
        z = vae.encode(x).sample((10,))
    found = mmd(z, torch.randn_like(z)).mean().item()
    return {"total_correlation": information(vae, x, 1).total_correlation.value, "mmd": found}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", binarize="threshold")


def trained(objective, digits):
    """What the aggregate posterior of the training data is like after some epochs in which z has come to tell of x."""
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(4),
        likelihoods.Bernoulli(networks.MLP(4, (1, 8, 8), hidden=(64,))),
        encoders.DiagonalNormal(networks.MLP((1, 8, 8), 8, hidden=(64,))),
    )
    options = {"epochs": 20, "batch_size": 256, "optimizer": lambda g: torch.optim.Adam(g, 1e-2), "progress": False}
    history = fit(vae, digits.train, objective=objective, **options)
    assert history["reconstruction"][-1] > history["reconstruction"][0] + 7
    assert objective.bound(vae.model, vae.guide, digits.test).isfinite().all()
    return aggregate(vae, digits.train[:400])


def test_total_correlation_falls_below_that_of_the_elbo_on_digits(digits):
    plain, *others = (trained(o, digits) for o in (E.ELBO(), E.BetaTCVAE(beta=10.0), E.FactorVAE(20.0)))
    for found in others:
        assert found["total_correlation"] < 0.6 * plain["total_correlation"]


@pytest.mark.parametrize("pair", [(E.WAE(0.0), E.WAE(50.0)), (E.InfoVAE(0.9, 0.1), E.InfoVAE(0.9, 50.0))])
def test_the_mmd_falls_below_that_without_its_penalty_on_digits(pair, digits):
    without, found = (trained(o, digits) for o in pair)
    assert found["mmd"] < 0.2 * without["mmd"]


def test_a_discriminator_of_several_numbers_is_refused():
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Normal(networks.MLP(2, 5)),
        encoders.DiagonalNormal(networks.MLP(5, 4)),
    )
    objective = E.FactorVAE(discriminator=torch.nn.Linear(2, 2))  # which does not say of what shape
    with pytest.raises(ValueError, match=r"the discriminator gives \(1, 9, 2\) .* but should one number for each"):
        objective.loss(vae.model, vae.guide, torch.zeros(9, 5))
