"""Latent arithmetic: to give data an attribute, add the difference that it makes to the codes of others."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Share", "attribute_vector", "share"]


class Share(NamedTuple):
    """A share of n data with its interval of Clopper and Pearson."""

    value: float
    low: float
    high: float


def attribute_vector(z: Tensor, labels: Tensor, minus: int, plus: int) -> Tensor:
    """E[z | plus] - E[z | minus], of codes by their labels: what leads from data of one class to those of another.

    Args:
        z: codes, such as `diagnostics.latent_means` of training data, `(N, D)`.
        labels: of each, `(N,)`.
        minus: the label that it leads away from.
        plus: the label that it leads to.

    Returns:
        The vector, `(D,)`.

    Raises:
        ValueError: if no datum has one of the labels.

    References:
        Larsen et al. (2016), Autoencoding beyond pixels using a learned similarity metric,
        https://arxiv.org/abs/1512.09300
        White (2016), Sampling generative networks, https://arxiv.org/abs/1609.04468

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 1.0]])
        >>> attribute_vector(z, torch.tensor([3, 3, 8]), minus=3, plus=8).tolist()
        [5.0, 0.0]
    """
    labels = labels.to(z.device)
    for label in (minus, plus):
        if not (labels == label).any():
            raise ValueError(
                f"no datum has the label {label}: take one of {', '.join(map(str, labels.unique().tolist()))}"
            )
    return z[labels == plus].mean(0) - z[labels == minus].mean(0)


def share(hits: Tensor, level: float = 0.95) -> Share:
    """The share of true ones, and the exact interval of their probability.

    Args:
        hits: truth values, `(N,)`, at least one.
        level: of the interval.

    References:
        Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial,
        https://doi.org/10.1093/biomet/26.4.404

    Example:
        >>> import torch
        >>> share(torch.tensor([True] * 8 + [False] * 2))
        Share(value=0.8000, low=0.4439, high=0.9748)
    """
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits))
    low, high = found.proportion_ci(level)
    return Share(found.statistic, float(low), float(high))
