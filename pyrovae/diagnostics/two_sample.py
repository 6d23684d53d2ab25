"""A two-sample test: are these samples and those data of one distribution?"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.rng import isolated

__all__ = ["TwoSample", "two_sample"]


_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


class TwoSample(NamedTuple):
    """The squared maximum mean discrepancy between two samples, and what it is between parts of both at random."""

    value: float  # MMD^2, unbiased: 0 on average if they are
    p_value: float  # share of permutations with as large a value, or larger
    permuted: Tensor  # MMD^2 of each permutation, `(R,)`


def two_sample(x: Tensor, y: Tensor, num_permutations: int = 500, seed: int = 0) -> TwoSample:
    """MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), k(a, b) = mean_h exp(-|a - b|^2 / 2 h^2), tested by permutations.

    The h are 1/4, 1/2, 1, 2 and 4 of the median distance within the pooled sample, so that differences of any width
    are seen. Permutations leave it as it is, so the level is exact.

    Args:
        x: one sample, `(N, *event)`.
        y: the other, `(M, *event)`.
        num_permutations: R; no p-value is below 1 / (R + 1).
        seed: of the permutations.

    Raises:
        ValueError: if the data differ in shape, or a sample has fewer than two.

    References:
        Gretton et al. (2012), A kernel two-sample test, https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> x, y = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> two_sample(x, y).p_value > 0.05, two_sample(x, 2 * y).p_value
        (True, 0.001996)
    """
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"two samples are compared of at least two data each, alike in shape, not {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    n, m = len(x), len(y)
    pooled = torch.cat([x, y.to(x)]).flatten(1).double()
    distances = torch.cdist(pooled, pooled)  # (N + M, N + M)
    median = distances[~torch.eye(n + m, dtype=torch.bool, device=x.device)].median().clamp(min=1e-30)
    kernel = sum((-0.5 * (distances / (h * median)) ** 2).exp() for h in _WIDTHS) / len(_WIDTHS)
    kernel.fill_diagonal_(0)

    def mmd(first: Tensor) -> Tensor:
        """Of many divisions, whose first sample is marked by ones, `(R, N + M)`."""
        second = 1 - first
        among_first, among_second = ((s @ kernel * s).sum(1) for s in (first, second))
        between = (first @ kernel * second).sum(1)
        return among_first / (n * (n - 1)) + among_second / (m * (m - 1)) - 2 * between / (n * m)

    first = (torch.arange(n + m, device=x.device) < n).to(kernel)
    with isolated(seed, "permutations"):
        orders = torch.rand(num_permutations, n + m, dtype=kernel.dtype).argsort(1).to(x.device)
    permuted = torch.cat([mmd(first[part]) for part in orders.split(100)])
    value = mmd(first[None]).item()
    return TwoSample(value, (1 + (permuted >= value).sum().item()) / (1 + num_permutations), permuted)
