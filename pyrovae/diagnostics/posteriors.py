"""The true posterior of single data on a grid, and what stands for it, for z of one or two dimensions."""

from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.diagnostics.hmc import hmc, resampled
from pyrovae.diagnostics.refined import refined
from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import _CHUNK, density_size, evaluating
from pyrovae.quadrature import grid_posterior
from pyrovae.rng import isolated
from pyrovae.sites import family
from pyrovae.vae import VAE

__all__ = ["Posteriors", "posteriors"]

_PROPOSALS = 50  # for each draw that is kept


class Posteriors(NamedTuple):
    """Densities and draws of n data; the shape G of a grid is `(num_points,)` or `(num_points, num_points)`."""

    nodes: list[Tensor]  # of each dimension of z, rising, each (num_points,)
    truth: Tensor  # p(z | x), (n, *G)
    guide: Tensor | None  # q(z | x), (n, *G), unless it is a flow that has a density at its own draws alone
    refined: Tensor | None  # the datum's own best of q's family, (n, *G), if there is one
    draws: Tensor  # of q(z | x), (n, K, D)
    resampled: Tensor  # of q(z | x), 50 for each, resampled with probabilities like p(z | x) / q(z | x), (n, K, D)
    hmc: Tensor  # of p(z | x), (n, K, D)


def posteriors(
    vae: VAE, x: Tensor, num_points: int = 201, limit: float = 6.0, num_draws: int = 200, seed: int = 0
) -> Posteriors:
    """p(z | x) = p(z) p(x | z) / p(x) on a grid of z, with q(z | x), the best of its family, and draws of p(z | x).

    Resampled draws are of p(z | x) where q(z | x) reaches: a mode that it leaves out is left out by them, not by those
    of Hamiltonian Monte Carlo.

    Args:
        vae: the model, of one or two latent dimensions on R^D.
        x: data, `(n, *event)`.
        num_points: along each dimension of the grid.
        limit: the grid goes from -limit to limit.
        num_draws: K, for each datum.
        seed: of the draws.

    Raises:
        ValueError: for other latent variables, a posterior that gives no density, and a grid that is not fit.

    References:
        Rubin (1987), The calculation of posterior distributions by data augmentation: comment,
        https://doi.org/10.1080/01621459.1987.10478461
        Smith and Gelfand (1992), Bayesian statistics without tears, https://doi.org/10.1080/00031305.1992.10475856

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=1, data_dim=3)
        >>> model.solve_encoder()
        >>> found = posteriors(model.vae, model.sample(2))
        >>> torch.allclose(found.truth, found.guide)  # with D = 1 the optimal normal posterior is the true one
        True
    """
    grid = grid_posterior(vae, x, num_points, (-limit, limit), tolerance=0.1)
    latent_dim = grid.z.shape[1]
    shape = [num_points] * latent_dim
    with evaluating(vae), isolated(seed, "posteriors"):
        x = x.to(next(vae.parameters()))
        q = vae.encode(x)
        if is_point(q):
            raise ValueError(f"q(z | x) ({family(q)}) is a point, which has no density")
        z = q.sample((_PROPOSALS * num_draws,))  # (50 K, n, D)
        log_weight = vae.prior().log_prob(z) - q.log_prob(z)
        rows = max(_CHUNK // (len(x) * density_size(vae, x)), 1)
        log_weight += torch.cat([vae.likelihood(part).log_prob(x) for part in z.split(rows)])
        likely = resampled(z, log_weight, num_draws)

    def on_grid(q: TorchDistribution) -> Tensor | None:
        if not scores_any(q):
            return None
        with torch.no_grad():
            return q.log_prob(grid.z.to(x)[:, None]).exp().T.unflatten(1, shape).to(grid.density)

    return Posteriors(
        nodes=[grid.z[:, d].unique() for d in range(latent_dim)],
        truth=grid.density.unflatten(1, shape),
        guide=on_grid(q),
        refined=None if (best := _refined(vae, x, seed)) is None else on_grid(best),
        draws=z[:num_draws].movedim(0, 1),
        resampled=likely.movedim(0, 1),
        hmc=hmc(vae, x, num_draws, num_temperatures=100, seed=seed).z.movedim(0, 1),
    )


def _refined(vae: VAE, x: Tensor, seed: int) -> TorchDistribution | None:
    """q*, if the encoder's family has one."""
    try:
        return refined(vae, x, seed=seed)
    except ValueError:  # weights that all data share
        return None
