"""Draws that fill their space evenly, so that means of many of them vary far less than those of independent ones."""

from contextlib import contextmanager

import pytest
import torch
from torch import distributions
from torch.special import ndtri

DIMS = 16  # random numbers for a datum, at most


@contextmanager
def evenly(n, seed):
    """What is drawn for n data, which are copies of few, a power of two of each, is a scrambled Sobol' net.

    Each datum's draws are distributed as ever, so the mean over data of what they give has the same expectation;
    under another seed it is independent. Draws of what else there is are as ever.

    References:
        Owen (1997), Scrambled net variance for integrals of smooth functions, Annals of Statistics 25
    """
    engine = torch.quasirandom.SobolEngine(DIMS, scramble=True, seed=seed)
    columns = iter((engine.draw(n, dtype=torch.float64) + 2.0**-31).T)

    def uniform(shape):
        """One coordinate of the net for each number that is drawn for a datum."""
        axis = list(shape).index(n)
        others = [size for i, size in enumerate(shape) if i != axis]
        u = torch.stack([next(columns) for _ in range(torch.Size(others).numel())])
        return u.reshape(*others, n).movedim(-1, axis)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributions.normal, "_standard_normal", lambda shape, **like: ndtri(uniform(shape)))
        patch.setattr(torch, "normal", lambda mean, std: mean + std * ndtri(uniform(mean.shape)))
        patch.setattr(torch, "bernoulli", lambda p: (uniform(p.shape) < p).to(p))
        patch.setattr(torch, "rand", lambda *shape, **like: uniform(torch.empty(*shape, device="meta").shape))
        yield
