"""What is said of a model, and what is not."""

import math

import pytest
import torch

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics import Findings, calibration, collapse, effective_beta, information, verdict
from pyrovae.diagnostics.calibration import Calibration
from pyrovae.diagnostics.collapse import Collapse
from pyrovae.diagnostics.effective_beta import EffectiveBeta
from pyrovae.diagnostics.gaps import Mean
from pyrovae.diagnostics.information import Information
from pyrovae.evaluation import ActiveUnits


def parts(rate, mutual, num_data=1000, error=0.01):
    return Information(*(Mean(v, error, error) for v in (rate, mutual, rate - mutual)), num_data)


def units(active, of):
    """Of a verdict's interest are only how many there are."""
    nothing = torch.zeros(of)
    return Collapse(nothing, nothing, nothing, 0.01, nothing, nothing, ActiveUnits(active, nothing))


def gap(approximation=0.3, amortisation=0.3, richer=None):
    found = {"approximation": approximation, "amortisation": amortisation, "richer_approximation": richer}
    return {name: Mean(value, 0.01, 0.1) for name, value in found.items() if value is not None}


def covered(share, error=0.005):
    nothing = torch.zeros(1)
    return Calibration(
        nothing, nothing, nothing, torch.tensor([0.95]), torch.tensor([[share]]), nothing, nothing + error
    )


HEALTHY = {"information": parts(4.0, 3.9), "collapse": units(8, 8)}
GOOD_BETA, HIGH_BETA, LOW_BETA = (EffectiveBeta(b, 0.02, b, b) for b in (1.1, 2.1, 0.5))
WIDE = EffectiveBeta(3.9, 0.1, 1.1, 7.9)  # by its scales alone

CASES = {
    "healthy": ({}, ["8 of 8 units active, rate 4 nats: no fault found"]),
    "all of it healthy": (
        {
            "beta": GOOD_BETA,
            "gaps": gap(0.5, 0.9, 0.1),
            "missed": Mean(0.05, 0.01, 0.01),
            "calibration": covered(0.93),
        },
        ["no fault found"],
    ),
    "units not known": ({"collapse": None}, ["rate 4 nats: no fault found"]),
    "only gaps known": ({"information": None, "collapse": None, "gaps": gap()}, ["No fault found in the gaps; what z"]),
    "nothing known": ({"information": None, "collapse": None}, ["No verdict"]),
    "only checks known": ({"information": None, "collapse": None, "prior_off": ["mean"]}, ["by the prior differ"]),
    "collapsed": (
        {"information": parts(0.02, 0.01), "collapse": units(0, 8)},
        ["0 of 8 units active, rate 0.02 nats: collapsed, z tells next to nothing of x. Try a warm-up of the KL, free"],
    ),
    "collapsed, units not known": ({"information": parts(0.02, 0.01), "collapse": None}, ["rate 0.02 nats: collapsed"]),
    "collapsed but for some": (
        {"information": parts(2.1, 2.0), "collapse": units(3, 50)},
        ["3 of 50 units active, rate 2.1 nats: collapsed, but for these. Try a warm-up of the KL, free bits,"],
    ),
    "as many units as are of use": ({"collapse": units(5, 8)}, ["5 of 8 units active, rate 4 nats: no fault found"]),
    "too few data to tell q(z)": ({"information": parts(20.0, 6.5)}, ["no fault found"]),
    "many enough": ({"information": parts(6.1, 6.0)}, ["no fault found"]),
    "holes": (
        {"information": parts(6.0, 3.0)},
        ["KL(q(z) || p(z)) is 3.00 nats: draws of the prior fall where no data"],
    ),
    "perhaps holes": ({"information": parts(6.0, 3.0, error=1.1)}, ["no fault found"]),
    "needles": (
        {"information": parts(80.0, 6.9)},
        ["10.0 nats for each, q(z | x) is a needle beside p(z), as where the scale of p(x | z) is tiny"],
    ),
    "a high beta": ({"beta": HIGH_BETA}, ["for a KL of weight 2.10 +- 0.02, not 1 (2.10 by its means"]),
    "a low beta": ({"beta": LOW_BETA}, ["a beta below 1, free bits, or a warm-up or training that was cut short"]),
    "no beta explains it": ({"beta": WIDE}, ["the best for no weight of the KL (1.10 by its means, 7.90 by its"]),
    "an uncertain beta": ({"beta": EffectiveBeta(2.0, 0.4, 2.0, 2.0)}, ["no fault found"]),
    "no beta": ({"beta": EffectiveBeta(*[math.nan] * 4)}, ["no fault found"]),
    "a poor family": (
        {"gaps": gap(3.0, 0.1, 0.4)},
        ["any covariance leaves 0.40 of it. Try encoders.FullRankNormal, or a flow"],
    ),
    "posteriors that are not normal": (
        {"gaps": gap(3.0, 0.1, 2.5)},
        ["leaves 2.50 of it. Try a richer one, a flow or a mixture"],
    ),
    "a poor family, no richer one tried": ({"gaps": gap(3.0)}, ["is near p(z | x). Try a richer one, a flow"]),
    "a poor encoder": ({"gaps": gap(0.1, 3.0)}, ["The amortisation gap is 3.00 nats: the encoder misses the best"]),
    "a poor encoder by its beta": ({"gaps": gap(0.1, 3.0), "beta": HIGH_BETA}, ["for a KL of weight 2.10"]),
    "poor weights": ({"missed": Mean(0.4, 0.1, 0.1)}, ["misses 0.40 nats of log p(x) that annealing finds"]),
    "perhaps poor weights": ({"missed": Mean(0.4, 0.2, 0.2)}, ["no fault found"]),
    "annealing off": ({"missed": Mean(-2.0, 0.1, 0.1)}, ["no fault found"]),
    "too narrow": ({"calibration": covered(0.5)}, ["95% credible intervals of q(z | x) hold 50% of the z", "narrow"]),
    "too wide": ({"calibration": covered(1.0, 0.0)}, ["hold 100% of the z", "q is too wide"]),
    "perhaps too narrow": ({"calibration": covered(0.85, 0.05)}, ["no fault found"]),
    "a wrong likelihood": (
        {"posterior_off": ["share of zeros"], "prior_off": ["share of zeros"]},
        ["by q(z | x) differ from the data in share of zeros: p(x | z) may be of the wrong kind"],
    ),
    "a wrong prior": (
        {"prior_off": ["mean"], "posterior_off": []},
        ["differ from the data in mean, those drawn by q(z | x) do not"],
    ),
    "a wrong prior, or likelihood": ({"prior_off": ["mean"]}, ["or p(x | z) is of the wrong kind"]),
    "checks that found nothing": ({"prior_off": [], "posterior_off": []}, ["no fault found"]),
    "perhaps collapsed": ({"information": parts(0.11, 0.09, error=0.03)}, ["no fault found"]),
}  # what is given beside HEALTHY, and what each sentence says; of one sentence, all of it


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case):
    given, expected = CASES[case]
    found = verdict(Findings(**(HEALTHY | given)))
    text = "\n".join(found)
    assert len(found) == 1
    assert all(part in text for part in expected), text


