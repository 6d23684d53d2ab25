"""Tasks: what a run is used for, each a function of the run, whose arguments are the options of `scripts/apply.py`."""

from pyrovae.tasks.arithmetic import arithmetic
from pyrovae.tasks.augment import augment
from pyrovae.tasks.compress import compress
from pyrovae.tasks.denoise import denoise
from pyrovae.tasks.detect import detect
from pyrovae.tasks.generate import generate
from pyrovae.tasks.impute import impute
from pyrovae.tasks.interpolate import interpolate
from pyrovae.tasks.latent_map import latent_map
from pyrovae.tasks.manifold import manifold
from pyrovae.tasks.task import Result, write
from pyrovae.tasks.traverse import traverse
from pyrovae.tasks.uncertainty import uncertainty

__all__ = ["TASKS", "Result", "write"]

TASKS = {
    "arithmetic": arithmetic,
    "augment": augment,
    "compress": compress,
    "denoise": denoise,
    "detect": detect,
    "generate": generate,
    "impute": impute,
    "interpolate": interpolate,
    "manifold": manifold,
    "map": latent_map,
    "traverse": traverse,
    "uncertainty": uncertainty,
}  # by the name on the command line
