"""Bits per dimension: log p(x) as the probability of a datum, in a unit that data of all sizes share."""

import math

from pyrovae.data import Protocol
from pyrovae.likelihoods.likelihood import Likelihood

__all__ = ["NO_PROBABILITY", "bits_per_dimension", "log_cell"]

NO_PROBABILITY = (
    "p(x) is a density at values that were not dequantized, which can be made as large as one likes and is no "
    "probability of a datum"
)


def log_cell(likelihood: Likelihood, protocol: Protocol, shape: tuple[int, ...] | None = None) -> float | None:
    """log v, for which log p(x) + log v is a log-probability of a datum or bounds one; None where there is none.

    A likelihood of probabilities has v = 1. A density of data that were dequantized to (k + u) / n has v = n^-dims, the
    volume of a cell: by Jensen's inequality E_u[log p(x)] + log v <= log int_cell p(x) dx = log P(k).

    Args:
        likelihood: p(x | z), of which the support alone matters.
        protocol: of the data.
        shape: of the x that p(x | z) is of; unless given, of the whole datum.

    References:
        Theis et al. (2016), A note on the evaluation of generative models, section 3.1, https://arxiv.org/abs/1511.01844

    Example:
        >>> from pyrovae import data, likelihoods
        >>> log_cell(likelihoods.Normal, data.load("digits", dequantize=True).protocol)  # 64 pixels of 17 levels
        -181.33
    """
    if likelihood.support.is_discrete:
        return 0.0
    return -math.prod(shape or protocol.shape) * math.log(protocol.levels) if protocol.dequantize else None


def bits_per_dimension(log_probability: float, shape: tuple[int, ...]) -> float:
    """-log P(x) / (dims ln 2), smaller is better: an upper bound on it, if log P(x) is a lower bound.

    Args:
        log_probability: log P(x), in nats, of a datum, or a mean over data.
        shape: of a datum.

    Example:
        >>> bits_per_dimension(-64 * math.log(256), (1, 8, 8))  # what storing bytes takes
        8.0
    """
    return -log_probability / (math.prod(shape) * math.log(2))
