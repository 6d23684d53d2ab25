"""Generate: new data, from the prior and from where the codes of data lie, and how near they are to test data."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.application_plots.grids import grids
from pyrovae.applications.aggregate_posterior import aggregate_posterior
from pyrovae.applications.generation import Generated, distances, generated
from pyrovae.arguments import whole
from pyrovae.columns import columns
from pyrovae.conditions import OneHot, Quadrants
from pyrovae.diagnostics import two_sample
from pyrovae.model import Model
from pyrovae.models import M2, Autoencoder, ConditionalVAE
from pyrovae.one_vector import has_one_vector, has_real_vector
from pyrovae.rng import stream
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images, some
from pyrovae.tasks.task import Result

__all__ = ["generate"]

_SETS, _SET = 10, 500  # sets of data whose distances to test data are told, and how many data each has at most
_FITTED = 10_000  # training data to which the aggregate posterior is fitted


def generate(run: Run, num_samples: int = 1000, components: int = 10, seed: int = 0) -> Result:
    """Generate data: means and samples of p(x | z), of z from the prior, and from a mixture fitted to codes of data.

    A model that takes classes is given as many of each. How near samples are to test data is told by the Frechet
    distance, beside that of training data, and by a two-sample test.

    Args:
        run: the run.
        num_samples: data from each source.
        components: of the mixture of normals that is fitted to z ~ q(z | x) of training data.
        seed: of all that is drawn.
    """
    whole("num_samples", num_samples)
    whole("components", components)
    vae, test = run.vae, columns(run.dataset.test)
    whole("the number of test data", len(test[0]), 2)
    [train] = some(_FITTED, seed, columns(run.dataset.train)[0])
    sources = _sources(vae, test, train, components, seed)
    conditions = _conditions(vae, test, num_samples)
    found = {name: generated(vae, num_samples, p, conditions, seed) for name, p in sources.items()}

    size = min(len(test[0]), len(train), _SET)
    x, *y = some(size, seed, *test)
    y = y[0] if isinstance(vae, ConditionalVAE) else None
    sets = {
        name: [generated(vae, size, p, y, stream(seed, f"set {k}")).sample for k in range(_SETS)]
        for name, p in sources.items()
    }
    sets["training data"] = [some(size, stream(seed, f"set {k}"), train)[0] for k in range(_SETS)]
    numbers, lines = {"set_size": size, "sets": _SETS}, [f"of {size} data at a time, Frechet distance to test data:"]
    for name, distance in distances(sets, x, train[:2000]).items():
        key, p_value = name.replace(" ", "_"), two_sample(x, sets[name][0], seed=seed).p_value
        numbers |= {f"frechet_{key}": distance.value, f"frechet_{key}_std_error": distance.std_error}
        numbers[f"two_sample_p_{key}"] = p_value
        told = f"{distance.value:8.3f} (standard error {distance.std_error:.3f}), two-sample p-value {p_value:.3f}"
        lines.append(f"  {name:20s}{told}")

    y = conditions
    if isinstance(vae, ConditionalVAE) and isinstance(vae.condition, Quadrants):
        found = {n: Generated(*(vae.condition.merge(t, y) for t in new[:2]), None) for n, new in found.items()}
        y = None
    files = {f"{name.replace(' ', '_')}.npz": partial(_save, new, conditions) for name, new in found.items()}
    if all(are_images(new.mean) for new in found.values()):
        figure = _sides(found, conditions is not None) if y is None else _classes(found["prior"], y)
        files["generated.png"] = figure.savefig
    return Result(numbers, "\n".join(lines), files)


def _sources(
    vae: Model, test: tuple[Tensor, ...], train: Tensor, components: int, seed: int
) -> dict[str, TorchDistribution | None]:
    """By name p(z), or None for all that the model draws by itself."""
    data = test if len(test) > 1 else test[0]
    if not has_one_vector(vae, data):
        return {"prior": None}
    sources = {} if isinstance(vae, Autoencoder) else {"prior": vae.prior()}
    if has_real_vector(vae, data):
        sources["aggregate posterior"] = aggregate_posterior(vae, train, components, seed)
    return sources


def _conditions(vae: Model, test: tuple[Tensor, ...], n: int) -> Tensor | None:
    """Classes `(n,)`, as many of each; of a model that takes other conditions, those of test data."""
    if isinstance(vae, M2):
        return torch.arange(n) * vae.classes // n
    if not isinstance(vae, ConditionalVAE):
        return None
    if isinstance(vae.condition, OneHot):
        return torch.arange(n) * vae.condition.out_shape[0] // n
    return test[1][torch.arange(n) % len(test[1])]


def _save(new: Generated, y: Tensor | None, path: str) -> None:
    arrays = {"means": new.mean, "samples": new.sample, "z": new.z, "y": y}
    np.savez(path, **{name: t.numpy() for name, t in arrays.items() if t is not None})


def _sides(found: Mapping[str, Generated], given: bool) -> Figure:
    """Means beside samples, of the prior above those of the aggregate posterior; with y of test data given, or not."""
    side = min(6, int(len(next(iter(found.values())).mean) ** 0.5))
    panels = {}
    for name, new in found.items():
        for kind, x in (("means", new.mean), ("samples", new.sample)):
            panels[f"{name}: {kind}"] = x[: side**2].unflatten(0, (side, side))
    of = "p(x | z, y), y of test data" if given else "p(x | z)"
    return grids(panels, f"Means and samples of {of}, the same z at the same place")


def _classes(new: Generated, y: Tensor) -> Figure:
    """A class a row, of at most 12."""
    kinds = y.unique()[:12].tolist()
    most = min(8, min(int((y == c).sum()) for c in kinds))
    panels = {
        f"{kind} of p(x | z, y)": torch.stack([x[y == c][:most] for c in kinds])
        for kind, x in (("means", new.mean), ("samples", new.sample))
    }
    return grids(panels, "A class y a row, the same z at the same place", names=[f"y = {c}" for c in kinds])
