"""Predictive checks: does the model give data like those that it was fitted to?"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.evaluation import _CHUNK, decoded_size, encoded, evaluating
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["COUNTS", "IMAGES", "TABLES", "Check", "predictive_checks", "replicate", "statistics_of"]

Statistic = Callable[[Tensor], Tensor]  # of data `(N, *event)`, a number


class Check(NamedTuple):
    """A test statistic T of the data, and of data sets that the model gives."""

    observed: float  # T(x)
    replicated: Tensor  # T(x') of R data sets x', `(R,)`
    # two-sided: twice the share of T(x') as extreme as T(x), or more, on the side where there are fewer; NaN where not
    # all of them are finite
    p_value: float


def _roughness(x: Tensor) -> Tensor:
    """E|x_i - x_j| of neighbouring pixels."""
    return (x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()) / 2


def _standardized(x: Tensor) -> Tensor:
    x = x.flatten(1)
    return (x - x.mean(0)) / x.std(0).clamp(min=torch.finfo(x.dtype).eps)


def _correlation(x: Tensor) -> Tensor:
    """The mean of |r| over pairs of columns."""
    z = _standardized(x)
    return (z.T @ z / (len(z) - 1)).abs().triu(1).sum() / (z.shape[1] * (z.shape[1] - 1) / 2)


IMAGES: Mapping[str, Statistic] = {
    "mean": lambda x: x.mean(),
    "spread of the image's mean": lambda x: x.flatten(1).mean(1).std(),
    "share of zeros": lambda x: (x == 0).to(x).mean(),
    "share of ones": lambda x: (x == 1).to(x).mean(),
    "roughness": _roughness,
}
COUNTS: Mapping[str, Statistic] = {
    "mean": lambda x: x.mean(),
    "share of zeros": lambda x: (x == 0).to(x).mean(),
    "dispersion": lambda x: (x.flatten(1).var(0) / x.flatten(1).mean(0).clamp(min=torch.finfo(x.dtype).eps)).mean(),
    "maximum": lambda x: x.max(),
}
TABLES: Mapping[str, Statistic] = {
    "mean": lambda x: x.mean(),
    "standard deviation": lambda x: x.flatten(1).std(0).mean(),
    "skewness": lambda x: _standardized(x).pow(3).mean(),
    "kurtosis": lambda x: _standardized(x).pow(4).mean(),
    "correlation": _correlation,
}


def statistics_of(x: Tensor) -> Mapping[str, Statistic]:
    """`COUNTS` for whole numbers from 0, not all 0 or 1; else `IMAGES` for data `(N, C, H, W)`; else `TABLES`.

    Of a single column there is no correlation.

    Args:
        x: data, `(N, *event)`.
    """
    if (x >= 0).all() and (x == x.round()).all() and (x > 1).any():
        return COUNTS
    if x.dim() == 4:
        return IMAGES
    return {name: of for name, of in TABLES.items() if name != "correlation"} if x[0].numel() == 1 else TABLES


def predictive_checks(
    vae: VAE,
    x: Tensor,
    kind: Literal["prior", "posterior"] = "prior",
    statistics: Mapping[str, Statistic] | None = None,
    num_replications: int = 200,
    seed: int = 0,
) -> dict[str, Check]:
    """p = P(T(x') >= T(x)) for data sets x' of N data that the model gives, two-sided, for each test statistic T.

    By the prior x' ~ p(x): is the model as a whole any good? By the posterior z ~ q(z | x), x' ~ p(x' | z): does it
    describe these very data? Where data are new to the model and it is right, prior p-values are uniform; those of the
    posterior gather in the middle, as x is used twice, so that only extreme ones tell.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        kind: from where z comes.
        statistics: each a function of data `(N, *event)` that gives a number; by default `statistics_of(x)`.
        num_replications: R, data sets; no p-value is below 2 / (R + 1).
        seed: of the data sets.

    Raises:
        ValueError: if kind is neither, there are fewer than two data, or no data set is asked for.

    References:
        Rubin (1984), Bayesianly justifiable and relevant frequency calculations,
        https://doi.org/10.1214/aos/1176346785
        Gelman et al. (1996), Posterior predictive assessment of model fitness,
        https://www3.stat.sinica.edu.tw/statistica/oldpdf/A6n41.pdf

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> found = predictive_checks(model.vae, 3 * model.sample(100))
        >>> found["correlation"].p_value > 0.05, found["standard deviation"].p_value
        (True, 0.00995)
    """
    vae.check(x)
    if kind not in ("prior", "posterior"):
        raise ValueError(f"kind is 'prior' or 'posterior', not {kind!r}")
    if len(x) < 2 or num_replications < 1:
        raise ValueError(
            f"checks compare at least 2 data with at least 1 replicated data set, not {len(x)} with {num_replications}"
        )
    statistics = statistics_of(x) if statistics is None else statistics
    x = x.to(next(vae.parameters()))
    with evaluating(vae), isolated(seed, f"{kind} predictive"), unvalidated():
        parts = [*encoded(vae, x)] if kind == "posterior" else [vae.prior().expand((len(x),))]  # N in all
        replicated = [
            {name: statistic(x_new) for name, statistic in statistics.items()}
            for x_new in (replicate(vae, torch.cat([q.sample() for q in parts])) for _ in range(num_replications))
        ]
        found = {}
        for name, statistic in statistics.items():
            t, observed = torch.stack([of[name] for of in replicated]), statistic(x)
            fewer = torch.stack([(t >= observed).sum(), (t <= observed).sum()]).min().item()
            finite = t.isfinite().all() and observed.isfinite()
            p = min(1.0, 2 * (fewer + 1) / (num_replications + 1)) if finite else math.nan
            found[name] = Check(observed.item(), t, p)
    return found


def replicate(vae: VAE, z: Tensor) -> Tensor:
    """x ~ p(x | z), one for each z `(N, D)`, `(N, *event)`, as many at a time as fit in bounded memory.

    Args:
        vae: the model.
        z: latent variables.
    """
    at_once = max(_CHUNK // decoded_size(vae, vae.likelihood(z[:1]).mean), 1)
    return torch.cat([vae.likelihood(part).sample() for part in z.split(at_once)])
