"""What a fitted model is used for, each as a function of the model and of data."""

from pyrovae.applications.denoising import denoised

__all__ = ["denoised"]
