"""A Swiss roll: a sheet rolled up in three dimensions, of which the place of each point on the sheet is known."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["NOISE", "SCALING", "swiss_roll"]

SCALING = "height centred, all divided by 7, noise of standard deviation 0.05 added"
NOISE = 0.05


def swiss_roll() -> tuple[Tensor, Tensor]:
    """x = (t cos t, h - 21 / 2, t sin t) / 7 + e, t ~ U(3 pi / 2, 9 pi / 2), h ~ U(0, 21), e ~ N(0, 0.05^2 I).

    The position along the roll is the length of the curve from its inner end, int |dx| = (t (1 + t^2)^(1/2) +
    asinh t) / 14 less that of the end.

    Returns:
        Points `(6000, 3)`, and for each its position along the roll, from 0 to 12.8, and its height, from -1.5 to 1.5,
        without the noise, `(6000, 2)`, all in the same unit.

    References:
        Tenenbaum et al. (2000), A global geometric framework for nonlinear dimensionality reduction,
        https://doi.org/10.1126/science.290.5500.2319

    Example:
        >>> x, factors = swiss_roll()
        >>> x.std(0), factors.amax(0)
        (tensor([0.9, 0.9, 1.0]), tensor([12.8, 1.5]))
    """
    from sklearn.datasets import make_swiss_roll  # which takes a second

    exact, t = make_swiss_roll(6000, random_state=0)
    exact = (exact - [0, 10.5, 0]) / 7
    x = exact + NOISE * np.random.RandomState(1).standard_normal(exact.shape)  # streams that are fixed
    length = [(u * np.sqrt(1 + u**2) + np.arcsinh(u)) / 14 for u in (t, 1.5 * np.pi)]
    factors = np.stack([length[0] - length[1], exact[:, 1]], 1)
    return torch.from_numpy(x).float(), torch.from_numpy(factors).float()
