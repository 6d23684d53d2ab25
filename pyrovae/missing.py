"""Missing values: p(x | z) of the elements that are observed, and stand-ins for those that are not."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.sites import base, family

__all__ = ["hot_deck", "masked"]


def masked(p: TorchDistribution, observed: Tensor) -> TorchDistribution:
    """p(x_obs | z) = prod_(i observed) p(x_i | z), of a p(x | z) whose elements are independent given z.

    Args:
        p: p(x | z), batch `(..., B)`, event the shape of one datum.
        observed: which elements count, booleans `(B, *event)`.

    Raises:
        ValueError: if the elements are not independent.

    Example:
        >>> import pyro.distributions as dist
        >>> p = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
        >>> masked(p, torch.tensor([[True, True, False], [False] * 3])).log_prob(torch.zeros(2, 3))
        tensor([-1.8379,  0.0000])
    """
    elements, n = base(p)
    if n != len(p.event_shape):
        raise ValueError(
            f"values may be missing where those of a datum are independent given z, and those of {family(p)} are not: "
            f"take another likelihood, such as Bernoulli or Normal"
        )
    return elements.mask(observed).to_event(n)


def hot_deck(x: Tensor, observed: Tensor, donors: Tensor, donated: Tensor, seed: int = 0) -> Tensor:
    """Data with a draw of the donors' observed values of the same element where one is missing, `(N, *event)`.

    So they keep each element's distribution, and lie where its values lie.

    Args:
        x: data, `(N, *event)`; where they are not observed, anything.
        observed: booleans, `(N, *event)`.
        donors: data, `(M, *event)`.
        donated: which of their elements are observed, booleans `(M, *event)`.
        seed: of the draws.

    Raises:
        ValueError: if an element is missing of which no donor has a value.

    References:
        Andridge and Little (2010), A review of hot deck imputation for survey non-response,
        https://doi.org/10.1111/j.1751-5823.2010.00103.x

    Example:
        >>> x = torch.tensor([[1.0, 7.0], [2.0, torch.nan]])
        >>> hot_deck(x, ~x.isnan(), x, ~x.isnan())
        tensor([[1., 7.],
                [2., 7.]])
    """
    count = donated.sum(0)  # of each element's values
    if (lacking := (count == 0) & ~observed.all(0)).any():
        raise ValueError(
            f"element {tuple(lacking.nonzero()[0].tolist())} of the data is observed in no training datum, so nothing "
            f"is known of it: leave it out"
        )
    rows = donated.int().argsort(dim=0, descending=True, stable=True)  # those that have a value first
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return torch.where(observed, x, donors.gather(0, rows.gather(0, (u * count).long())))
