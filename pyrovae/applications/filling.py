"""Filling in without a model of the data, to compare with: the means of columns, and of nearest neighbours."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

__all__ = ["Filling", "column_means", "nearest_neighbours"]

NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_SMOOTHING = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


class Filling(NamedTuple):
    """A distribution of each element by itself: Bernoulli of binary data, else normal."""

    name: str
    loc: Tensor  # mean of each element, `(N, *event)`
    scale: Tensor | None  # standard deviation of each, broadcast to that; None for a Bernoulli

    def log_score(self, x: Tensor, scored: Tensor) -> Tensor:
        """Log-density of the elements that are scored, booleans `(N, *event)`, of data x: `(N,)`, in nats."""
        known = torch.where(scored, x, 0.0)
        p = Bernoulli(self.loc) if self.scale is None else Normal(self.loc, self.scale)
        return torch.where(scored, p.log_prob(known), 0.0).flatten(1).sum(1)


def column_means(train: Tensor, x: Tensor, binary: bool) -> Filling:
    """Each element as in the training data, whatever else is known of x: its mean, and of numbers its variance.

    Of binary data the mean is (n_1 + 1) / (n + 2), so that the log score is finite.

    Args:
        train: training data, or intensities of which they are drawn, `(M, *event)`, NaN where they are missing.
        x: data, `(N, *event)`.
        binary: whether they are zeros and ones.

    Example:
        >>> column_means(torch.tensor([[0.0], [0.0], [1.0]]), torch.zeros(2, 1), binary=True).loc
        tensor([[0.4000],
                [0.4000]])
    """
    count, mean = (~train.isnan()).sum(0), train.nanmean(0)
    if binary:
        return Filling("column means", ((mean * count + 1) / (count + 2)).expand_as(x), None)
    return Filling("column means", mean.expand_as(x), _positive((train - mean).square().nanmean(0).sqrt(), train))


def nearest_neighbours(
    train: Tensor, valid: tuple[Tensor, Tensor], x: Tensor, binary: bool, neighbours: Sequence[int] = NEIGHBOURS
) -> Filling:
    """The mean of the k training data that are nearest by what is observed, (1 - s) parts, and of the column, s parts.

    k and s have the best log score of the validation data. Distances are Euclidean, of numbers in units of each
    column's standard deviation. A normal has the standard deviation of the validation data's errors.

    Args:
        train: training data, or intensities of which they are drawn, `(M, *event)`, NaN where they are missing.
        valid: validation data as x, with NaN where the test data have it, and what is scored of them as they are with
            NaN elsewhere, `(V, *event)` each.
        x: data, `(N, *event)`, NaN where they are not observed.
        binary: whether they are zeros and ones.
        neighbours: the k to choose from.

    References:
        Troyanskaya et al. (2001), Missing value estimation methods for DNA microarrays,
        https://doi.org/10.1093/bioinformatics/17.6.520

    Example:
        >>> train = torch.tensor([[0.0, 0.0], [0.1, 1.0], [5.0, 9.0]])
        >>> shown, truth = torch.tensor([[0.0, torch.nan]]), torch.tensor([[torch.nan, 0.5]])
        >>> found = nearest_neighbours(train, (shown, truth), shown, binary=False)
        >>> found.name
        '2 nearest, smoothed'
    """
    shown, truth = valid
    scored = ~truth.isnan()
    candidates = []
    for k in [k for k in neighbours if k <= len(train)]:
        for s, filling in _smoothed(train, k, shown, binary):
            if not binary:
                error = (filling.loc - truth).square()
                pooled = error.nanmean().sqrt()
                # A column of few validation data takes its part from all.
                count = scored.sum(0)
                of_column = (error.nansum(0) + 10 * pooled.square()) / (count + 10)
                filling = filling._replace(scale=_positive(of_column.sqrt(), train))
            score = filling.log_score(truth, scored).mean().item()
            candidates.append((score, k, s, filling.scale))
    _, k, s, scale = max(candidates, key=lambda c: c[0])
    [found] = [filling for smoothing, filling in _smoothed(train, k, x, binary) if smoothing == s]
    return found._replace(name=f"{k} nearest, smoothed", scale=scale)


def _smoothed(train: Tensor, k: int, x: Tensor, binary: bool) -> Iterator[tuple[float, Filling]]:
    """The mean of k neighbours with that of the column, for each share of the latter."""
    from sklearn.impute import KNNImputer  # which takes a second

    unit = 1.0 if binary else _positive((train - train.nanmean(0)).square().nanmean(0).sqrt(), train)
    imputer = KNNImputer(n_neighbors=k, keep_empty_features=True).fit((train / unit).flatten(1).numpy())
    near = torch.from_numpy(imputer.transform((x / unit).flatten(1).numpy())).to(x).reshape(x.shape) * unit
    everywhere = column_means(train, x, binary).loc
    for s in _SMOOTHING:
        yield s, Filling("", (1 - s) * near + s * everywhere, None)


def _positive(scale: Tensor, train: Tensor) -> Tensor:
    """Standard deviations, of an element that never varies a thousandth of the data's."""
    return scale.clamp(min=1e-3 * train[~train.isnan()].std().item() + 1e-12)
