"""What a fitted model is used for, each as a function of the model and of data."""

from pyrovae.applications.denoising import Denoised, denoise

__all__ = ["Denoised", "denoise"]
