"""Paths from one z to another that no model has a say in: straight ones, and arcs around the origin."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["linear", "spherical"]


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """z(t) = (1 - t) a + t b.

    Args:
        a: where paths start, `(..., D)`.
        b: where they end, `(..., D)`.
        t: from 0 to 1, `(T,)`.

    Returns:
        Points of the paths, `(T, ..., D)`.

    Example:
        >>> linear(torch.zeros(2), torch.tensor([2.0, 4.0]), torch.tensor([0.0, 0.5, 1.0])).tolist()
        [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
    """
    return torch.lerp(a, b, _before(t, a))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """z(t) = |z|(t) (sin((1 - t) w) a / |a| + sin(t w) b / |b|) / sin w, with w the angle from a to b.

    The direction turns at constant speed, and |z|(t) goes evenly from |a| to |b|; for |a| = |b| it is White's formula.
    Draws of N(0, I) in many dimensions all lie about sqrt(D) from the origin, so that a straight line between them
    goes where there are none, and this path does not. Of the many arcs between opposite directions it takes one; where
    there is no angle, as from the origin, it is straight.

    Args:
        a: where paths start, `(..., D)`.
        b: where they end, `(..., D)`.
        t: from 0 to 1, `(T,)`.

    Returns:
        Points of the paths, `(T, ..., D)`.

    References:
        Shoemake (1985), Animating rotation with quaternion curves, https://doi.org/10.1145/325165.325242
        White (2016), Sampling generative networks, https://arxiv.org/abs/1609.04468

    Example:
        >>> spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5])).tolist()
        [[0.7071, 0.7071]]
    """
    t = _before(t, a)
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    v = F.normalize(b, dim=-1)
    u = torch.where(length_a > 0, F.normalize(a, dim=-1), v)
    across = _across(u, v)  # sin(w) times the unit vector towards v that is at right angles to u
    w = torch.atan2(across.norm(dim=-1, keepdim=True), (u * v).sum(-1, keepdim=True))
    opposite = across.norm(dim=-1, keepdim=True) < 10 * torch.finfo(a.dtype).eps
    least = F.one_hot(u.abs().argmin(-1), u.shape[-1]).to(u)  # the axis that is farthest from u
    side = F.normalize(torch.where(opposite, _across(u, least), across), dim=-1)
    return torch.lerp(length_a, length_b, t) * ((t * w).cos() * u + (t * w).sin() * side)


def _across(u: Tensor, v: Tensor) -> Tensor:
    """The part of v at right angles to a unit vector u."""
    return v - (u * v).sum(-1, keepdim=True) * u


def _before(t: Tensor, a: Tensor) -> Tensor:
    """t `(T,)` as `(T, ..., 1)`, to go with a `(..., D)`."""
    return t.to(a).reshape(-1, *(1 for _ in a.shape))
