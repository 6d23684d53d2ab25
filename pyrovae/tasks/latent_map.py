"""Map: where data lie in the latent space, what lies between them, and what a picture of it loses."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pyrovae import export, plotting
from pyrovae.application_plots.latent_map import planes
from pyrovae.applications.latent_map import latent_moments, neighbours, path, plane, quantile_grid, tsne
from pyrovae.autoencoder import Autoencoder
from pyrovae.evaluation import evaluating
from pyrovae.one_vector import require_one_vector
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.supports import describe
from pyrovae.tasks.subset import Subset, subset
from pyrovae.tasks.task import Result

__all__ = ["latent_map"]


def latent_map(run: Run, projector: bool = False, seed: int = 0) -> Result:
    """Map the latent means of test data, with what is decoded around them.

    Args:
        run: the run.
        projector: whether to write the folder `projector` too, for `tensorboard --logdir`.
        seed: of what is drawn at random: the data, where there are many, and t-SNE.
    """
    require_one_vector(run.vae, run.dataset.test, "a map")
    if projector:
        export.require("tensorboard")
    train, test = subset(run, "train", 1500, seed), subset(run, "test", 1000, seed)
    means, deviations = latent_moments(run.vae, torch.cat([train.x, test.x]))
    n, dimensions = len(train.x), means.shape[1]
    points = {"pca" if dimensions > 2 else "plane": plane(means, deviations)}
    if dimensions > 2:
        points["t_sne"] = tsne(means, seed), ("t-SNE 1", "t-SNE 2")
    numbers, sentences = {"latent_dim": dimensions, "num_data": len(test.x)}, []
    if test.labels is not None and len(train.labels.unique()) > 1:
        spaces = {"all_dimensions": means} | {name: of for name, (of, _) in points.items() if dimensions != 2}
        for name, space in spaces.items():
            found = neighbours((space[:n], train.labels), (space[n:], test.labels))
            numbers |= {f"{name}_{field}": value for field, value in found._asdict().items()}
            told = f"{found.accuracy:.1%} +- {found.std_error:.1%}"
            sentences.append(f"labels told by five neighbours {_NAMES[name].format(dimensions)}: {told}")
    files = {}
    if _has_grid(run):
        files["map.png"], numbers["outside"] = _grid(run, means[n:], test, seed)
        sentences.append(f"means off the grid, which are not shown: {numbers['outside']:.1%}")
    else:
        pictures = {
            _NAMES[name]: (of[n:], axes, numbers.get(f"{name}_accuracy")) for name, (of, axes) in points.items()
        }
        files["map.png"] = planes(pictures, test.labels, numbers.get("all_dimensions_accuracy")).savefig
    if projector:
        files["projector/"] = partial(_projector, run, test)
        sentences.append("projector: tensorboard --logdir of the folder projector")
    return Result(numbers, "\n".join(sentences or [f"{len(test.x)} means, without labels"]), files)


_NAMES = {"all_dimensions": "in z, D = {}", "plane": "in the plane", "pca": "by PCA", "t_sne": "by t-SNE"}


def _has_grid(run: Run) -> bool:
    """Whether z is of the plane, of a density p(z) that can be drawn from, and x an image."""
    prior, shape = run.vae.prior(), run.dataset.test.shape[1:]
    of_plane = tuple(prior.event_shape) == (2,) and describe(prior.support) == "R^D"
    return of_plane and not isinstance(run.vae, Autoencoder) and len(shape) == 3 and shape[0] in (1, 3)


def _grid(run: Run, means: Tensor, test: Subset, seed: int) -> tuple[Callable, float]:
    """What writes the map over what is decoded, and the share of means that are off the grid."""
    vae = run.vae
    with evaluating(vae), isolated(seed):
        grid, quantiles = quantile_grid(vae, torch.linspace(0.01, 0.99, 20))
        line = path(means, test.labels, quantiles)
        images, strip = (vae.likelihood(z).mean for z in (grid, line.to(grid)))
    outside = ((means < quantiles[:, 0]) | (means > quantiles[:, -1])).any(1).double().mean().item()
    return plotting.decoded_grid(images, quantiles, line, strip, means, test.labels).savefig, outside


def _projector(run: Run, test: Subset, folder: Path) -> None:
    export.projector(run.vae, test.x, folder, test.labels)
