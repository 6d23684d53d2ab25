"""Latent traversals: what each dimension of z stands for."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.evaluation import active_units, evaluating, kl_per_dimension
from pyrovae.model import Model
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Traversal", "traversal"]


class Traversal(NamedTuple):
    """Rows of z that differ in one dimension alone, those first that tell most of x."""

    z: Tensor  # (R, T, D)
    dimensions: Tensor  # of each row, the one that varies, from 0, (R,)
    kl: Tensor | None  # of those, E_x[KL(q(z_d | x) || p(z_d))], in nats, (R,); None where it has no closed form
    variance: Tensor  # of those, Var_x(E_q[z_d | x]), (R,)


def traversal(
    vae: Model, x: Tensor, levels: Tensor, start: Tensor | None = None, most: int = 16, seed: int = 0
) -> Traversal:
    """z_d at quantiles of its prior, P(z_d <= value) = level, all else as it starts, for one d after the other.

    Rows are ordered by the KL of their dimension, or, where it is not known, by the variance of its latent means.

    Args:
        vae: a model of one vector z, with a prior to draw from.
        x: data by which KL and variance are told, `(N, *event)`, at least two.
        levels: T levels of the quantiles, each between 0 and 1, `(T,)`.
        start: z to start from, `(D,)`; unless given, the mean of p(z).
        most: rows.
        seed: of 100,000 draws of p(z), by which its mean and quantiles are told.

    Returns:
        The traversal, on the CPU.

    References:
        Higgins et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian()
        >>> found = traversal(model.vae, model.sample(100), torch.linspace(0.1, 0.9, 5))
        >>> found.z.shape, bool(found.kl[0] > found.kl[1])
        (torch.Size([2, 5, 2]), True)
    """
    kl = kl_per_dimension(vae, x) if isinstance(vae, VAE) else None
    variance = active_units(vae, x).variance
    d = (variance if kl is None else kl).argsort(descending=True)[:most].cpu()
    with evaluating(vae), isolated(seed, "quantiles"):
        draws = vae.prior().sample((100_000,)).cpu()
    values = torch.from_numpy(np.quantile(draws.numpy(), levels.cpu().numpy(), axis=0).T).to(draws)  # (D, T)
    start = draws.mean(0) if start is None else start.cpu()
    z = start.repeat(len(d), len(levels), 1)  # (R, T, D)
    z[torch.arange(len(d)), :, d] = values[d]
    return Traversal(z, d, None if kl is None else kl.cpu()[d], variance.cpu()[d])
