"""Quadrature: log p(x) and p(z | x) of a VAE of one or two latent dimensions, by sums over a grid of z."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrovae.distributions.bernoulli import Bernoulli
from pyrovae.evaluation import density_size, evaluating
from pyrovae.supports import THIN, describe
from pyrovae.vae import VAE

__all__ = ["GridPosterior", "grid_posterior"]

_BERNOULLIS = (Bernoulli, dist.Bernoulli)  # whose log-probability is known; of what is derived from them, it is not
_CHUNK = 2**22  # numbers in a decoded tensor at a time, 32 MiB in float64


class GridPosterior(NamedTuple):
    """p(z | x) on a grid of G = num_points^D points, and log p(x), each in float64."""

    z: Tensor  # the points, the last dimension running fastest, (G, D)
    density: Tensor  # p(z | x), which sums to 1 with the rule's weights, (B, G)
    log_likelihood: Tensor  # log p(x), in nats, (B,)
    error: Tensor  # estimate of the rule's error in log p(x), in nats, (B,)


def grid_posterior(
    vae: VAE,
    x: Tensor,
    num_points: int = 201,
    limits: tuple[float, float] | Sequence[tuple[float, float]] = (-6.0, 6.0),
    tolerance: float = 1e-3,
) -> GridPosterior:
    """p(x) = int p(z) p(x | z) dz and p(z | x) = p(z) p(x | z) / p(x), by the trapezoid rule on a grid of z.

    For any prior with a density on R^D and any likelihood. The rule T is the mean of the 3^D rules that take every
    third point along each dimension; the error is the greatest difference of their logarithms to that of T, and
    log(1 + m), m being the share of the mass that would lie outside the limits if the density on them went on for the
    width of the grid. For smooth densities the true error is smaller by orders of magnitude. No grid can tell of a
    mode that falls between its points or beyond its limits, nor of rounding where the VAE is in float32.

    Memory is bounded but for a few times the result's.

    Args:
        vae: the model, of D = 1 or 2 latent dimensions; its encoder is not used.
        x: data, `(B, *event)`.
        num_points: points along each dimension, at least 7.
        limits: the least and the greatest z, of all dimensions or of each.
        tolerance: greatest error allowed, in nats, at most 1: above, an estimate of it tells no more than that the
            grid is unfit.

    Returns:
        The points, p(z | x) on them, log p(x) and its error.

    Raises:
        ValueError: for more than two latent dimensions, a discrete prior, limits or points that make no grid, and an
            error above the tolerance.

    References:
        Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule,
        https://doi.org/10.1137/130932132

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=1, data_dim=3)
        >>> x = model.sample(10)
        >>> grid = grid_posterior(model.vae, x)
        >>> torch.allclose(grid.log_likelihood, model.log_likelihood(x))
        True
    """
    if not 0 < tolerance <= 1:
        raise ValueError(f"tolerance must be above 0 and at most 1 nat, not {tolerance}")
    vae.check(x)
    with evaluating(vae):
        latent_dim = _latent_dim(vae)
        axes, log_weights = _grid(num_points, limits, latent_dim)
        z = torch.cartesian_prod(*axes).reshape(-1, latent_dim)  # (G, D)
        log_joint = joint_table(vae, x, z)  # (B, G)
    log_mass = log_joint + log_weights.to(log_joint.device)
    log_likelihood = log_mass.logsumexp(-1)
    cells = (log_mass - log_likelihood[:, None]).unflatten(1, [num_points] * latent_dim)  # (B, n) or (B, n, n)
    resolution, outside = _thirds(cells), _outside(cells.exp())
    error = resolution + outside
    if not (error <= tolerance).all():
        i = int(error.nan_to_num(math.inf).argmax())
        raise ValueError(
            f"the error in log p(x[{i}]) may be {error[i]:.2g} nats, above the tolerance of {tolerance:g}: "
            f"{resolution[i]:.2g} from the spacing of the grid (take more than {num_points} points) and "
            f"{outside[i]:.2g} from the mass outside (take wider limits than {limits})"
        )
    density = (log_joint - log_likelihood[:, None]).exp()
    return GridPosterior(z.to(density.device), density, log_likelihood, error)


def _latent_dim(vae: VAE) -> int:
    """D, if a grid of z can be had."""
    prior = vae.prior()
    if prior.support.is_discrete:
        raise ValueError("a grid needs a density p(z): sum over the states of a discrete z, as exact.BernoulliToy does")
    if describe(prior.support) in THIN:
        raise ValueError(f"a grid of z has no points in {describe(prior.support)}: use evaluation.log_likelihood")
    (latent_dim,) = prior.event_shape
    if latent_dim > 2:
        raise ValueError(f"a grid has one or two dimensions, but z has {latent_dim}: use evaluation.log_likelihood")
    return latent_dim


def _grid(num_points: int, limits: tuple | Sequence, latent_dim: int) -> tuple[list[Tensor], Tensor]:
    """Points along each of D dimensions, `(n,)`, and the logarithms of the trapezoid rule's weights, `(n^D,)`."""
    if num_points < 7:
        raise ValueError(f"num_points must be at least 7, to compare rules of every third point, not {num_points}")
    try:
        pairs = torch.as_tensor(limits, dtype=torch.float64, device="cpu").expand(latent_dim, 2)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"limits must be one pair of numbers, or one for each dimension, not {limits}") from error
    if not (pairs.isfinite().all() and (pairs[:, 0] < pairs[:, 1]).all()):
        raise ValueError(f"limits must be finite, the lower below the upper, not {limits}")
    ends = torch.zeros(num_points, dtype=torch.float64)
    ends[[0, -1]] = -math.log(2)
    steps = (pairs[:, 1] - pairs[:, 0]) / (num_points - 1)  # (D,)
    along = [step.log() + ends for step in steps]
    log_weights = along[0] if latent_dim == 1 else (along[0][:, None] + along[1]).flatten()
    axes = [torch.linspace(*pair, num_points, dtype=torch.float64) for pair in pairs.tolist()]
    return axes, log_weights


