"""Detect: which score tells data of a class that the model never saw, or of another set, from test data."""

import inspect
import time
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.applications.anomalies import anomaly_scores, likelihood_regret
from pyrovae.arguments import whole
from pyrovae.columns import columns
from pyrovae.evaluation import log_likelihood
from pyrovae.model import Model
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.tasks.detected import Case, result
from pyrovae.tasks.held_out import without
from pyrovae.tasks.strangers import strangers
from pyrovae.tasks.task import Result

__all__ = ["detect"]


def detect(
    run: Run,
    classes: Sequence[int] | None = None,
    other: str | None = None,
    epochs: int = 30,
    num_data: int = 200,
    num_samples: int = 500,
    max_steps: int = 50,
    seed: int = 0,
) -> Result:
    """Hold out classes, and show other data: tell what scores find anomalous.

    Args:
        run: the run.
        classes: held out one by one, for each of which the run's options are trained again; unless given, all that the
            test data have; [] for none.
        other: other data that are shown to the run, a named set or a path; unless given, shapes for images.
        epochs: of each training without a class.
        num_data: at most, of normal test data, of anomalous ones in each case, and of validation data that tell H.
        num_samples: K, draws for each datum for log p(x).
        max_steps: of the search for each datum's best q(z | x), of which the regret is.
        seed: of the choice of data, and of all draws.
    """
    for name, number in {"num_data": num_data, "num_samples": num_samples, "max_steps": max_steps}.items():
        whole(name, number)
    _require_x_alone(run.vae)
    x, labels = columns(run.dataset.test)[0], None if run.dataset.labels is None else run.dataset.labels.test
    whole("the number of test data", min(num_data, len(x)), 2)
    chosen = _chosen(labels, classes)
    steps, note = _regret_steps(run.vae, x, max_steps)
    scored = partial(_scored, num_data=num_data, num_samples=num_samples, max_steps=steps, seed=seed)
    with isolated(seed, "test data"):
        order = torch.randperm(len(x))
    x, labels = x[order], None if labels is None else labels[order]
    others = scored(run, x[:num_data], strangers(run, other, num_data, seed))
    held_out, start = {}, time.perf_counter()
    for label in tqdm(chosen, unit=" classes", delay=3, disable=None, leave=None):
        of_class = x[labels == label][:num_data]
        known = x[labels != label][:num_data]
        held_out |= scored(without(run, label, epochs), known, {f"class {label}": of_class})
    seconds = time.perf_counter() - start
    trained = f"{len(held_out)} trainings of {epochs} epochs with their scores took {seconds:.1f} s; the run's "
    trained += f"{len(run.history)} epochs took {sum(run.history['seconds']):.1f} s"
    return result(held_out, others, [*[trained] * bool(held_out), *note])


def _require_x_alone(vae: Model) -> None:
    """Refuse a model that tells nothing of x by itself."""
    of_x, *given = inspect.signature(vae.model).parameters.values()
    if needed := [parameter.name for parameter in given if parameter.default is parameter.empty]:
        raise ValueError(
            f"scores are of {of_x.name} by itself, but {type(vae).__name__} is a model of {of_x.name} given "
            f"{', '.join(needed)}: take a run of another model, such as a VAE"
        )


def _regret_steps(vae: Model, x: Tensor, max_steps: int) -> tuple[int | None, list[str]]:
    """The steps for the regret, None for a model that has none, and then why."""
    try:
        likelihood_regret(vae, x[:1], num_samples=2, max_steps=1)
    except ValueError as error:
        return None, [f"no regret: {error}"]
    return max_steps, []


def _chosen(labels: Tensor | None, classes: Sequence[int] | None) -> list[int]:
    """Those to hold out, of the classes that the test data have."""
    there = [] if labels is None else labels.unique().tolist()
    if missing := set(classes or []) - set(there):
        raise ValueError(f"no test data are of class {min(missing)}: there are {there or 'no labels'}")
    return there if classes is None else list(classes)


def _scored(
    run: Run,
    normal: Tensor,
    anomalous: Mapping[str, Tensor],
    num_data: int,
    num_samples: int,
    max_steps: int | None,
    seed: int,
) -> dict[str, Case]:
    """Scores of normal data, and of sets of anomalous ones, by name of the set."""
    valid = log_likelihood(run.vae, columns(run.dataset.valid)[0][:num_data], num_samples, seed).value.cpu()
    sets = [normal, *anomalous.values()]
    found = anomaly_scores(run.vae, torch.cat(sets), -valid.mean().item(), num_samples, max_steps, seed)
    parts = {name: score.cpu().split([len(t) for t in sets]) for name, score in found.items()}
    return {
        name: Case(normal, x, {score: (of[0], of[i]) for score, of in parts.items()}, valid)
        for i, (name, x) in enumerate(anomalous.items(), 1)
    }