def test_each_finding_has_its_sentence():
    found = verdict(
        Findings(parts(6.0, 3.0), units(2, 50), LOW_BETA, gap(3.0), Mean(1.0, 0.1, 0.1), covered(0.5), ["mean"])
    )
    assert len(found) == 7


def test_another_bound_has_another_best_posterior():
    found = Findings(**HEALTHY, beta=WIDE, gaps=gap(0.1, 3.0))
    assert len(verdict(found)) == 1
    assert verdict(found, elbo=False) == ["8 of 8 units active, rate 4 nats: no fault found."]


def test_what_a_model_has_is_not_recommended_to_it():
    vae = VAE(
        priors.MixtureOfNormals(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.FullRankNormal(lambda n: networks.MLP(5, n(2))),
    )
    found = Findings(parts(6.0, 3.0), gaps=gap(3.0, 0.1, 0.1))
    with_it, without = (" ".join(verdict(found, model)) for model in (None, vae))
    for name in ("MixtureOfNormals", "encoders.FullRankNormal"):
        assert name in with_it
        assert name not in without


@torch.no_grad()
def test_a_collapsed_model_is_told_so_from_its_data_to_the_verdict():
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    x = model.sample(50)
    model.weight.zero_()
    model.solve_encoder()
    found = Findings(information(model.vae, x), collapse(model.vae, x), effective_beta(model.vae, x))
    (sentence,) = verdict(found)
    assert sentence.startswith("0 of 2 units active, rate 0 nats: collapsed, z tells next to nothing of x. Try a warm-")


@torch.no_grad()
def test_a_narrow_posterior_is_told_so_from_its_model_to_the_verdict():
    model = exact.LinearGaussian(latent_dim=2, data_dim=5)
    model.solve_encoder()
    assert "narrow" not in " ".join(verdict(Findings(calibration=calibration(model.vae))))
    model.vae.encoder.network.layers[-1].bias[2:] -= 1.5
    assert "too narrow" in " ".join(verdict(Findings(calibration=calibration(model.vae))))