def joint_table(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of every datum `(B, *event)` at every point `(G, D)`, in float64: `(B, G)`."""
    reference = next(vae.parameters())
    x, z = x.to(reference), z.to(reference)
    g = max(_CHUNK // max(density_size(vae, x), 1024), 1)  # points at a time, of few elements no more than 4096
    b = max(_CHUNK // (g * x[0].numel()), 1)  # data at a time
    result = torch.empty(len(x), len(z), dtype=torch.float64, device=z.device)
    for columns, points in zip(result.split(g, 1), z.split(g), strict=True):
        p = vae.likelihood(points)  # batch (g,), for all data
        log_prior = vae.prior().log_prob(points).double()  # (g,)
        if type(getattr(p, "base_dist", None)) in _BERNOULLIS:  # one matrix product, a hundred times as fast
            logits = p.base_dist.logits.flatten(1).double()
            columns.copy_(log_bernoulli(x.flatten(1).double(), logits) + log_prior)
            continue
        for rows, data in zip(columns.split(b), x.split(b), strict=True):
            rows.copy_(p.log_prob(data[:, None]).double() + log_prior)  # (b, g)
    return result


def log_bernoulli(values: Tensor, logits: Tensor) -> Tensor:
    """log prod_d Bernoulli(v_d; sigmoid(l_d)) of each v `(V, D)` for each l `(L, D)`: `(V, L)`."""
    return values @ logits.T + logsigmoid(-logits).sum(-1)


def _thirds(cells: Tensor) -> Tensor:
    """Greatest |log T' - log T| of the rules T' of every third point, from log-shares of T `(B, n, ...)`: `(B,)`."""
    parts = [cells]
    for dim in range(1, cells.dim()):
        parts = [part[(slice(None),) * dim + (slice(first, None, 3),)] for part in parts for first in range(3)]
    return torch.stack([part.flatten(1).logsumexp(-1) + math.log(len(parts)) for part in parts]).abs().amax(0)


def _outside(cells: Tensor) -> Tensor:
    """log(1 + m), with m the mass outside, as if the density on the limits went on for a width of the grid: `(B,)`."""
    ends = [cells.select(dim, end) for dim in range(1, cells.dim()) for end in (0, -1)]  # each a cell of half a step
    steps = cells.shape[1] - 1
    return torch.log1p(2 * steps * sum(end.reshape(len(cells), -1).sum(-1) for end in ends))
