"""Traverse: what each dimension of z stands for."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pyrovae import family_plots
from pyrovae.animation import animation
from pyrovae.applications.decoding import decoded
from pyrovae.applications.traversals import traversal
from pyrovae.diagnostics import latent_means
from pyrovae.models import Autoencoder
from pyrovae.one_vector import require_real_vector
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images
from pyrovae.tasks.task import Result

__all__ = ["traverse"]


def traverse(run: Run, datum: int | None = None, steps: int = 11, seed: int = 0) -> Result:
    """Traverse z, one dimension at a time, over the prior's quantiles from 2 % to 98 %; those first that tell most.

    Args:
        run: the run.
        datum: index of the test datum at whose latent mean the others stay; unless given, at the prior's mean.
        steps: quantiles.
        seed: of the draws by which the quantiles are told.
    """
    vae, x = run.vae, run.dataset.test
    require_real_vector(vae, x, "a traversal")
    if isinstance(vae, Autoencoder):
        raise ValueError(
            "a traversal is over quantiles of p(z), which an autoencoder has not: interpolate, or generate"
        )
    if datum is not None and not 0 <= datum < len(x):
        raise ValueError(f"there is no test datum {datum}: give an index from 0 to {len(x) - 1}")
    if steps < 2:
        raise ValueError(f"a traversal goes over at least 2 quantiles, not {steps}")
    start = None if datum is None else latent_means(vae, x[[datum]])[0]
    levels = torch.linspace(0.02, 0.98, steps)
    found = traversal(vae, x, levels, start, seed=seed)
    means = decoded(vae, found.z)  # (R, T, *event)
    what, unit, amounts = ("variance", "", found.variance) if found.kl is None else ("KL", " nats", found.kl)
    told = {d + 1: f"{amount:.2f}{unit}" for d, amount in zip(found.dimensions.tolist(), amounts.tolist(), strict=True)}
    numbers = {"dimensions": [*told], "variance": found.variance.tolist()}
    numbers["kl"] = None if found.kl is None else found.kl.tolist()
    summary = f"dimensions by their {what}: " + ", ".join(f"z{d} {amount}" for d, amount in told.items())
    files = {"traversal.npz": partial(np.savez, z=found.z.numpy(), means=means.numpy(), levels=levels.numpy())}
    if are_images(x):
        begin = "the prior's mean" if datum is None else f"test datum {datum}"
        rows = {f"$z_{{{d}}}$  {amount}": row for (d, amount), row in zip(told.items(), means, strict=True)}
        ticks = [f"{level:.0%}" if i % 5 == 0 else "" for i, level in enumerate(levels.tolist())]
        title = f"Means of p(x | z) from {begin}, a dimension a row, by {what}"
        files["traversal.png"] = family_plots.montage(rows, title, None, ticks, "quantile of $p(z_d)$").savefig
        panels = [f"z{d}: {amount}" for d, amount in told.items()]
        files["traversal.gif"] = animation(_panels(means), f"means of p(x | z), a dimension a panel, by {what}", panels)
    return Result(numbers, summary, files)


def _panels(rows: Tensor) -> Tensor:
    """Rows `(R, T, *event)` as frames of panels in a square, `(T, side, side, *event)`, what is left over empty."""
    side = math.ceil(len(rows) ** 0.5)
    down = math.ceil(len(rows) / side)
    empty = rows.new_full((down * side - len(rows), *rows.shape[1:]), float(rows.shape[2] == 3))
    return torch.cat([rows, empty]).movedim(1, 0).unflatten(1, (down, side))
