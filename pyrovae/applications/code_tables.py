"""Probabilities that an encoder and a decoder agree on: a model's, with z on a grid, digit for digit."""

import copy

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrovae.bits import NO_PROBABILITY
from pyrovae.data import fingerprint
from pyrovae.distributions.grid import Grid
from pyrovae.rng import isolated
from pyrovae.sites import base, family
from pyrovae.supports import element
from pyrovae.vae import VAE

__all__ = ["CodeTables"]

_LARGEST = 2**24  # numbers in a table


class CodeTables:
    """q(z | x) and p(x | z) as tables of probabilities, each z_d in one of 2^bits bins of equal mass under p(z_d).

    All is computed in float64, on the CPU, of one datum at a time, and probabilities are rounded to float32: another
    machine's sums may differ in their last digits, which rounding nearly always cuts off.

    Args:
        vae: the model, of which a copy is kept.
        bits: of a latent dimension.

    Raises:
        ValueError: if a distribution does not factorise, or has no such bins or probabilities.
    """

    def __init__(self, vae: VAE, bits: int) -> None:
        self.vae = copy.deepcopy(vae).cpu().double().eval()
        self.fingerprint = fingerprint(*self.vae.state_dict().values())
        p = _independent(self.vae.prior(), "p(z)")
        half_steps = torch.arange(2 ** (bits + 1) + 1, dtype=torch.float64) / 2 ** (bits + 1)
        try:
            quantiles = p.icdf(half_steps.unsqueeze(1))  # (2 M + 1, D)
        except NotImplementedError:
            raise ValueError(
                f"bins of z need the quantiles of p(z), which {family(p)} does not have: take a StandardNormal prior"
            ) from None
        self.edges, self.z = quantiles[::2], quantiles[1::2]  # (M + 1, D), and each bin's median (M, D)
        p = self._given(np.zeros(self.z.shape[1], dtype=np.int32))
        self.support, self.event_shape = element(p.support), p.batch_shape[1:]

    def posterior(self, x: Tensor) -> np.ndarray:
        """Q(bin | x) of each z_d, `(D, M)`, of a datum x `(*event)`."""
        with isolated(0):  # an encoder may draw
            q = _independent(self.vae.encode(x.double().unsqueeze(0)), "q(z | x)")
        try:
            return _table(q.cdf(self.edges).diff(dim=0).T)
        except NotImplementedError:
            raise ValueError(
                f"bins of z need the cumulative distribution function of q(z | x), which {family(q)} does not have: "
                f"take a DiagonalNormal encoder"
            ) from None

    def likelihood(self, bins: np.ndarray, values: Tensor) -> np.ndarray:
        """P(value | z) of each element of x, `(E, L)`, with z in bins `(D,)`.

        Args:
            bins: of z.
            values: of an element, `(L,)`, as `values` has them.
        """
        each = values.reshape(-1, *[1] * len(self.event_shape))
        probability = self._given(bins).log_prob(each).exp().flatten(1)  # (L, E)
        if self.support is constraints.nonnegative_integer:  # the last value stands for all from there on
            probability[-1] = (1 - probability[:-1].sum(0)).clamp(min=0)
        return _table(probability.T)

    def values(self, num_values: int) -> Tensor:
        """The values that an element of x can have, `(L,)`; of counts, which have no end, so many.

        Args:
            num_values: of counts.

        Raises:
            ValueError: if x is continuous, or there are too many.
        """
        if isinstance(self.support, Grid):
            num_values, step = self.support.levels, self.support.step
        elif self.support is constraints.boolean:
            num_values, step = 2, 1
        elif self.support is constraints.nonnegative_integer:
            step = 1
        else:
            raise ValueError(f"discrete data alone can be compressed, but {NO_PROBABILITY}: take another likelihood")
        if (size := self.event_shape.numel()) * num_values > _LARGEST:
            raise ValueError(
                f"a table of {num_values} values for each of {size} elements of x is too large: take smaller counts"
            )
        return torch.arange(num_values, dtype=torch.float64) * step

    def _given(self, bins: np.ndarray) -> TorchDistribution:
        """p(x | z) of the elements of a datum, batch `(1, *event)`."""
        z = self.z.gather(0, torch.from_numpy(bins).long().unsqueeze(0))  # (1, D)
        return _independent(self.vae.likelihood(z), "p(x | z)")


def _independent(p: TorchDistribution, what: str) -> TorchDistribution:
    """The distribution of each element of a vector or an array whose elements are independent."""
    elements, dims = base(p)
    if dims == 0 or dims != len(p.event_shape):
        raise ValueError(f"elements are coded one by one, but in {what} they are not independent: it is {family(p)}")
    return elements


def _table(probability: Tensor) -> np.ndarray:
    return probability.clamp(min=0).float().double().contiguous().numpy()
