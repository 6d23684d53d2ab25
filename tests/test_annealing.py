"""Annealed importance sampling and bidirectional Monte Carlo against closed forms, quadrature and plain sampling."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import beta, chi2, ks_2samp, norm
from torch import nn

from pyrovae import VAE, data, encoders, evaluation, exact, fit, known, likelihoods, networks, objectives, priors
from pyrovae.diagnostics import chains, predictive
from pyrovae.diagnostics.annealing import agreement, ais, bdmc, linear_schedule, sigmoidal_schedule
from pyrovae.diagnostics.unconstrained import unconstrained
from pyrovae.distributions import relaxed

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
CHEAP = {"num_chains": 500, "num_temperatures": 8, "num_leapfrog": 3}  # whatever is exact is so with few temperatures


def z_test(value, std_error, expected):
    """Estimates of N data against exact values: the sum of squared z-scores under chi-square with N degrees."""
    z = (value - expected) / std_error
    assert chi2.sf(float((z**2).sum()), len(z)) > LEVEL
    assert chi2.cdf(float((z**2).sum()), len(z)) > LEVEL  # nor is the error overstated


def linear(latent_dim=2, scale=0.5):
    """With q(z | x) near p(z | x), but not equal."""
    model = exact.LinearGaussian(latent_dim, 4, scale)
    model.solve_encoder()
    return model


MIDDLES = (np.arange(20_000) + 0.5) / 20_000  # of cells of equal probability


@torch.no_grad()
def log_mean(vae, x, z):
    """Log of the mean of p(x | z) over points z `(n,)`, `(N,)`."""
    log_p = vae.likelihood(torch.from_numpy(z)[:, None, None]).log_prob(x)  # (n, N)
    return log_p.logsumexp(0) - math.log(len(z))


def decoder(latent_dim, shape, hidden=(16,)):
    """A network that is far from linear."""
    return networks.MLP(latent_dim, shape, hidden=hidden, activation=nn.Tanh, initializer=nn.init.normal_)


# Forwards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["prior", "posterior"])
@pytest.mark.parametrize("schedule", [linear_schedule, sigmoidal_schedule])
def test_weights_have_mean_p_x_with_few_temperatures(schedule, start):
    model = linear()
    x = model.sample(12)
    found = ais(model.vae, x, schedule=schedule, start=start, **CHEAP)
    z_test(found.value, found.std_error, model.log_likelihood(x).detach())
    assert (found.std_error < 0.5).all()


def test_a_single_chains_weight_has_mean_p_x():
    model = linear(1)
    x = model.sample(1).expand(4000, -1)  # as many runs of a chain, each with step sizes of its own
    found = ais(model.vae, x, num_chains=1, num_temperatures=4, num_leapfrog=2)
    w = (found.value - model.log_likelihood(x).detach()).exp()
    assert abs(w.mean() - 1) / (w.std() / len(w) ** 0.5) < norm.isf(LEVEL / 2)
    assert found.std_error.isnan().all()


def test_step_sizes_do_not_follow_the_chains_that_take_them(monkeypatch):
    model, steps = linear(), []
    original = chains.Chains._move
    monkeypatch.setattr(
        chains.Chains, "_move", lambda self, s, b, step: (steps.append(step), original(self, s, b, step))[1]
    )

    def taken(run, *args, start):
        """The step sizes of a run's own chains, `(temperatures, N)`."""
        steps.clear()
        run(model.vae, *args, num_temperatures=6, num_leapfrog=2, start=start)
        return torch.stack(steps[chains._WARM_UP + 7 :])

    x = model.sample(5)
    for start in ("prior", "posterior"):
        few, many = (taken(ais, x, k, start=start) for k in (2, 30))
        assert few.shape == (6, 5)
        assert torch.equal(few, many)
        assert few.std() > 0.01
        both = taken(bdmc, 5, 3, start=start)  # forwards b_0 ... b_5, backwards b_6 ... b_1
        assert torch.equal(both[:6].flip(0)[:5], both[7:])


