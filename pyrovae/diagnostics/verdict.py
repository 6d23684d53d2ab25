"""What the numbers say of a model, in words, and what to try."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyrovae.diagnostics.calibration import Calibration
from pyrovae.diagnostics.collapse import Collapse
from pyrovae.diagnostics.effective_beta import EffectiveBeta
from pyrovae.diagnostics.gaps import Mean
from pyrovae.diagnostics.information import Information
from pyrovae.vae import VAE

__all__ = ["Findings", "verdict"]

_EMPTY = 0.1  # nats of mutual information below which z is of no use: it could raise log p(x) by no more
_FEW = 0.1  # share of active units up to which a model is collapsed; of 50, VAEs of MNIST keep 19 (Burda et al., 2016)
_SHARP = 4.6  # log 100: nats of rate for each active unit from where on q(z_d | x) is a hundredth as wide as p(z_d)
_HOLES = 1.0  # nats of KL(q(z) || p(z)): q(z) / p(z) is e on (geometric) average where data are encoded
_GAP = 1.0  # nats; a usual VAE of MNIST loses 2 to 3 in both gaps together, and IWAE with 50 draws wins 2
_MISSED = 0.1  # nats of log p(x) that importance sampling may miss
_OFF = 1.5  # factor of the KL's weight; VAEs of digits trained for 200 epochs with weight 1 show 0.9 to 1.2
_UNCOVERED = 0.05  # by which the share of z in credible intervals may be off
_SURE = 3.0  # standard errors; of a normal estimate, 0.3 % are further off


class Findings(NamedTuple):
    """What a verdict rests on; what is not known is left out."""

    information: Information | None = None
    collapse: Collapse | None = None  # for what is known of single units
    beta: EffectiveBeta | None = None  # of training data
    gaps: Mapping[str, Mean] | None = None  # of test data, as `Gaps.means` has them
    missed: Mean | None = None  # annealed less importance sampling's log p(x), the mean over data
    calibration: Calibration | None = None
    prior_off: Sequence[str] | None = None  # statistics in which data drawn by the prior differ from the data
    posterior_off: Sequence[str] | None = None  # those in which data drawn by q(z | x) do


def verdict(found: Findings, vae: VAE | None = None, elbo: bool = True) -> list[str]:
    """The findings in words, a sentence or two for each, and what to try; or one that says that there is no fault.

    Args:
        found: the numbers.
        vae: the model, whose own parts are not recommended to it.
        elbo: whether it was trained by an ELBO; another bound has another best q(z | x), and none of its faults.

    References:
        Hoffman and Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Cremer et al. (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558
        Gelman et al. (1996), Posterior predictive assessment of model fitness,
        https://www3.stat.sinica.edu.tw/statistica/oldpdf/A6n41.pdf

    Example:
        >>> rate, mutual, aggregate = Mean(5.2, 0.01, 0.05), Mean(3.5, 0.01, 0.04), Mean(1.7, 0.01, 0.02)
        >>> print(*verdict(Findings(Information(rate, mutual, aggregate, num_data=1000))))
        KL(q(z) || p(z)) is 1.70 nats: draws of the prior fall where no data are encoded. Try a prior that learns where
        they are: VampPrior, MixtureOfNormals, FlowPrior.
    """
    units = _of_units(found.information, found.collapse)
    weight = _of_beta(found.beta) if elbo else []
    sentences = [
        *units,
        *weight,
        *_of_aggregate(found.information, vae),
        *_of_gaps(found.gaps, vae, known_cause=bool(weight) or not elbo),
        *_of_weights(found.missed),
        *_of_coverage(found.calibration),
        *_of_checks(found),
    ]
    if sentences:
        return sentences
    if found.information is None and found.collapse is None:
        known = ", ".join(words for name, words in _OTHERS.items() if getattr(found, name) is not None)
        return [
            f"No fault found in {known}; what z carries is not known." if known else "No verdict: nothing is known."
        ]
    return [f"{_summary(found.information, found.collapse)}no fault found."]


_OTHERS = {
    "gaps": "the gaps",
    "missed": "importance sampling",
    "calibration": "the calibration",
    "prior_off": "data drawn by the prior",
    "posterior_off": "data drawn by q(z | x)",
}


def _summary(information: Information | None, collapse: Collapse | None) -> str:
    known = [f"{collapse.active.value} of {len(collapse.kl)} units active"] if collapse else []
    known += [f"rate {round(information.rate.value, 2) + 0:g} nats"] if information else []  # with no -0
    return f"{', '.join(known)}: " if known else ""


def _of_units(information: Information | None, collapse: Collapse | None) -> list[str]:
    """Units that carry nothing, and those that carry too much."""
    summary = _summary(information, collapse)
    remedies = "Try a warm-up of the KL, free bits, a weaker decoder, or a smaller beta, if that is above 1."
    mutual = information and information.mutual_information
    if mutual and mutual.value + 2 * mutual.sampling_error < _EMPTY:
        return [f"{summary}collapsed, z tells next to nothing of x. {remedies}"]
    if not collapse:
        return []
    active, units, found = collapse.active.value, len(collapse.kl), []
    if information and active and information.rate.value > _SHARP * active:
        each = information.rate.value / active
        found.append(
            f"{summary}{each:.1f} nats for each, q(z | x) is a needle beside p(z), as where the scale of p(x | z) is "
            f"tiny. Try a larger scale, dequantized data, or a larger latent_dim."
        )
    if active <= _FEW * units:
        found.append(f"{summary}collapsed, but for these. {remedies}")
    return found


def _of_beta(beta: EffectiveBeta | None) -> list[str]:
    """A KL that was weighted in training."""
    if not beta or not abs(beta.value - 1) > _SURE * beta.std_error or 1 / _OFF < beta.value < _OFF:  # NaN, too
        return []
    parts = f"{beta.location:.2f} by its means, {beta.scale:.2f} by its scales"
    if not beta.agrees:
        return [
            f"q(z | x) is the best for no weight of the KL ({parts}): its training has not come to its end, or was by "
            f"another bound than the ELBO. Train on, at least the encoder, with a learning rate that falls."
        ]
    causes = (
        "a beta above 1" if beta.value > 1 else "a beta below 1, free bits, or a warm-up or training that was cut short"
    )
    return [
        f"q(z | x) is as for a KL of weight {beta.value:.2f} +- {beta.std_error:.2f}, not 1 ({parts}): {causes}. Train "
        f"on with weight 1, at least the encoder."
    ]


def _of_aggregate(information: Information | None, vae: VAE | None) -> list[str]:
    """Where the data are encoded, seen from the prior; near log N nothing is known of that."""
    if not information or information.at_ceiling:
        return []
    aggregate = information.aggregate_kl
    if aggregate.value - 2 * aggregate.sampling_error < _HOLES:
        return []
    others = [name for name in ("VampPrior", "MixtureOfNormals", "FlowPrior") if name != _name(vae, "prior")]
    return [
        f"KL(q(z) || p(z)) is {aggregate.value:.2f} nats: draws of the prior fall where no data are encoded. Try a "
        f"prior that learns where they are: {', '.join(others)}."
    ]


def _of_gaps(gaps: Mapping[str, Mean] | None, vae: VAE | None, known_cause: bool) -> list[str]:
    """What the family costs, and what computing q from x does."""
    if not gaps:
        return []
    found, approximation, richer = [], gaps["approximation"].value, gaps.get("richer_approximation")
    if approximation > _GAP:
        full = richer is not None and richer.value < approximation / 2 and _name(vae, "encoder") != "FullRankNormal"
        left = (
            "" if richer is None else f"; the best normal posterior of any covariance leaves {richer.value:.2f} of it"
        )
        remedy = "encoders.FullRankNormal, or a flow" if full else "a richer one, a flow or a mixture"
        found.append(
            f"The approximation gap is {approximation:.2f} nats: no posterior of this family is near p(z | x){left}. "
            f"Try {remedy}."
        )
    if gaps["amortisation"].value > _GAP and not known_cause:
        found.append(
            f"The amortisation gap is {gaps['amortisation'].value:.2f} nats: the encoder misses the best posterior of "
            f"its family. Try a larger or longer trained encoder"
            + ("." if _name(vae, "encoder") == "SemiAmortized" else ", or encoders.SemiAmortized.")
        )
    return found


def _of_weights(missed: Mean | None) -> list[str]:
    """What importance sampling has not found."""
    if missed is None or not missed.value > max(_SURE * missed.std_error, _MISSED):
        return []
    return [
        f"Importance sampling from q(z | x) misses {missed.value:.2f} nats of log p(x) that annealing finds: take log "
        f"p(x) from annealing, or more draws, or a posterior with wider tails, as IWAE learns."
    ]


def _of_coverage(calibration: Calibration | None) -> list[str]:
    """Credible intervals that hold too many or too few of the z."""
    if calibration is None:
        return []
    level, coverage = calibration.levels[-1].item(), calibration.coverage[-1].mean().item()
    off = coverage - level
    if abs(off) < max(_SURE * calibration.mean_std_error[-1].item(), _UNCOVERED):
        return []
    return [
        f"{level:.0%} credible intervals of q(z | x) hold {coverage:.0%} of the z that the model draws data from: q is "
        f"too {'narrow, or off the mark' if off < 0 else 'wide'}."
    ]


def _of_checks(found: Findings) -> list[str]:
    """Data that the model draws, beside the data."""
    if found.posterior_off:
        return [
            f"Data drawn by q(z | x) differ from the data in {', '.join(found.posterior_off)}: p(x | z) may be of the "
            f"wrong kind. Try another likelihood, or a better decoder."
        ]
    if not found.prior_off:
        return []
    differ = f"Data drawn by the prior differ from the data in {', '.join(found.prior_off)}"
    if found.posterior_off is None:
        return [f"{differ}: p(z) is not where the data are encoded, or p(x | z) is of the wrong kind."]
    return [
        f"{differ}, those drawn by q(z | x) do not: p(z) is not where the data are encoded. Try a prior that learns."
    ]


def _name(vae: VAE | None, part: str) -> str:
    """What a part of the model is called."""
    return type(getattr(vae, part, None)).__name__
