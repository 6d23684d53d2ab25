"""Collapsed dimensions, the weight of the KL that q(z | x) is adapted to, and what is said of both."""

import math
import sys

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian

from pyrovae import SVI, VAE, encoders, exact, likelihoods, networks, objectives, priors
from pyrovae.diagnostics.collapse import Collapse, EffectiveBeta, collapse, effective_beta, verdict
from pyrovae.diagnostics.gaps import Mean
from pyrovae.diagnostics.information import Information, information
from pyrovae.evaluation import ActiveUnits
from pyrovae.scale import unconstrained

module = sys.modules[collapse.__module__]  # by its name the package has the function
ERRORS = 4  # standard errors allowed: a level of 6e-5 for each number


# Collapse -------------------------------------------------------------------------------------------------------------


def with_a_dead_unit():
    """A VAE of which z_2 is of no use, and knows it."""
    model = LinearGaussian(num_data=200)
    layer = model.vae.encoder.network.layers[-1]
    model.V[1], model.c[1], model.t[1] = 0, 0, 1
    with torch.no_grad():
        layer.weight[[1, 3]] = 0
        layer.bias[[1, 3]] = torch.tensor([0.0, unconstrained(torch.tensor(1.0, dtype=torch.float64))]).double()
    return model


def test_a_dead_unit_is_told_from_a_live_one():
    model = with_a_dead_unit()
    found = collapse(model.vae, model.data)
    assert found.collapsed.tolist() == [[False, True]] * 3
    assert found.active.value == 1
    kl = model.kl()
    np.testing.assert_allclose(found.kl, kl.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.std_error, kl.std(0, ddof=1) / 200**0.5, atol=1e-12)


def test_shares_are_of_data_and_delta_of_them_may_be_above_epsilon():
    model = with_a_dead_unit()
    live = np.sort(model.kl()[:, 0])
    epsilon = [(live[i - 1] + live[i]) / 2 for i in (20, 190)]  # so many are below
    for delta, collapsed in ((0.04, [False, False]), (0.06, [False, True]), (0.95, [True, True])):
        found = collapse(model.vae, model.data, epsilon, delta)
        np.testing.assert_allclose(found.share, [[0.1, 1.0], [0.95, 1.0]])
        assert found.collapsed[:, 0].tolist() == collapsed


def test_bits_have_the_divergence_of_bernoullis():
    model = exact.BernoulliToy(3, 5)
    x = model.sample(20)
    with torch.no_grad():
        q, p = (t.sigmoid().numpy() for t in (model.vae.encoder.network(x), model.vae.prior.logits))
    kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    np.testing.assert_allclose(collapse(model.vae, x).kl, kl.mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("prior", "encoder"),
    [
        (priors.MixtureOfNormals(2), encoders.DiagonalNormal),
        (priors.StudentT(2), encoders.DiagonalNormal),
        (priors.StandardNormal(2), encoders.FullRankNormal),
        (priors.StandardNormal(2), encoders.Delta),
        (priors.OneHotCategorical(2), encoders.OneHotCategorical),
    ],
    ids=["mixture", "no closed form", "covariances", "points", "one-hot"],
)
def test_no_divergence_of_each_dimension_is_refused(prior, encoder):
    vae = VAE(prior, likelihoods.Normal(networks.MLP(2, 5)), encoder(lambda n: networks.MLP(5, n(2))))
    with pytest.raises(ValueError, match="no KL of each dimension in closed form"):
        collapse(vae, torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (1, {}, "at least two"),
        (4, {"epsilon": []}, "epsilon"),
        (4, {"epsilon": [0.1, 0.0]}, "epsilon"),
        (4, {"delta": 1.0}, "delta"),
    ],
)
def test_arguments_out_of_range_are_refused(count, arguments, message):
    with pytest.raises(ValueError, match=message):
        collapse(LinearGaussian().vae, torch.zeros(count, 5), **arguments)


# The weight of the KL -------------------------------------------------------------------------------------------------


def best_for(beta, **sizes):
    """A linear model with the diagonal q(z | x) that maximises E_q[log p(x | z)] - beta KL, in closed form."""
    model = exact.LinearGaussian(**sizes)
    with torch.no_grad():
        m = model.weight.T @ model.weight + beta * model.scale**2 * torch.eye(len(model.loc))
        v, t = torch.linalg.solve(m, model.weight.T), beta**0.5 * model.scale / m.diagonal().sqrt()
        layer = model.vae.encoder.network.layers[-1]
        layer.weight.copy_(torch.cat([v, torch.zeros_like(v)]))
        layer.bias.copy_(torch.cat([-v @ model.bias, unconstrained(t)]))
    return model