def test_one_temperature_is_importance_sampling():
    model = linear()
    x = model.sample(10)
    first = ais(model.vae, x, num_chains=2000, num_temperatures=1, start="posterior", num_leapfrog=1)
    second = evaluation.log_likelihood(model.vae, x, num_samples=2000)
    difference, std_error = agreement(first, second)
    z_test(difference, std_error, 0)
    assert torch.allclose(first.ess, second.ess, rtol=0.1)


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_acceptance_is_near_the_target_for_each_datum(target):
    model = exact.GaussianToy(4)
    found = ais(model.vae, model.sample(20), num_temperatures=60, num_leapfrog=3, target_acceptance=target)
    assert ((found.acceptance - target).abs() < 0.06).all()


def test_an_unnormalised_likelihood_is_caught_by_the_exact_answer_but_moves_both_bounds():
    class Unnormalised(likelihoods.Normal):
        def element(self, *parameters):
            class Bare(dist.Normal):
                def log_prob(self, value):
                    return -(((value - self.loc) / self.scale) ** 2) / 2

            p = super().element(*parameters)
            return Bare(p.loc, p.scale)

    model = linear()
    wrong = VAE(model.vae.prior, Unnormalised(model.vae.likelihood.network, 0.5).double(), model.vae.encoder)
    bounds = bdmc(wrong, num_data=20, num_chains=8, num_temperatures=30, num_leapfrog=3, start="posterior")
    missing = 4 * (math.log(2 * math.pi) / 2 + math.log(0.5))
    lower, upper = ((b - model.log_likelihood(bounds.x).detach()).mean() for b in (bounds.lower, bounds.upper))
    assert abs(lower - missing) < 0.1
    assert abs(upper - missing) < 0.1
    z = (bounds.lower - model.log_likelihood(bounds.x).detach()) / bounds.lower_std_error
    assert chi2.sf(float((z**2).sum()), 20) < 1e-9


def test_a_2d_vae_agrees_with_the_grid_and_with_importance_sampling():
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(decoder(2, (1, 4, 4))),
        encoders.DiagonalNormal(networks.MLP((1, 4, 4), 4)),
    ).double()
    x = vae.sample(6)
    annealed = ais(vae, x, num_chains=100, num_temperatures=60, num_leapfrog=3)
    sampled = evaluation.log_likelihood(vae, x, num_samples=5000)
    z_test(annealed.value, annealed.std_error, known.log_likelihood(vae, x))
    z_test(*agreement(annealed, sampled), 0)


def test_of_a_vae_of_digits_three_ways_to_the_evidence_agree_datum_by_datum():
    digits = data.load("digits", binarize="dynamic")
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8), hidden=(32,))),
        encoders.DiagonalNormal(networks.MLP((1, 8, 8), 4, hidden=(32,))),
    )
    fit(vae, digits.train, epochs=15, objective=objectives.IWAE(8), optimizer=fast, progress=False)
    x = digits.test[:12]
    grid = known.log_likelihood(vae, x)
    sampled = evaluation.log_likelihood(vae, x, num_samples=5000)
    annealed = ais(vae, x, num_chains=48, num_temperatures=100, num_leapfrog=3)
    assert grid.mean() > -30  # an untrained one has -43
    for value, std_error in ((sampled.value - grid, sampled.std_error), (annealed.value - grid, annealed.std_error)):
        z_test(value, std_error, 0)
        assert std_error.max() < 0.2
    z_test(*agreement(annealed, sampled), 0)


def fast(groups):
    return torch.optim.Adam(groups, lr=3e-3)


# Both ways ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_chains", [1, 5])
def test_backwards_weights_have_mean_one_over_p_x_though_chains_share_their_start(num_chains):
    model = linear(1)
    bounds = bdmc(model.vae, num_data=3000, num_chains=num_chains, num_temperatures=4, num_leapfrog=2)
    w = (model.log_likelihood(bounds.x).detach() - bounds.upper).exp()
    assert abs(w.mean() - 1) / (w.std() / len(w) ** 0.5) < norm.isf(LEVEL / 2)
    assert bounds.gap > 10 * bounds.gap_std_error  # few temperatures: far apart


