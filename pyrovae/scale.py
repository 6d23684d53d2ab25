"""Scales: positive numbers from unconstrained ones, and back."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

MIN_SCALE = 1e-4


def positive(unconstrained: Tensor) -> Tensor:
    """The scale of an unconstrained number: softplus(a) + 1e-4, which never reaches 0."""
    return softplus(unconstrained) + MIN_SCALE


def unconstrained(scale: Tensor) -> Tensor:
    """The a of which `positive(a)` is the scale, at least 1e-6 above its floor: log(exp(scale - 1e-4) - 1)."""
    scale = (scale - MIN_SCALE).clamp(min=1e-6)
    return scale + torch.log(-torch.expm1(-scale))
