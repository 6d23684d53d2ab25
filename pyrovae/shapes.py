"""Shapes: images of which every factor of variation is known."""

import math

import torch
from torch import Tensor

__all__ = ["FACTORS", "shapes"]

# What varies, and how many values each has.
FACTORS = {"shape": 3, "scale": 4, "orientation": 5, "x": 8, "y": 8}

_SIZE = 32  # pixels of a side
_FINE = 4  # points of a pixel's side that are looked at
_INSIDE = (
    lambda u, v: torch.maximum(u.abs(), v.abs()) < 0.9,  # a square
    lambda u, v: (u / 1.2) ** 2 + (v / 0.7) ** 2 < 1,  # an ellipse
    lambda u, v: (u**2 + v**2 - 0.6) ** 3 < 0.8 * u**2 * v**3,  # a heart
)


def shapes() -> tuple[Tensor, Tensor]:
    """All combinations of 3 shapes, 4 scales, 5 orientations and 8 x 8 places, as binary images, and their factors.

    The shapes are a square, an ellipse and a heart. Orientations go from 0 to 72 degrees, as a square looks the same
    after 90: no two images are alike.

    Returns:
        Images `(3840, 1, 32, 32)` of zeros and ones, and the index of each one's values of `FACTORS`, `(3840, 5)`.

    References:
        Matthey et al. (2017), dSprites: disentanglement testing sprites dataset,
        https://github.com/google-deepmind/dsprites-dataset

    Example:
        >>> x, factors = shapes()
        >>> x.shape, factors[-1].tolist()
        (torch.Size([3840, 1, 32, 32]), [2, 3, 4, 7, 7])
    """
    factors = torch.cartesian_prod(*(torch.arange(n) for n in FACTORS.values()))
    points = (torch.arange(_SIZE * _FINE) + 0.5) / _FINE  # in pixels
    images = []
    for part in factors.split(len(factors) // 12):  # of one shape each
        _, scale, orientation, right, down = part.T[..., None, None]
        x, y = points - (9 + 2 * right), points[:, None] - (9 + 2 * down)  # from the centre
        radius, angle = 3.5 + scale, orientation * math.pi / 10
        u = (angle.cos() * x + angle.sin() * y) / radius
        v = (angle.sin() * x - angle.cos() * y) / radius  # upwards
        inside = _INSIDE[part[0, 0]](u, v)
        images.append(torch.nn.functional.avg_pool2d(inside.float()[:, None], _FINE) > 0.5)
    return torch.cat(images).float(), factors
