"""log p(x) of a VAE wherever it can be had without Monte Carlo."""

import copy

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.evaluation import evaluating
from pyrovae.exact.linear_normal import LinearNormal
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.priors import Bernoulli as BernoulliPrior
from pyrovae.priors import StandardNormal
from pyrovae.priors.prior import Prior
from pyrovae.quadrature import grid_posterior, joint_table
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["log_likelihood"]

_STATES = 2**12  # of a discrete z, at most
# Data, times points of z, summed over grids, times eights of x unless it is Bernoulli: about a minute of one core.
_WORK = 2**28
_POINTS = 2**23  # of a grid, at most
_ERROR = 1e-3  # nats of log p(x) that a grid may be off, by its own estimate
_CELLS = 2**23  # data at a time, times points of z, 64 MiB for each of a few tables


def log_likelihood(vae: VAE, x: Tensor) -> Tensor | None:
    """log p(x) = log int p(z) p(x | z) dz in closed form, as a sum or an integral, or None where none of them is open.

    - p(z) standard normal, p(x | z) normal with one scale and a mean that is linear in z (`MLP(..., hidden=())`):
      p(x) is normal.
    - p(z) Bernoulli, of at most 12 dimensions: the sum over all z.
    - p(z) with a density on at most two dimensions: `quadrature.grid_posterior`, on 8 standard deviations around p(z),
      each component if it is a mixture, of 201 points along a dimension, which are doubled for each datum until the
      grid's estimate of its own error is below 0.001 nats. None if that would take much more than a minute of one core:
      the limit for 225 binary images is 801 x 801 points, for as many of 8 x 8 grey values 201 x 201; 10,000 binary
      images have grids in one dimension alone.

    The parameters are taken as they are and the sums are in float64, whatever the precision of the VAE.

    Args:
        vae: the model; its encoder is not used.
        x: data, `(N, *event)`.

    Returns:
        log p(x), in nats and float64, `(N,)`, without a gradient; or None.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis,
        https://doi.org/10.1111/1467-9868.00196

    Example:
        >>> from pyrovae.exact import BernoulliToy
        >>> model = BernoulliToy(latent_dim=3, data_dim=5)
        >>> x = model.sample(20)
        >>> torch.allclose(log_likelihood(model.vae, x), model.log_likelihood(x))
        True
    """
    vae.check(x)
    vae = copy.deepcopy(vae).double()
    x = x.to(next(vae.parameters()))
    with evaluating(vae):
        if _is_linear(vae):
            return _Linear(vae).marginal().log_prob(x.flatten(1))
        if type(vae.prior) is BernoulliPrior:
            return _sum(vae, x) if 2**vae.prior.latent_dim <= _STATES else None
        return _integral(vae, x)


def _is_linear(vae: VAE) -> bool:
    likelihood, network = vae.likelihood, getattr(vae.likelihood, "network", None)
    return (
        type(vae.prior) is StandardNormal
        and type(likelihood) is Normal
        and likelihood.num_parameters == 1  # the scale is no function of z
        and type(network) is MLP
        and sum(isinstance(layer, nn.Linear) for layer in network.layers) == 1
    )


class _Linear(LinearNormal):
    """The closed forms of a linear VAE of x of any shape, flattened."""

    def __init__(self, vae: VAE) -> None:
        self.vae = vae


def _sum(vae: VAE, x: Tensor) -> Tensor:
    """log sum_z p(x, z) over z in {0, 1}^D."""
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).to(x)] * vae.prior.latent_dim).reshape(-1, vae.prior.latent_dim)
    return torch.cat([joint_table(vae, part, z).logsumexp(-1) for part in x.split(_CELLS // len(z))])


def _integral(vae: VAE, x: Tensor) -> Tensor | None:
    """By the coarsest grid that is fine enough for each datum, if any is for all."""
    limits, num_points, work = _limits(vae.prior), 201, 0
    found, left = torch.empty(len(x), dtype=torch.float64, device=x.device), torch.arange(len(x), device=x.device)
    weight = 1 if type(vae.likelihood) is Bernoulli else max(x[0].numel() // 8, 1)  # the first is a matrix product
    while limits and len(left):
        points = num_points ** len(limits)
        work += weight * len(left) * points
        if work > _WORK or points > _POINTS:
            return None
        coarse = []
        for part in left.split(max(_CELLS // points, 1)):
            try:
                grid = grid_posterior(vae, x[part], num_points, limits, tolerance=1.0)
            except ValueError:  # far too coarse for one of them, as the data have been checked
                coarse.append(part)
                continue
            found[part] = grid.log_likelihood
            coarse.append(part[grid.error > _ERROR])
        left, num_points = torch.cat(coarse), 2 * num_points - 1
    return found if limits else None


def _limits(prior: Prior) -> list[tuple[float, float]]:
    """8 standard deviations around p(z), or around all of its components, along each dimension; [] if z has no grid."""
    p = prior()
    if describe(p.support) != "R^D" or p.event_shape.numel() > 2:
        return []
    p = p.component_distribution if isinstance(p, dist.MixtureSameFamily) else p
    try:
        low, high = ((p.mean + side * p.stddev).reshape(-1, *p.event_shape) for side in (-8, 8))
    except NotImplementedError:  # a flow's moments are unknown
        return []
    return list(zip(low.amin(0).tolist(), high.amax(0).tolist(), strict=True))
