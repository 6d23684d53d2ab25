"""Tasks: what a run is used for, each a function of the run, whose arguments are the options of `scripts/apply.py`."""

from pyrovae.tasks.denoise import denoise
from pyrovae.tasks.detect import detect
from pyrovae.tasks.task import Result, write

__all__ = ["TASKS", "Result", "write"]

TASKS = {"denoise": denoise, "detect": detect}  # by the name on the command line