@pytest.mark.parametrize(
    ("model", "start"),
    [(linear(scale=1.0), "posterior"), (exact.GaussianToy(2), "prior")],
    ids=["linear, posterior", "toy, prior"],
)
def test_bounds_enclose_the_exact_answer_and_meet(model, start):
    bounds = bdmc(model.vae, num_data=200, num_chains=8, num_temperatures=100, start=start, num_leapfrog=3)
    below, above = (bound - model.log_likelihood(bounds.x).detach() for bound in (bounds.lower, bounds.upper))
    for error, sign in ((below, -1), (above, 1)):
        std_error = error.std() / len(error) ** 0.5
        assert sign * error.mean() > -norm.isf(LEVEL) * std_error
        assert error.mean().abs() < 0.02
        assert std_error < 0.01
    assert torch.isclose(bounds.gap, (above - below).mean())
    assert torch.isclose(bounds.gap_std_error, (above - below).std() / 200**0.5)
    assert (bounds.acceptance - 0.65).abs().max() < 0.1


# Constrained z --------------------------------------------------------------------------------------------------------


class BetaPrior(priors.Prior):
    def forward(self):
        return dist.Beta(torch.full((self.latent_dim,), 0.7).double(), 2.0).to_event(1)


class BetaEncoder(encoders.RelaxedBernoulli):
    def distribution(self, output):
        return dist.Beta(1.0 + output.exp(), 2.0).to_event(1)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_beta_latents_agree_with_quadrature(start):
    vae = VAE(BetaPrior(1), likelihoods.Bernoulli(decoder(1, 5)), BetaEncoder(networks.MLP(5, 1))).double()
    x = vae.sample(6)

    expected = log_mean(vae, x, beta.ppf(MIDDLES, 0.7, 2))
    found = ais(vae, x, start=start, **CHEAP)
    z_test(found.value, found.std_error, expected)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_relaxed_bits_agree_with_quadrature_though_many_are_squeezed_to_0_or_1(start):
    p = priors.RelaxedBernoulli(1, temperature=0.1)
    vae = VAE(p, likelihoods.Bernoulli(decoder(1, 5)), encoders.RelaxedBernoulli(networks.MLP(5, 1), 0.1)).double()
    nn.init.constant_(p.logits, 2.0)
    x = vae.sample(6)
    squeezed = (vae.prior().sample((1000,)) > 1 - 1e-14).double().mean()
    assert squeezed > 0.1  # so that a density of z alone would not do
    v = torch.linspace(-30, 30, 20_001, dtype=torch.float64)  # v = T logit z
    log_p_v = v - 2 + 2 * torch.nn.functional.logsigmoid(2 - v)
    with torch.no_grad():
        log_p_x = vae.likelihood((v / 0.1).sigmoid()[:, None, None]).log_prob(x)  # (20001, 6)
    expected = torch.trapezoid((log_p_v[:, None] + log_p_x).exp(), v, dim=0).log()
    found = ais(vae, x, start=start, **CHEAP)
    z_test(found.value, found.std_error, expected)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_relaxed_one_hot_vectors_agree_with_plain_sampling(start):
    vae = VAE(
        priors.RelaxedOneHotCategorical(3),
        likelihoods.Bernoulli(decoder(3, 5)),
        encoders.RelaxedOneHotCategorical(networks.MLP(5, 3)),
    ).double()
    nn.init.normal_(vae.prior.logits)
    x = vae.sample(6)
    with torch.no_grad():
        p = vae.likelihood(vae.prior().sample((200_000, 1))).log_prob(x).exp()  # (200000, 6)
    expected, std_error = p.mean(0).log(), p.std(0) / p.mean(0) / len(p) ** 0.5
    found = ais(vae, x, start=start, **CHEAP)
    z_test(found.value, torch.hypot(found.std_error, std_error), expected)


half = torch.tensor([0.3], dtype=torch.float64)


