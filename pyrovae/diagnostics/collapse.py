"""Posterior collapse: which dimensions of z carry nothing, under which weight of the KL, and what to do about it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.diagnostics.information import Information
from pyrovae.draws import is_point
from pyrovae.evaluation import _CHUNK, ActiveUnits, active_units, decoded_size, evaluating, kl_of_each, moments
from pyrovae.rng import isolated
from pyrovae.sites import family
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["Collapse", "EffectiveBeta", "collapse", "effective_beta", "verdict"]

# Thresholds of the verdict.
_EMPTY = 0.1  # nats of rate below which z is of no use: it could raise log p(x) by no more
_FEW = 0.1  # share of active units up to which a model is collapsed; of 50, VAEs of MNIST keep 19 (Burda et al., 2016)
_SHARP = math.log(100)  # nats of rate for each active unit, from where on q(z_d | x) is a hundredth as wide as p(z_d)
_HOLES = 1.0  # nats of KL(q(z) || p(z)): q(z) / p(z) is e on (geometric) average where data are encoded
_GAP = 1.0  # nats; a usual VAE of MNIST loses 2 to 3 in both gaps together, and IWAE with 50 draws wins 2
_UNRELIABLE = 0.05  # share of data; up to this many, a mean of log p(x) over data is about that of the others
_OFF = 1.5  # factor of the KL's weight; VAEs of digits trained for 200 epochs with weight 1 show 0.9 to 1.2
_SURE = 3.0  # standard errors; of a normal estimate, 0.3 % are further off

_MOVED = 0.25  # nats by which scaling the means changes the KL; one dimension that is put to use changes it by 1


class Collapse(NamedTuple):
    """Which dimensions carry how much, D of them, in nats; the KL is in closed form, so the data are all its error."""

    kl: Tensor  # E KL(q(z_d | x) || p(z_d)), (D,)
    std_error: Tensor  # of kl over data, (D,)
    epsilon: Tensor  # what a collapsed dimension's KL is below, (E,)
    delta: float  # for all but which share of data
    share: Tensor  # of data whose KL is below epsilon, (E, D)
    collapsed: Tensor  # whether that is at least 1 - delta, (E, D)
    active: ActiveUnits  # those whose posterior mean moves with x


class EffectiveBeta(NamedTuple):
    """The weight of the KL to which q(z | x) is adapted; NaN where z is collapsed, so that nothing depends on it."""

    value: float
    std_error: float  # of value, over draws and data
    location: float  # by the posterior means alone
    scale: float  # by the posterior scales alone; where the two differ much, it is not beta that q(z | x) is off by


def collapse(vae: VAE, x: Tensor, epsilon: Sequence[float] = (0.001, 0.01, 0.1), delta: float = 0.01) -> Collapse:
    """(epsilon, delta)-collapse: the share of data with KL(q(z_d | x) || p(z_d)) < epsilon is at least 1 - delta.

    Args:
        vae: the model, whose p(z) and q(z | x) factorise over dimensions, with a KL in closed form.
        x: data, `(N, *event)`, at least two.
        epsilon: in nats, each positive.
        delta: share of data, at least 0 and below 1.

    Raises:
        ValueError: if there is no KL of each dimension, a single datum, or an epsilon or delta out of range.

    References:
        Lucas et al. (2019), Don't blame the ELBO!, definition 1, https://arxiv.org/abs/1911.02469
        Burda et al. (2016), Importance weighted autoencoders, section 5.2, https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> with torch.no_grad():
        ...     model.weight[:, 1] = 0  # of no use to x
        >>> model.solve_encoder()
        >>> found = collapse(model.vae, model.sample(100), epsilon=[0.01])
        >>> found.collapsed, found.active.value
        (tensor([[False,  True]]), 1)
    """
    if not epsilon or not all(e > 0 for e in epsilon):
        raise ValueError(f"epsilon must be positive numbers of nats, not {list(epsilon)}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be a share of data, at least 0 and below 1, not {delta}")
    vae.check(x)
    active = active_units(vae, x)  # refuses a single datum
    kl = kl_of_each(vae, x)  # (N, D)
    if kl is None:
        with evaluating(vae), isolated(0):
            families = family(vae.encode(x[:1].to(next(vae.parameters()).device))), family(vae.prior())
        raise ValueError(
            "q(z | x) ({}) and p(z) ({}) have no KL of each dimension in closed form: evaluation.active_units counts "
            "dimensions of any z, diagnostics.information tells what all carry together".format(*families)
        )
    bounds = kl.new_tensor(epsilon)
    share = (kl < bounds[:, None, None]).double().mean(1)
    std_error = kl.std(0) / math.sqrt(len(kl))
    return Collapse(kl.mean(0), std_error, bounds, delta, share, share >= 1 - delta, active)


def effective_beta(vae: VAE, x: Tensor, num_samples: int = 64, seed: int = 0) -> EffectiveBeta:
    """The b under which q(z | x) is best for E_q[log p(x | z)] - b KL(q(z | x) || p(z)), as its derivatives tell.

    Where training has come to its end, the derivatives of both terms cancel in any direction in which q(z | x) can
    move, so b = d E_q[log p(x | z)] / d KL. The direction is that of less KL: with m = E_q[z | x] and m_0 = E[z], z
    moves by v = -(m - m_0) + (z - m), the means towards the prior's, the scales outwards, for which

        d E_q[log p(x | z)] = E_q[v . d/dz log p(x | z)],   d KL = -E_q[v . d/dz log p(z) + div v].

    Its two parts alone give `location` and `scale`. Take the training data: on others q(z | x) is not at its best for
    any b. A b other than 1 may be due to beta, and as well to free bits, a warm-up or a training that was cut short, or
    a bound other than the ELBO: IWAE's q(z | x) is wider than the ELBO's, as is that of a beta above 1. The error is
    not that of training, whose noise leaves q(z | x) off the mark where the learning rate is large to the end.

    Args:
        vae: the model, of z in R^D.
        x: training data, `(N, *event)`, at least two.
        num_samples: draws for each datum.
        seed: of the draws.

    Raises:
        ValueError: for z that is no density on R^D, a prior that is made of the encoder, or a single datum.

    References:
        Higgins et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl
        Lucas et al. (2019), Don't blame the ELBO!, https://arxiv.org/abs/1911.02469

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()  # the best q(z | x) for the ELBO, b = 1
        >>> effective_beta(model.vae, model.sample(1000)).value
        0.99
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    if len(x) < 2:
        raise ValueError(f"a standard error over data needs at least two of them, not {len(x)}")
    if hasattr(vae.prior, "join"):
        raise ValueError(
            f"{type(vae.prior).__name__} is made of the encoder and moves with it, so the KL has no derivative by "
            f"q(z | x) alone: effective_beta needs a prior of its own"
        )
    vae.check(x)
    size = max(_CHUNK // (num_samples * decoded_size(vae, x)), 1)
    device = next(vae.parameters()).device
    with evaluating(vae), isolated(seed, "effective beta"), unvalidated():
        slopes = torch.cat([_slopes(vae, part.to(device), num_samples) for part in x.split(size)], -1)
    reconstruction, kl = slopes  # (2, N) each: by the means, by the scales
    if kl[0].mean().abs() < _MOVED:
        return EffectiveBeta(*[math.nan] * 4)
    (value, std_error), (location, _), (scale, _) = (
        _ratio(r, k) for r, k in ((reconstruction.sum(0), kl.sum(0)), *zip(reconstruction, kl, strict=True))
    )
    return EffectiveBeta(value, std_error, location, scale)


def _slopes(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    """d E_q[log p(x | z)] and d KL(q(z | x) || p(z)), by the means and by the scales, `(2, 2, B)`."""
    q, p = vae.encode(x), vae.prior()
    if is_point(q) or not describe(q.support) == describe(p.support) == "R^D":
        raise ValueError(
            f"means and scales are to be moved, but q(z | x) ({family(q)}) or p(z) ({family(p)}) is no density on R^D"
        )
    z = q.sample((num_samples,)).requires_grad_()
    with torch.enable_grad():
        (by_x,) = torch.autograd.grad(vae.likelihood(z).log_prob(x).sum(), z)
        (by_p,) = torch.autograd.grad(p.log_prob(z).sum(), z)
    (m, _), (m_0, _) = moments(q), moments(p)
    z = z.detach()
    directions = torch.stack([(m_0 - m).expand_as(z), z - m])  # (2, K, B, D)
    divergence = z.new_tensor([0.0, z.shape[-1]])[:, None]
    by_x, by_p = ((directions * g).sum(-1).mean(1) for g in (by_x, by_p))  # (2, B)
    return torch.stack([by_x, -by_p - divergence]).double()


def _ratio(reconstruction: Tensor, kl: Tensor) -> tuple[float, float]:
    """sum r / sum k of N data, and its standard error by the delta method."""
    value = reconstruction.sum() / kl.sum()
    error = (reconstruction - value * kl).std() / math.sqrt(len(kl)) / kl.mean().abs()
    return value.item(), error.item()


def verdict(
    information: Information,
    collapse: Collapse | None = None,
    beta: EffectiveBeta | None = None,
    approximation_gap: float | None = None,
    amortisation_gap: float | None = None,
    bad_k_share: float | None = None,
) -> list[str]:
    """What the numbers say of a model, and what to try, a sentence or two for each finding.

    It tells nothing of whether p(x | z) is of the right kind: that takes data drawn from the model, beside real ones.

    Args:
        information: from `information`.
        collapse: from `collapse`, for what is known of single units.
        beta: from `effective_beta`, of training data.
        approximation_gap: mean of log p(x) - L[q*], q* being the best of the posterior's family, in nats.
        amortisation_gap: mean of L[q*] - L[q], in nats.
        bad_k_share: share of data whose importance weights have a Pareto k-hat above 0.7.

    Returns:
        The findings, or one that says that there is no fault.

    References:
        Hoffman and Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Cremer et al. (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558
        Yao et al. (2018), Yes, but did it work?, https://arxiv.org/abs/1802.02538

    Example:
        >>> from pyrovae.diagnostics.gaps import Mean
        >>> rate, mutual, aggregate = Mean(5.2, 0.01, 0.05), Mean(3.5, 0.01, 0.04), Mean(1.7, 0.01, 0.02)
        >>> print(*verdict(Information(rate, mutual, aggregate, num_data=1000)))
        KL(q(z) || p(z)) is 1.70 nats: draws of the prior fall where no data are encoded. Try a prior that learns where
        they are: VampPrior, MixtureOfNormals, or a flow.
    """
    found = [*_of_units(information, collapse), *_of_aggregate(information)]
    if beta is not None and not math.isnan(beta.value):
        found += _of_beta(beta)
    if approximation_gap is not None and approximation_gap > _GAP:
        found.append(
            f"The approximation gap is {approximation_gap:.2f} nats: no posterior of this family is near p(z | x). Try "
            f"a richer one, such as encoders.FullRankNormal or a flow."
        )
    if amortisation_gap is not None and amortisation_gap > _GAP:
        found.append(
            f"The amortisation gap is {amortisation_gap:.2f} nats: the encoder misses the best posterior of its "
            f"family. Try a larger or longer trained encoder, or encoders.SemiAmortized."
        )
    if bad_k_share is not None and bad_k_share > _UNRELIABLE:
        found.append(
            f"For {bad_k_share:.0%} of the data k-hat is above 0.7: importance sampling of their log p(x) fails. Try a "
            f"posterior with wider tails, as IWAE learns, or annealed importance sampling."
        )
    return found or [f"{_summary(information, collapse)}: no fault found."]


def _summary(information: Information, collapse: Collapse | None) -> str:
    rate = f"{round(information.rate.value, 2) + 0:g} nats"  # with no -0
    return f"{collapse.active.value} of {len(collapse.kl)} units active, rate {rate}" if collapse else f"Rate {rate}"


def _of_units(information: Information, collapse: Collapse | None) -> list[str]:
    """Units that carry nothing, and those that carry too much."""
    rate, summary = information.rate.value, _summary(information, collapse)
    active, units = (collapse.active.value, len(collapse.kl)) if collapse else (1, 1)
    remedies = "Try a warm-up of the KL, free bits, or a weaker decoder."
    if rate < _EMPTY or active == 0:
        return [f"{summary}: collapsed, z tells next to nothing of x. {remedies}"]
    found = []
    if collapse and rate > _SHARP * active:
        found.append(
            f"{summary}, {rate / active:.1f} for each: q(z | x) is a needle beside p(z), as where the scale of "
            f"p(x | z) is tiny. Try a larger scale, dequantized data, or a larger latent_dim."
        )
    if active <= _FEW * units:
        found.append(f"{summary}: collapsed, but for these. {remedies}")
    elif active < units:
        found.append(
            f"{summary}: partly collapsed, which is no fault where x needs no more. Try a smaller latent_dim; if "
            f"log p(x) falls, free bits or a warm-up of the KL."
        )
    return found


def _of_aggregate(information: Information) -> list[str]:
    """Where the data are encoded, seen from the prior."""
    aggregate = information.aggregate_kl
    if information.at_ceiling:
        return [
            f"The mutual information, {information.mutual_information.value:.2f} nats, is at its ceiling log N = "
            f"{information.ceiling:.2f}: {information.num_data} data are too few to tell q(z) from spikes, so "
            f"KL(q(z) || p(z)) counts for nothing. Take more data."
        ]
    if aggregate.value - 2 * aggregate.sampling_error > _HOLES:
        return [
            f"KL(q(z) || p(z)) is {aggregate.value:.2f} nats: draws of the prior fall where no data are encoded. Try a "
            f"prior that learns where they are: VampPrior, MixtureOfNormals, or a flow."
        ]
    return []


def _of_beta(beta: EffectiveBeta) -> list[str]:
    """A KL that was weighted in training."""
    if 1 / _OFF < beta.value < _OFF or abs(beta.value - 1) < _SURE * beta.std_error:
        return []
    causes = (
        "a beta above 1, or a bound such as IWAE's, whose posterior is wider"
        if beta.value > 1
        else "a beta below 1, free bits, or a warm-up or training that was cut short"
    )
    return [
        f"q(z | x) is as for a KL of weight {beta.value:.2f} +- {beta.std_error:.2f}, not 1 ({beta.location:.2f} by "
        f"its means, {beta.scale:.2f} by its scales): {causes}. Train on with weight 1, at least the encoder."
    ]
