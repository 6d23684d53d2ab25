"""Regions of highest density of q(z | x), and how much of the true posterior of single data is in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import evaluating, moments
from pyrovae.quadrature import GridPosterior, grid_posterior, joint_table
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Region", "posterior_regions"]

_FAR = 25.0  # nats: what is this far below the largest density is left out


class Region(NamedTuple):
    """Of a datum, densities on a grid around both, of shape G = `(n,)` or `(n, n)`, and the mass within regions."""

    nodes: list[Tensor]  # of each dimension of z, rising, each (n,)
    truth: Tensor  # p(z | x), G
    guide: Tensor  # q(z | x), G
    mass: Tensor  # of p(z | x) in the region of highest density of q(z | x) of each level, (C,)
    log_likelihood: Tensor  # log p(x), ()


def posterior_regions(vae: VAE, x: Tensor, levels: Sequence[float], limit: float = 6.0) -> list[Region | None]:
    """P(z in R_c | x), R_c the least region that holds the share c of q(z | x): c for each c if q(z | x) = p(z | x).

    A coarse grid finds where p(z | x) is, a fine one around it and q(z | x) gives both densities.

    Args:
        vae: the model, of one or two latent dimensions on R^D.
        x: data, `(N, *event)`.
        levels: c.
        limit: the coarse grid goes from -limit to limit, or further, to where q(z | x) is.

    Returns:
        One for each datum; None where no grid is fit for the posterior, which is too narrow for as far as it reaches.

    Raises:
        ValueError: for other latent variables, or a q that gives no density.

    References:
        Hyndman (1996), Computing and graphing highest density regions, https://doi.org/10.1080/00031305.1996.10474359

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=1, data_dim=3)
        >>> model.solve_encoder()
        >>> posterior_regions(model.vae, model.sample(1), [0.5, 0.95])[0].mass  # q is p(z | x)
        tensor([0.50, 0.95], ...)
    """
    vae.check(x)
    with evaluating(vae), isolated(0):
        x = x.to(next(vae.parameters()))
        q = vae.encode(x)
        if is_point(q) or not scores_any(q):
            raise ValueError(f"{type(vae.encoder).__name__} tells no density q(z | x) at any z, and a region needs it")
        mean, deviation = (t.double().cpu() for t in moments(q))  # (N, D)
        latent_dim = mean.shape[1]
        if latent_dim > 2:
            raise ValueError(f"a grid has one or two dimensions, but z has {latent_dim}: see the coverage instead")
        low, high = mean - 6 * deviation, mean + 6 * deviation
        ends = max(limit, high.max().item(), -low.min().item())
        whole = torch.tensor([[-ends], [ends]]).expand(2, latent_dim)
        coarse = _grid(whole, 2001 if latent_dim == 1 else 201)
        table, regions = joint_table(vae, x, coarse).cpu(), []  # (N, G)
        for i, datum in enumerate(x.split(1)):
            box = _box(coarse, table[i], low[i], high[i])
            finer = _grid(box, 101)
            box = _box(finer, joint_table(vae, datum, finer)[0].cpu(), low[i], high[i])
            try:
                grid = grid_posterior(vae, datum, 401 if latent_dim == 1 else 151, box.T.tolist(), tolerance=0.1)
            except ValueError:  # too narrow for as far as it reaches
                regions.append(None)
                continue
            guide = vae.encode(datum).log_prob(grid.z.to(x)).exp().double()
            regions.append(_region(grid, guide, latent_dim, levels))
    return regions


def _grid(box: Tensor, points: int) -> Tensor:
    """A grid of so many points along each dimension of a box, its least and greatest z, `(2, D)`: `(G, D)`."""
    axes = [torch.linspace(*ends, points, dtype=torch.double) for ends in box.T.tolist()]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _box(z: Tensor, log_joint: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The least box that holds what counts of p(x, z) on a grid, a step around it, and q(z | x): `(2, D)`."""
    around = z[log_joint > log_joint.max() - _FAR]
    step = torch.stack([d.unique().diff().max() for d in z.T])
    return torch.stack([torch.minimum(around.amin(0) - step, low), torch.maximum(around.amax(0) + step, high)])


def _region(grid: GridPosterior, guide: Tensor, latent_dim: int, levels: Sequence[float]) -> Region:
    """What is known of a datum on its grid of equal cells."""
    z, truth = grid.z, grid.density[0]
    order = guide.argsort(descending=True)
    q, p = ((density / density.sum())[order].cumsum(0) for density in (guide, truth))  # mass of the densest cells of q
    # A cell that a level falls into is taken in part.
    mass = torch.from_numpy(np.interp(levels, *(np.append(0, t.cpu().numpy()) for t in (q, p))))
    shape = [round(len(z) ** (1 / latent_dim))] * latent_dim
    nodes = [z[:, d].unique().cpu() for d in range(latent_dim)]
    return Region(nodes, truth.reshape(shape).cpu(), guide.reshape(shape).cpu(), mass, grid.log_likelihood[0].cpu())
