"""Uncertainty: what q(z | x) and p(x | z) leave open about x, and whether regions of z hold as much as they say."""

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from scipy.stats import binomtest
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.diagnostics.calibration import simulated, uniform_ranks
from pyrovae.draws import scores_any
from pyrovae.evaluation import _CHUNK, decoded_size, encoded, evaluating
from pyrovae.model import Model
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["LEVELS", "Coverage", "Predictive", "predictive", "predictive_coverage", "region_coverage"]

LEVELS = tuple(k / 20 for k in range(1, 20))


class Predictive(NamedTuple):
    """Moments of each element of x' ~ p(x' | x) = E_q[p(x' | z)], for each datum, `(N, *event)` each."""

    mean: Tensor  # E_q E[x' | z]
    between: Tensor  # Var_q E[x' | z]: of what q(z | x) leaves open
    within: Tensor  # E_q Var[x' | z]: of what p(x | z) leaves open whatever z

    @property
    def variance(self) -> Tensor:
        """Var[x'], by the law of total variance the sum of the two."""
        return self.between + self.within


class Coverage(NamedTuple):
    """How often regions of nominal levels hold what they are for, with a 95 % interval for each share."""

    levels: Tensor  # (C,)
    share: Tensor  # (C,)
    low: Tensor  # (C,)
    high: Tensor  # (C,)


def predictive(vae: Model, x: Tensor, num_draws: int = 200, seed: int = 0) -> Predictive:
    """Mean and variance of x' ~ p(x' | x) = E_q[p(x' | z)], Var[x'] = Var_q E[x' | z] + E_q Var[x' | z].

    Estimates without a bias from K draws of z; a likelihood that does not know its variance is drawn from, once for
    each z.

    Args:
        vae: the model, of one vector z.
        x: data, `(N, *event)`.
        num_draws: K, draws of z for each datum, at least 2.
        seed: of the draws.

    Raises:
        ValueError: if there is no finite variance, or there are fewer than two draws.

    References:
        Depeweg et al. (2018), Decomposition of uncertainty in Bayesian deep learning,
        https://arxiv.org/abs/1710.07283

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5, scale=0.5)
        >>> predictive(model.vae, model.sample(3)).within[0]
        tensor([0.25, 0.25, 0.25, 0.25, 0.25], ...)
    """
    if num_draws < 2:
        raise ValueError(f"a variance needs at least two draws of z, not {num_draws}")
    vae.check(x)
    parts = []
    at_once = max(_CHUNK // (num_draws * decoded_size(vae, x)), 1)
    with evaluating(vae), isolated(seed, "predictive"), unvalidated():
        for q in encoded(vae, x, at_once):
            p = vae.likelihood(q.sample((num_draws,)))
            mean = p.mean  # (K, B, *event)
            parts.append(Predictive(mean.mean(0), mean.var(0), _variance(p).mean(0)))
    found = Predictive(*(torch.cat(t).cpu() for t in zip(*parts, strict=True)))
    if not found.variance.isfinite().all():
        raise ValueError(
            f"{type(vae.likelihood).__name__} has no finite variance here: for Student's t take more than 2 degrees of "
            f"freedom, --likelihood.df"
        )
    return found


def _variance(p: TorchDistribution) -> Tensor:
    """Var[x' | z], or a draw of (x' - E[x' | z])^2, of which it is the mean."""
    try:
        return p.variance
    except NotImplementedError:
        return (p.sample() - p.mean).square()


def predictive_coverage(
    vae: Model, x: Tensor, levels: Sequence[float] = LEVELS, num_draws: int = 199, seed: int = 0
) -> Coverage:
    """The share of elements x_i within the central interval of x'_i ~ p(x'_i | x) of each level.

    An interval is of ranks among L draws, where x_i is equal to draws a rank among theirs: so that shares are those of
    the levels, whatever the distribution, if x' and x are alike. As x is used twice, for z and as what is told, fewer
    lie outside where the model is right; more outside tell of a model, or a q, that is too sure of itself.
    The intervals are of so many data, whose elements may depend on each other.

    Args:
        vae: the model, of one vector z.
        x: data, `(N, *event)`, at least 2.
        levels: of the intervals.
        num_draws: L; (1 - level) / 2 is best a multiple of 1 / (L + 1).
        seed: of the draws.

    References:
        Czado et al. (2009), Predictive model assessment for count data, of ranks among what is equal,
        https://doi.org/10.1111/j.1541-0420.2009.01191.x
    """
    vae.check(x)
    shares = []
    at_once = max(_CHUNK // (num_draws * decoded_size(vae, x)), 1)
    level = torch.tensor(levels)
    with evaluating(vae), isolated(seed, "predictive coverage"), unvalidated():
        for q, part in zip(encoded(vae, x, at_once), x.split(at_once), strict=True):
            draws = vae.likelihood(q.sample((num_draws,))).sample()  # (L, B, *event)
            ranks = uniform_ranks(part.to(draws), draws).flatten(1).cpu()  # 0 ... L
            off = (2 * ranks - num_draws).abs()[..., None]  # from the middle
            shares.append((off < level * (num_draws + 1)).double().mean(1))  # (B, C)
    share = torch.cat(shares)
    error = 1.96 * share.std(0) / len(x) ** 0.5
    return Coverage(level, share.mean(0), share.mean(0) - error, share.mean(0) + error)


def region_coverage(
    vae: VAE, num_data: int = 1000, levels: Sequence[float] = LEVELS, num_draws: int = 199, seed: int = 0
) -> Coverage:
    """How often z* is in the region of highest density q(z | x) of each level, for z* ~ p(z), x ~ p(x | z*).

    The region of level c holds the share c of q(z | x), and no z outside of it has a higher density; z* is in it if
    less than c of the draws of q have a higher density than z*. For q(z | x) = p(z | x) shares are those of the levels.
    Data are the model's own: this tests q, whatever p is. Intervals are Clopper's and Pearson's.

    Args:
        vae: the model.
        num_data: N.
        levels: of the regions.
        num_draws: L; a level is best a multiple of 1 / (L + 1).
        seed: of all draws.

    Raises:
        ValueError: if q(z | x) is a point, or tells its density at its own draws alone.

    References:
        Hyndman (1996), Computing and graphing highest density regions, https://doi.org/10.1080/00031305.1996.10474359
        Modrak et al. (2025), Simulation-based calibration checking for Bayesian computation: the choice of test
        quantities shapes sensitivity, https://arxiv.org/abs/2211.02383

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian.maximum_likelihood(LinearGaussian().sample(1000), latent_dim=2)
        >>> found = region_coverage(model.vae, levels=[0.5, 0.95])  # of the exact posterior
        >>> bool(((found.low < found.levels) & (found.levels < found.high)).all())
        True
    """
    ranks = []
    with closing(simulated(vae, num_data, num_draws, seed)) as parts:
        for z, q, draws in parts:
            if not scores_any(q):
                raise ValueError(
                    f"{type(vae.encoder).__name__} tells q(z | x) at its own draws alone, a region needs it at any z"
                )
            ranks.append(uniform_ranks(-q.log_prob(z), -q.log_prob(draws)).cpu())  # the draws of higher density
    level = torch.tensor(levels)
    counts = (torch.cat(ranks)[:, None] < level * (num_draws + 1) - 1e-4).sum(0).tolist()
    intervals = [binomtest(k, num_data).proportion_ci() for k in counts]  # Clopper's and Pearson's, 95 %
    low, high = torch.tensor([(i.low, i.high) for i in intervals]).T
    return Coverage(level, torch.tensor(counts) / num_data, low, high)
