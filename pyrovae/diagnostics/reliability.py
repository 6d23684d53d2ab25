"""Reliability of q(z | x): are its importance weights tame enough to be trusted, datum by datum?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.draws import is_point
from pyrovae.evaluation import _terms, encoded, evaluating, log_mean_weight
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Reliability", "Shares", "reliability"]

_FEWEST = 25  # draws, whose largest fifth are the 5 that a fit needs
_EQUAL = 0.1  # nats: weights this close together do no harm whatever their tail, and in float32 it may be rounding
_LOWEST = 600.0  # nats: what is this far below the largest weight is nothing in float64, and no fit can tell its shape


class Shares(NamedTuple):
    """The shares of the data by Pareto k-hat, which sum to 1."""

    good: float  # below the threshold
    bad: float  # from there to 1: the mean of the weights exists, but more draws hardly help
    very_bad: float  # above 1: the weights have no mean; or NaN


class Reliability(NamedTuple):
    """What the tail of the importance weights w_k = p(x, z_k) / q(z_k | x) says of q(z | x), for each datum."""

    # k-hat, the tail's shape, `(N,)`: w has moments up to the order 1 / k. It is -inf for weights that hardly differ,
    # inf where most are too small beside the largest for floating point, NaN where a weight is.
    pareto_k: Tensor
    std_error: Tensor  # of pareto_k, `(N,)`, asymptotic
    ess: Tensor  # effective number of draws, (sum w)^2 / sum w^2, of K, `(N,)`; far too large where k-hat is bad
    threshold: float  # min(1 - 1 / log10 K, 0.7), below which pareto_k is good

    @property
    def shares(self) -> Shares:
        """The shares of the data whose k-hat is good, bad and very bad."""
        good, very_bad = self.pareto_k < self.threshold, ~(self.pareto_k <= 1)
        share = [t.double().mean().item() for t in (good, ~(good | very_bad), very_bad)]
        return Shares(*share)


def reliability(vae: VAE, x: Tensor, num_samples: int = 1000, seed: int = 0) -> Reliability:
    """Pareto k-hat of the importance weights of each datum, by Pareto smoothed importance sampling, and their ESS.

    A generalised Pareto distribution of shape k is fitted to the largest M = min(K / 5, 3 K^(1/2)) of K weights. It is
    large for a q that is too narrow somewhere; then the estimate of log p(x) from this q, its standard error and its
    ESS are not to be trusted, nor is q as an approximation of p(z | x). A k-hat that is good says nothing of modes that
    no draw has found.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        num_samples: K, draws for each datum, at least 25.
        seed: of the draws, which are those of `evaluation.log_likelihood` for as many.

    Raises:
        ValueError: if there are too few draws; if z is discrete or a point, so that the weights have no such tail.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646
        Yao et al. (2018), Yes, but did it work?: Evaluating variational inference, https://arxiv.org/abs/1802.02538
        Smith (1987), Estimating tails of probability distributions, of the standard error,
        https://doi.org/10.1214/aos/1176350499

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> reliability(model.vae, model.sample(20)).shares.very_bad
        0.0
    """
    if num_samples < _FEWEST:
        raise ValueError(f"num_samples must be at least {_FEWEST}, for a tail to fit, not {num_samples}")
    with evaluating(vae), isolated(seed):
        (q,) = encoded(vae, x[:1])
    if is_point(q) or q.support.is_discrete:
        kind = "a point" if is_point(q) else "discrete"
        raise ValueError(
            f"z is {kind}, so that its importance weights have no continuous tail to fit a Pareto distribution to"
        )
    tail = math.floor(min(num_samples / 5, 3 * math.sqrt(num_samples)))
    batches = []
    for reconstruction, kl in _terms(vae, x, num_samples, seed, compile=False):
        log_weight = (reconstruction - kl).double()  # (K, B)
        batches.append(torch.stack([_pareto_k(log_weight, tail), log_mean_weight(log_weight).ess]))
    pareto_k, ess = torch.cat(batches, -1)
    # (1 + k) / M^(1/2) from M weights, shrunk by ArviZ's prior worth 10 more; below -1/2, where that ends, as there.
    std_error = (1 + pareto_k).clamp(min=0.5) * math.sqrt(tail) / (tail + 10)
    return Reliability(pareto_k, std_error, ess, min(1 - 1 / math.log10(num_samples), 0.7))


def _pareto_k(log_weight: Tensor, tail: int) -> Tensor:
    """k-hat of log-weights `(K, B)` from the largest `tail` of them: `(B,)`."""
    from arviz_stats.base import array_stats  # here, as it takes long

    largest = log_weight.amax(0)
    spread = largest - log_weight.amin(0)  # NaN if one of the weights is
    k = torch.where(spread <= _EQUAL, -math.inf, spread * math.nan)
    underflow = log_weight.topk(3 * tail // 4, 0).values[-1] < largest - _LOWEST
    k[underflow] = math.inf
    fit = (spread > _EQUAL) & ~underflow
    if fit.any():
        # ArviZ takes the logarithms of what weights divide by, as in leave-one-out cross-validation.
        _, found = array_stats.psislw(-log_weight[:, fit].T.cpu().numpy())
        k[fit] = torch.as_tensor(found).to(k)
    return k
