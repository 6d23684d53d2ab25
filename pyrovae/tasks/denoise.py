"""Denoise: test data that are corrupted, and what the model makes of them."""

from pyrovae import family_plots
from pyrovae.applications.denoising import denoised
from pyrovae.columns import columns
from pyrovae.corruptions import SaltAndPepper
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.tasks.task import Result

__all__ = ["denoise"]


def denoise(run: Run, seed: int = 0) -> Result:
    """Corrupt test data, and tell what they were.

    Args:
        run: the run.
        seed: of the corruption.
    """
    x = columns(run.dataset.test)[0]
    with isolated(seed):
        corrupted = SaltAndPepper()(x)
    means = denoised(run.vae, corrupted)
    numbers = {"squared_error": (means - x).square().flatten(1).sum(1).mean().item()}
    figure = family_plots.montage({"data x": x[:12], "corrupted": corrupted[:12], "denoised": means[:12]}, "Denoising")
    return Result(numbers, f"squared error {numbers['squared_error']:.2f}", {"denoised.png": figure.savefig})
