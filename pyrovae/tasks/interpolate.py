"""Interpolate: what lies between two data, along three kinds of paths."""

from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import family_plots
from pyrovae.animation import animation
from pyrovae.applications.decoding import decoded
from pyrovae.applications.geodesics import Curve, geodesic, measured
from pyrovae.applications.paths import linear, spherical
from pyrovae.diagnostics import latent_means
from pyrovae.likelihoods import Bernoulli
from pyrovae.model import Model
from pyrovae.one_vector import require_real_vector
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images
from pyrovae.tasks.task import Result

__all__ = ["interpolate"]

Method = Literal["linear", "spherical", "geodesic"]

_FRAMES = 17  # of an animation, one way
_CLASSES = 10  # at most, in the animation of all
_FINE = 128  # steps, at least, by which a path's length is told


def interpolate(
    run: Run,
    method: Method = "geodesic",
    start: int | None = None,
    end: int | None = None,
    steps: int = 12,
    seed: int = 0,
) -> Result:
    """Interpolate between two test data, from one latent mean to the other: linear, spherical and geodesic paths.

    Lengths are those of what is decoded, by the Fisher-Rao metric for a Bernoulli likelihood, else that of E[x | z].

    Args:
        run: the run.
        method: of the path of which a row of samples is shown, and of the animation of all classes.
        start: index of the test datum that paths start from; unless given, the most typical of the first class, or,
            without classes, the first.
        end: of the one that they end at; unless given, the farthest of those most typical of other classes, or of all.
        steps: images of each path.
        seed: of the samples.
    """
    vae, x = run.vae, run.dataset.test
    labels = None if run.dataset.labels is None else run.dataset.labels.test
    require_real_vector(vae, x, "a path")
    if steps < 2:
        raise ValueError(f"a path has at least its two ends for steps, not {steps}")
    for index in (start, end):
        if index is not None and not 0 <= index < len(x):
            raise ValueError(f"there is no test datum {index}: give an index from 0 to {len(x) - 1}")
    z = latent_means(vae, x)
    typical = torch.arange(len(x)) if labels is None else _typical(z, labels)
    start = typical[0].item() if start is None else start
    others = typical if labels is None else typical[labels[typical] != labels[start]]
    if end is None:
        end = others[(z[others] - z[start]).norm(dim=1).argmax()].item() if len(others) else start
    between = -(-_FINE // (steps - 1))  # fine steps for one that is shown
    curves = {name: _path(name, vae, z[start], z[end], between * (steps - 1) + 1) for name in Method.__args__}
    shown = {name: curve.z[::between] for name, curve in curves.items()}
    means = {name: decoded(vae, path) for name, path in shown.items()}
    samples = decoded(vae, shown[method], "sample", seed)

    metric = "Fisher-Rao" if isinstance(vae.likelihood, Bernoulli) else "Euclidean, of E[x | z]"
    numbers = {"start": start, "end": end, "metric": metric}
    for name, curve in curves.items():
        numbers |= {f"{name}_length": curve.length.item(), f"{name}_energy": curve.energy.item()}
    told = ", ".join(f"{name} {curve.length:.3f}" for name, curve in curves.items())
    arrays = {"samples": samples.numpy()}
    for name in curves:
        arrays |= {f"{name}_z": shown[name].cpu().numpy(), f"{name}_means": means[name].numpy()}
    files = {"paths.npz": partial(np.savez, **arrays)}
    if are_images(x):
        hidden = torch.full((steps - 2, *x.shape[1:]), torch.nan)
        rows = {"data x": torch.cat([x[[start]], hidden, x[[end]]])}
        rows |= {f"{name}, means": mean for name, mean in means.items()} | {f"{method}, samples": samples}
        title = f"p(x | z) along three paths of z, from test datum {start} to {end}"
        files["paths.png"] = family_plots.montage(rows, title, below=f"lengths ({metric}): {told}").savefig
        frames = torch.stack([decoded(vae, _frames(curve.z)) for curve in curves.values()], 1)
        files["paths.gif"] = animation(frames[:, None], "means of p(x | z)", [*curves])
        if labels is not None and len(typical) > 1:
            title = f"means of p(x | z), row to column and back, {method}"
            files["classes.gif"] = animation(_classes(vae, z[typical[:_CLASSES]], method), title)
    return Result(numbers, f"from test datum {start} to {end}; lengths ({metric}): {told}", files)


def _path(method: Method, vae: Model, a: Tensor, b: Tensor, num_points: int) -> Curve:
    """The path from a to b, `(..., D)`."""
    if method == "geodesic":
        return geodesic(vae, a, b, num_points)
    t = torch.linspace(0, 1, num_points)
    return measured(vae, {"linear": linear, "spherical": spherical}[method](a, b, t))


def _typical(z: Tensor, labels: Tensor) -> Tensor:
    """Of each class, the index of the datum that is nearest to the mean of its class, `(C,)`."""
    found = []
    for c in labels.unique():
        of_class = (labels == c).nonzero().flatten()
        found.append(of_class[(z[of_class] - z[of_class].mean(0)).norm(dim=1).argmin()])
    return torch.stack(found)


def _classes(vae: Model, ends: Tensor, method: Method) -> Tensor:
    """From each of C ends `(C, D)` to each other, `(T, C, C, *event)`."""
    i, j = torch.triu_indices(len(ends), len(ends))
    path = decoded(vae, _frames(_path(method, vae, ends[i], ends[j], _FINE // 2 + 1).z))  # (T, pairs, *event)
    frames = path.new_empty(_FRAMES, len(ends), len(ends), *path.shape[2:])
    frames[:, i, j], frames[:, j, i] = path, path.flip(0)
    return frames


def _frames(z: Tensor) -> Tensor:
    """Of the points of a path those of an animation's frames."""
    return z[torch.linspace(0, len(z) - 1, _FRAMES).round().long().to(z.device)]
