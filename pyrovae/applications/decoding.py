"""What z stands for: means and samples of p(x | z)."""

import torch
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.evaluation import _CHUNK, decoded_size, evaluating
from pyrovae.model import Kind, Model, drawn
from pyrovae.rng import isolated

__all__ = ["decoded"]


def decoded(vae: Model, z: Tensor, kind: Kind = "mean", seed: int = 0) -> Tensor:
    """E[x | z], or x ~ p(x | z), of each z, as many at a time as fit in bounded memory.

    Args:
        vae: a model of p(x | z) with one vector z.
        z: latent variables, `(..., D)`, on any device.
        kind: "mean" or "sample".
        seed: of the samples.

    Returns:
        Data on the CPU, `(..., *event)`.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> decoded(LinearGaussian().vae, torch.zeros(3, 4, 2)).shape
        torch.Size([3, 4, 5])
    """
    flat = z.reshape(-1, z.shape[-1]).to(next(vae.parameters()))
    with evaluating(vae), isolated(seed, "decoded"), unvalidated():
        at_once = max(_CHUNK // decoded_size(vae, vae.likelihood(flat[:1]).mean), 1)
        x = torch.cat([drawn(vae.likelihood(part), kind).cpu() for part in flat.split(at_once)])
    return x.reshape(*z.shape[:-1], *x.shape[1:])