@pytest.mark.parametrize(
    "p",
    [
        dist.Normal(half, 1.0).to_event(1),
        dist.Beta(half, 2.0).to_event(1),
        dist.Gamma(half, 2.0).to_event(1),
        relaxed.RelaxedBernoulli(0.5, half).to_event(1),
        relaxed.RelaxedOneHotCategorical(0.5, torch.tensor([0.3, -1.0], dtype=torch.float64)),
        dist.Dirichlet(torch.tensor([0.4, 2.0], dtype=torch.float64)),
    ],
    ids=lambda p: type(getattr(p, "base_dist", p)).__name__,
)
def test_in_unconstrained_coordinates_a_density_is_one_and_its_draws_follow_it(p):
    density, to_z = unconstrained(p)
    u = torch.linspace(-150, 50, 200_001, dtype=torch.float64)
    mass = density.log_prob(u[:, None]).exp()
    assert torch.isclose(torch.trapezoid(mass, u), torch.ones_like(mass[0]), atol=1e-4)
    cdf = torch.cumulative_trapezoid(mass, u).numpy()
    draws = density.sample((2000,))[:, 0].numpy()
    ranks = np.interp(draws, u[1:].numpy(), cdf)
    assert ks_2samp(ranks, MIDDLES).pvalue > LEVEL
    assert ks_2samp(to_z(density.sample((2000,)))[:, 0], p.sample((2000,))[:, 0]).pvalue > LEVEL


def test_where_there_is_no_density_a_proposal_is_rejected():
    """Without the mass beyond |z| = 1, where p(x | z) is not a number, the answer is that of quadrature."""

    class Ends(likelihoods.Normal):
        def forward(self, z):
            return super().forward(z.where(z.abs() < 1, math.nan))

    network = networks.MLP(1, 3, hidden=())
    vae = VAE(priors.StandardNormal(1), Ends(network, 0.5), encoders.DiagonalNormal(networks.MLP(3, 2))).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    inside = norm.cdf(-1) + (norm.cdf(1) - norm.cdf(-1)) * MIDDLES
    expected = log_mean(vae, x, norm.ppf(inside)) + math.log(norm.cdf(1) - norm.cdf(-1))
    found = ais(vae, x, **CHEAP)
    z_test(found.value, found.std_error, expected)


# Refusals -------------------------------------------------------------------------------------------------------------


def built(prior, encoder):
    return VAE(prior, likelihoods.Bernoulli(networks.MLP(prior.latent_dim, 5)), encoder)


