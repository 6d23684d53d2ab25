"""Unconstrained coordinates: a density over the cube, the simplex and the like as one over u in R^n, z = t(u)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Independent, biject_to
from torch.nn.functional import pad

from pyrovae.distributions import relaxed
from pyrovae.sites import family
from pyrovae.supports import describe, element

__all__ = ["Unconstrained", "unconstrained"]


class Unconstrained(NamedTuple):
    """A density in the coordinates u."""

    density: TorchDistribution  # of u, event (n,)
    to_z: Callable[[Tensor], Tensor]  # t, from u (..., n) to z (..., D)


def unconstrained(p: TorchDistribution, name: str = "p(z)") -> Unconstrained:
    """p(u) = p(z) |dz / du|, z = t(u): t is the identity on R^D, a sigmoid on the cube, stick-breaking on the simplex.

    The relaxed distributions of this library stand for all that floating point cannot tell from 0 or 1 by a
    probability, where others have a density, so t^-1(z) would not do: u is drawn and scored before it is squeezed.

    Args:
        p: a density, event `(D,)`.
        name: what a message calls it.

    Raises:
        ValueError: if z is discrete, or lies where there is no such t, as on the sphere.

    Example:
        >>> p = unconstrained(dist.Beta(torch.ones(2), 1.0).to_event(1))  # uniform
        >>> p.density.log_prob(torch.zeros(2)), p.to_z(torch.zeros(2))  # each dz / du = 1 / 4
        (tensor(-2.7726), tensor([0.5000, 0.5000]))
    """
    base = p.base_dist if isinstance(p, Independent) else p
    if isinstance(base, relaxed.RelaxedBernoulli):
        scale = base.temperature.reciprocal().expand_as(base.logits)
        return Unconstrained(dist.Logistic(base.logits * scale, scale).to_event(1), torch.sigmoid)
    if isinstance(base, relaxed.RelaxedOneHotCategorical):
        return Unconstrained(_LogRatios(base.temperature, base.logits), _shares)
    support = element(p.support)
    if support.is_discrete:
        raise ValueError(
            f"{name} ({family(p)}) is discrete, and there is no gradient in z to follow: use known.log_likelihood, "
            f"which sums over the states of a few bits, or evaluation.log_likelihood"
        )
    if describe(support) == "R^D":
        return Unconstrained(p, _identity)
    try:
        t = biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"{name} ({family(p)}) lies in {describe(support)}, which has no unconstrained coordinates: use "
            f"evaluation.log_likelihood"
        ) from error
    return Unconstrained(dist.TransformedDistribution(p, [t.inv]), t)


def _identity(u: Tensor) -> Tensor:
    return u


def _shares(u: Tensor) -> Tensor:
    """z = softmax(u_1, ..., u_(D-1), 0)."""
    return pad(u, (0, 1)).softmax(-1)


class _LogRatios(TorchDistribution):
    """u_k = log z_k / z_D of the concrete distribution: log p(u) = log p(z) + sum_k log z_k.

    Args:
        temperature: T, positive.
        logits: a, `(..., D)`, of which the dimensions but the last are the batch.
    """

    arg_constraints: dict = {}  # noqa: RUF012 as in PyTorch
    support = constraints.real_vector

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        self.temperature, self.logits = temperature, logits
        super().__init__(logits.shape[:-1], torch.Size([logits.shape[-1] - 1]), validate_args=False)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, D - 1)`."""
        noise = self.logits.new_empty((*sample_shape, *self.logits.shape)).exponential_()
        noise = noise.clamp(min=torch.finfo(noise.dtype).tiny)  # whose logarithm is finite
        log_z = (self.logits - noise.log()) / self.temperature[..., None]  # up to a constant
        return log_z[..., :-1] - log_z[..., -1:]

    def log_prob(self, value: Tensor) -> Tensor:
        """log Gamma(D) + (D - 1) log T + sum_k s_k - D log sum_j exp(s_j), s_k = a_k - T log z_k."""
        score = self.logits - self.temperature[..., None] * pad(value, (0, 1)).log_softmax(-1)
        size = score.shape[-1]
        constant = math.lgamma(size) + (size - 1) * self.temperature.log()
        return constant + score.sum(-1) - size * score.logsumexp(-1)