@pytest.mark.parametrize("beta", [0.25, 1.0, 2.0, 4.0])
def test_beta_of_the_best_linear_encoder_is_found(beta):
    model = best_for(beta, latent_dim=3, data_dim=6)
    found = effective_beta(model.vae, model.sample(500))
    assert found.std_error < 0.02 * beta
    assert abs(found.value - beta) < ERRORS * found.std_error
    assert found.location == pytest.approx(beta, rel=0.05)
    assert found.scale == pytest.approx(beta, rel=0.05)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_beta_of_a_trained_encoder_is_found(beta):
    """Of a decoder that is far from linear, whose posteriors are not normal."""
    decoder = networks.MLP(2, 20, hidden=(16,), activation=torch.nn.Tanh, initializer=torch.nn.init.normal_)
    encoder = encoders.DiagonalNormal(networks.MLP(20, 4, hidden=(32,), activation=torch.nn.Tanh))
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decoder, 2.0, learned=False), encoder)
    x, optim = vae.sample(128), torch.optim.Adam(encoder.parameters(), 0.03)
    vae.eval().likelihood.requires_grad_(False)
    svi = SVI(vae.model, vae.guide, optim, objectives.ELBO(num_particles=4, beta=beta, analytic_kl=True))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 150)
    for _ in range(150):
        svi.step(x)
        decay.step()
    found = effective_beta(vae, x)
    assert found.value == pytest.approx(beta, rel=0.1)


def test_its_error_is_that_of_repeated_estimates():
    model = best_for(2.0)
    runs = [effective_beta(model.vae, model.sample(100, seed), 8, seed) for seed in range(100)]
    assert np.mean([run.std_error for run in runs]) == pytest.approx(np.std([run.value for run in runs]), rel=0.3)
    assert np.mean([run.value for run in runs]) == pytest.approx(2.0, abs=0.02)


def test_a_collapsed_model_has_no_evidence_of_beta():
    model = best_for(1.0)
    with torch.no_grad():
        model.weight.zero_()
    model.solve_encoder()
    for widened in (0.0, 0.5):  # by the noise of training, so that the scales alone would tell of a weight of 0
        model.vae.encoder.network.layers[-1].bias.data[2:] += widened
        assert all(math.isnan(number) for number in effective_beta(model.vae, model.sample(50)))


def test_a_mixture_that_is_a_standard_normal_gives_the_same():
    model = best_for(2.0)
    x = model.sample(50)
    expected = effective_beta(model.vae, x)
    mixture = priors.MixtureOfNormals(2, components=3).double()
    with torch.no_grad():
        mixture.loc.zero_()
    model.vae.prior = mixture
    assert effective_beta(model.vae, x) == pytest.approx(expected, rel=1e-6)


