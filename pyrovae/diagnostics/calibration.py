"""Simulation-based calibration: is z ~ p(z), from which x was drawn, a typical draw of q(z | x)?"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from scipy.special import chdtrc
from torch import Tensor
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.draws import is_point
from pyrovae.evaluation import _CHUNK, decoded_size, evaluating
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Calibration", "calibration", "simulated", "uniform_ranks"]


class Calibration(NamedTuple):
    """How the z of N simulated data lie among L draws of q(z | x), for each dimension of z."""

    ranks: Tensor  # how many of the draws lie below z_d, 0 ... L, `(N, D)`; uniform for the exact posterior
    chi_square: Tensor  # of the ranks' histogram against a uniform one, `(D,)`
    p_value: Tensor  # of chi_square, `(D,)`; to judge all at once, compare the least with the level / D
    levels: Tensor  # `(C,)`
    coverage: Tensor  # share of the z_d in q's central credible interval of each level, `(C, D)`; levels if calibrated
    std_error: Tensor  # of coverage if it is that of the level, `(C, 1)`
    mean_std_error: Tensor  # of the mean of coverage over dimensions, which may depend on each other, `(C,)`


def calibration(
    vae: VAE,
    num_data: int = 1000,
    num_draws: int = 199,
    num_bins: int = 20,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    seed: int = 0,
) -> Calibration:
    """Ranks of z*_d among z_1d ... z_Ld, for z* ~ p(z), x ~ p(x | z*) and z_l ~ q(z | x), N times.

    If q(z | x) is p(z | x), each rank is uniform on 0 ... L. A q that is too narrow gives too many ranks at both ends,
    one too wide in the middle, and a biased one at one end. Where draws are equal to z*, its rank is drawn among
    theirs, which keeps it uniform for discrete z too.

    The data are the model's own: this tests q, whatever p is, but for real data as far alone as the model's are like
    them. Uniform ranks are necessary, not sufficient: q(z | x) = p(z) has them too.

    Args:
        vae: the model.
        num_data: N, at least 5 for each bin.
        num_draws: L; L + 1 has to be a multiple of the number of bins.
        num_bins: of the histogram of ranks, at least 2.
        levels: of the credible intervals; (1 - level) / 2 has to be a multiple of 1 / (L + 1), so that they are exact.
        seed: of all draws.

    Raises:
        ValueError: if the numbers do not fit together, or the encoder gives a point.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration,
        https://arxiv.org/abs/1804.06788

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian.maximum_likelihood(LinearGaussian().sample(1000), latent_dim=2)
        >>> found = calibration(model.vae)  # of the exact posterior
        >>> bool((found.p_value > 0.001).all())
        True
    """
    tails = [(1 - level) / 2 * (num_draws + 1) for level in levels]  # ranks on each side of an interval
    _check(num_data, num_draws, num_bins, levels, tails)
    ranks = torch.cat([uniform_ranks(z, draws) for z, _, draws in simulated(vae, num_data, num_draws, seed)])
    counts = torch.nn.functional.one_hot(ranks * num_bins // (num_draws + 1), num_bins).sum(0).double()  # (D, num_bins)
    expected = num_data / num_bins
    chi_square = ((counts - expected).square() / expected).sum(-1)
    tail = torch.tensor(tails, device=ranks.device).round()[:, None, None]  # (C, 1, 1)
    level = torch.tensor(levels, dtype=torch.double, device=ranks.device)
    covered = ((ranks >= tail) & (ranks <= num_draws - tail)).double()  # (C, N, D)
    return Calibration(
        ranks=ranks,
        chi_square=chi_square,
        p_value=torch.as_tensor(chdtrc(num_bins - 1, chi_square.cpu().numpy())).to(chi_square),
        levels=level,
        coverage=covered.mean(1),
        std_error=(level * (1 - level) / num_data).sqrt()[:, None],
        mean_std_error=covered.mean(2).std(1) / math.sqrt(num_data),
    )


def simulated(vae: VAE, num_data: int, num_draws: int, seed: int) -> Iterator[tuple[Tensor, TorchDistribution, Tensor]]:
    """z* ~ p(z), `(B, D)`, q(z | x) of x ~ p(x | z*), and draws of it, `(L, B, D)`, N times in all, some at a time.

    What is drawn between the parts is drawn under the seed, too.

    Args:
        vae: the model.
        num_data: N.
        num_draws: L.
        seed: of all draws.

    Raises:
        ValueError: if the encoder gives a point.
    """
    with evaluating(vae), unvalidated(), isolated(seed, "calibration"):
        size = max(
            math.prod(vae.prior().event_shape) * num_draws, decoded_size(vae, vae.sample(1))
        )  # of what a z* takes
        parts = torch.arange(num_data).split(max(_CHUNK // size, 1))
        for part in tqdm(parts, unit=" batches", delay=3, disable=None, leave=None):
            z = vae.prior().sample((len(part),))
            q = vae.encode(vae.likelihood(z).sample())
            if is_point(q):
                raise ValueError(
                    f"{type(vae.encoder).__name__} gives a point, which has no spread, and so no ranks or credible "
                    f"intervals"
                )
            yield z, q, q.sample((num_draws,))


def uniform_ranks(t: Tensor, draws: Tensor) -> Tensor:
    """How many of L draws lie below t, with the rank drawn among those equal to it: uniform if t is such a draw.

    Args:
        t: values, `(...)`.
        draws: `(L, ...)`.
    """
    below, equal = (draws < t).sum(0), (draws == t).sum(0)
    return below + (torch.rand(equal.shape, device=t.device) * (equal + 1)).long()


def _check(num_data: int, num_draws: int, num_bins: int, levels: Sequence[float], tails: Sequence[float]) -> None:
    if num_bins < 2 or (num_draws + 1) % num_bins:
        raise ValueError(
            f"num_bins must be at least 2 and divide num_draws + 1, so that bins are equally likely, but {num_bins} "
            f"does not divide {num_draws + 1}"
        )
    if num_data < 5 * num_bins:
        raise ValueError(
            f"num_data must be at least 5 for each of the {num_bins} bins, as chi-square is no limit for fewer, not "
            f"{num_data}"
        )
    for level, tail in zip(levels, tails, strict=True):
        if not 0 < level < 1 or abs(tail - round(tail)) > 1e-6 or round(tail) == 0:
            raise ValueError(
                f"a level must be in (0, 1) and leave a whole number of the {num_draws + 1} ranks on each side, at "
                f"least 1, but {level} leaves {tail:.3g}: take another level or num_draws"
            )