def test_z_without_unconstrained_coordinates_is_refused_with_what_to_use():
    discrete = built(priors.Bernoulli(3), encoders.Bernoulli(networks.MLP(5, 3)))
    sphere = built(priors.HypersphericalUniform(3), encoders.PowerSpherical(networks.MLP(5, 4)))
    x = torch.ones(2, 5)
    with pytest.raises(ValueError, match=r"discrete.*known\.log_likelihood.*evaluation\.log_likelihood"):
        ais(discrete, x)
    with pytest.raises(ValueError, match="the unit sphere, which has no unconstrained coordinates: use evaluation"):
        ais(sphere, x)
    with pytest.raises(ValueError, match="discrete"):
        bdmc(discrete)


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (encoders.Planar, "its own draws alone"),
        (encoders.Delta, "a point, which has no density"),
        (encoders.RelaxedBernoulli, "no unconstrained coordinates in common"),
    ],
)
def test_a_posterior_to_start_from_has_a_density_everywhere_else_the_prior_serves(encoder, reason):
    vae = built(priors.StandardNormal(2), encoder(lambda n: networks.MLP(5, n(2))))
    x = torch.ones(2, 5)
    with pytest.raises(ValueError, match=reason):
        ais(vae, x, start="posterior")
    assert ais(vae, x, num_chains=2, num_temperatures=2, num_leapfrog=1).value.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_chains": 0}, "num_chains must be at least 1, not 0"),
        ({"num_temperatures": 0}, "num_temperatures must be at least 1"),
        ({"num_leapfrog": 0}, "num_leapfrog must be at least 1"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between 0 and 1"),
        ({"start": "encoder"}, 'start is "prior" or "posterior", not \'encoder\''),
        ({"schedule": lambda t: torch.linspace(0, 1, t)}, "rises from 0 to 1 in 500 steps"),
        ({"schedule": lambda t: torch.linspace(0.1, 1, t + 1)}, "rises from 0 to 1"),
        ({"schedule": lambda t: torch.linspace(0, 1, t + 1).square().mul(-1)}, "rises from 0 to 1"),
        ({"x": torch.full((2, 4), math.nan).double()}, "finite"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    model = linear()
    with pytest.raises(ValueError, match=message):
        ais(model.vae, **{"x": model.sample(2), **wrong})


def test_a_single_simulated_datum_and_estimates_of_other_data_are_refused():
    model = linear()
    with pytest.raises(ValueError, match="num_data must be at least 2"):
        bdmc(model.vae, num_data=1)
    few, many = (evaluation.log_likelihood(model.vae, model.sample(n), 10) for n in (2, 3))
    with pytest.raises(ValueError, match="the same data"):
        agreement(few, many)


# How it runs ----------------------------------------------------------------------------------------------------------


def test_data_and_chains_are_run_in_chunks(monkeypatch):
    model, rows = linear(), []
    x = model.sample(4)
    original = chains.Chains._terms
    monkeypatch.setattr(chains, "_CHUNK", 4 * 100)
    monkeypatch.setattr(chains.Chains, "_terms", lambda self, u: (rows.append(u[..., 0].numel()), original(self, u))[1])
    for num_chains in (40, 250):
        found = ais(model.vae, x, num_chains=num_chains, num_temperatures=6, num_leapfrog=2)
        assert max(rows) <= 100
        assert all(t.shape == (4,) for t in found)
        z_test(found.value, found.std_error, model.log_likelihood(x).detach())
    bounds = bdmc(model.vae, num_data=5, num_chains=40, num_temperatures=20, num_leapfrog=2)
    assert max(rows) <= 100
    exact_ = model.log_likelihood(bounds.x).detach()  # datum by datum: each has its own z
    assert ((bounds.upper - exact_).abs() < 1.5).all()


def test_the_components_of_a_prior_and_simulated_data_count_for_chunks(monkeypatch):
    monkeypatch.setattr(chains, "_CHUNK", 50 * 20)
    monkeypatch.setattr(predictive, "_CHUNK", 4 * 3)
    vae = VAE(priors.MixtureOfNormals(2, components=50), linear().vae.likelihood, linear().vae.encoder).double()
    rows, simulated = [], []
    vae.likelihood.register_forward_pre_hook(
        lambda module, given: (simulated if given[0].dim() == 2 else rows).append(given[0][..., 0].numel())
    )
    bdmc(vae, num_data=7, num_chains=10, num_temperatures=1, num_leapfrog=1)
    assert (max(rows), max(simulated)) == (20, 3)


def test_results_follow_from_the_seed_and_random_state_and_mode_are_left_alone():
    model = linear()
    x = model.sample(3)
    model.vae.train()
    state = torch.get_rng_state()
    first, second, other = (ais(model.vae, x, 4, 5, num_leapfrog=2, seed=s).value for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not first.requires_grad
    bounds = bdmc(model.vae, 3, 4, 5, num_leapfrog=2)
    assert torch.equal(bounds.lower, bdmc(model.vae, 3, 4, 5, num_leapfrog=2).lower)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.vae.training
    assert all(p.grad is None for p in model.vae.parameters())


def test_schedules_rise_from_0_to_1_the_sigmoidal_one_slowly_at_both_ends():
    straight, curved = linear_schedule(10), sigmoidal_schedule(10)
    np.testing.assert_allclose(straight, np.arange(11) / 10)
    sigmoid = 1 / (1 + np.exp(-np.linspace(-4, 4, 11)))
    np.testing.assert_allclose(curved, (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0]), atol=1e-15)
    assert curved[1] < straight[1]
    assert torch.allclose(curved + curved.flip(0), torch.ones(()).double())