def test_what_is_decoded_at_a_time_is_bounded_and_nothing_else_is_changed(monkeypatch):
    model = best_for(1.0)
    x, state, sizes = model.sample(40), torch.get_rng_state(), []
    model.vae.likelihood.network.register_forward_hook(lambda module, given, output: sizes.append(output.numel()))
    monkeypatch.setattr(module, "_CHUNK", 8 * 5 * 7)  # 7 data at a time
    model.vae.train()
    first, again, other = (effective_beta(model.vae, x, 8, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sum(sizes) == 3 * 40 * 8 * 5
    assert max(sizes) == 8 * 5 * 7
    assert torch.equal(torch.get_rng_state(), state)
    assert model.vae.training
    assert all(parameter.grad is None for parameter in model.vae.parameters())


@pytest.mark.parametrize(
    ("prior", "encoder", "message"),
    [
        (priors.VampPrior(2, 3), encoders.DiagonalNormal, "made of the encoder"),
        (priors.Bernoulli(2), encoders.Bernoulli, "no density on R"),
        (priors.StandardNormal(2), encoders.Delta, "no density on R"),
    ],
    ids=["VampPrior", "bits", "points"],
)
def test_what_beta_cannot_be_told_of_is_refused(prior, encoder, message):
    vae = VAE(prior, likelihoods.Normal(networks.MLP(2, 5)), encoder(lambda n: networks.MLP(5, n(2))))
    with pytest.raises(ValueError, match=message):
        effective_beta(vae, torch.zeros(4, 5))


@pytest.mark.parametrize(("count", "num_samples", "message"), [(1, 2, "at least two"), (4, 0, "num_samples")])
def test_too_few_data_or_draws_are_refused(count, num_samples, message):
    with pytest.raises(ValueError, match=message):
        effective_beta(LinearGaussian().vae, torch.zeros(count, 5), num_samples)


# The verdict ----------------------------------------------------------------------------------------------------------


def parts(rate, mutual, num_data=1000, error=0.01):
    return Information(*(Mean(v, error, error) for v in (rate, mutual, rate - mutual)), num_data)


def units(active, of):
    """Of a verdict's interest are only how many there are."""
    nothing = torch.zeros(of)
    return Collapse(nothing, nothing, nothing, 0.01, nothing, nothing, ActiveUnits(active, nothing))


HEALTHY = {"information": parts(4.0, 3.9), "collapse": units(8, 8)}
GOOD_BETA, HIGH_BETA, LOW_BETA = (EffectiveBeta(b, 0.02, b, b) for b in (1.1, 2.1, 0.5))

CASES = {
    "healthy": ({}, ["8 of 8 units active, rate 4 nats: no fault found"]),
    "all of it healthy": (
        {"beta": GOOD_BETA, "approximation_gap": 0.5, "amortisation_gap": 0.9, "bad_k_share": 0.01},
        ["no fault found"],
    ),
    "units not known": ({"collapse": None}, ["Rate 4 nats: no fault found"]),
    "collapsed": (
        {"information": parts(0.02, 0.01), "collapse": units(0, 8)},
        ["0 of 8 units active, rate 0.02 nats: collapsed"],
    ),
    "collapsed, units not known": ({"information": parts(0.02, 0.01), "collapse": None}, ["Rate 0.02 nats: collapsed"]),
    "collapsed but for some": (
        {"information": parts(2.1, 2.0), "collapse": units(3, 50)},
        ["3 of 50 units active, rate 2.1 nats: collapsed, but for these. Try a warm-up of the KL, free bits,"],
    ),
    "partly collapsed": ({"collapse": units(5, 8)}, ["5 of 8 units active, rate 4 nats: partly collapsed"]),
    "too few data": (
        {"information": parts(20.0, 6.5)},
        ["6.50 nats, is at its ceiling log N = 6.91: 1000 data are too"],
    ),
    "many enough": ({"information": parts(6.1, 6.0)}, ["no fault found"]),
    "holes": (
        {"information": parts(6.0, 3.0)},
        ["KL(q(z) || p(z)) is 3.00 nats: draws of the prior fall where no data"],
    ),
    "perhaps holes": ({"information": parts(6.0, 3.0, error=1.1)}, ["no fault found"]),
    "needles": (
        {"information": parts(80.0, 6.9)},
        ["10.0 for each: q(z | x) is a needle beside p(z), as where the scale of p(x | z) is tiny", "at its ceiling"],
    ),
    "a high beta": (
        {"beta": HIGH_BETA},
        [
            "for a KL of weight 2.10 +- 0.02, not 1 (2.10 by its means",
        ],
    ),
    "a low beta": ({"beta": LOW_BETA}, ["a beta below 1, free bits, or a warm-up or training that was cut short"]),
    "an uncertain beta": ({"beta": EffectiveBeta(2.0, 0.4, 2.0, 2.0)}, ["no fault found"]),
    "no beta": ({"beta": EffectiveBeta(*[math.nan] * 4)}, ["no fault found"]),
    "a poor family": ({"approximation_gap": 3.0}, ["The approximation gap is 3.00 nats: no posterior of this family"]),
    "a poor encoder": ({"amortisation_gap": 3.0}, ["The amortisation gap is 3.00 nats: the encoder misses the best"]),
    "poor weights": ({"bad_k_share": 0.3}, ["For 30% of the data k-hat is above 0.7"]),
}  # what is given beside HEALTHY, and what each sentence says


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case):
    given, expected = CASES[case]
    found = verdict(**(HEALTHY | given))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_a_collapsed_model_is_told_so_from_its_data_to_the_verdict():
    model = best_for(1.0)
    with torch.no_grad():
        model.weight.zero_()
    model.solve_encoder()
    x = model.sample(50)
    (found,) = verdict(information(model.vae, x), collapse(model.vae, x), effective_beta(model.vae, x))
    assert found.startswith("0 of 2 units active, rate 0 nats: collapsed, z tells next to nothing of x. Try a warm-up")
