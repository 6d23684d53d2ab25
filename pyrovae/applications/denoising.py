"""Denoising: what data were before they were corrupted."""

from torch import Tensor

from pyrovae.model import Model

__all__ = ["denoised"]


def denoised(vae: Model, x: Tensor) -> Tensor:
    """To be written."""
    return vae.reconstruct(x)
