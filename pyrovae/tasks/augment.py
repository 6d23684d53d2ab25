"""Augment: few labelled data, more of them made by the model, and whether a classifier gains by it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import applications, family_plots
from pyrovae.application_plots.gains import gains
from pyrovae.applications.augmentation import ALONE
from pyrovae.arguments import whole
from pyrovae.columns import columns
from pyrovae.model import Kind
from pyrovae.paired import Difference, difference
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images, some
from pyrovae.tasks.task import Result

__all__ = ["augment"]


def augment(
    run: Run,
    labelled: tuple[int, ...] = (20, 50, 100, 200),
    seeds: int = 10,
    number: int = 10,
    kind: Kind = "sample",
    linear: bool = False,
    num_test: int = 1000,
    seed: int = 0,
) -> Result:
    """Make more of few labelled data, and tell whether a classifier gains, with intervals over seeds and test data.

    The model was fitted to all training data, without labels, or with those that a model of classes takes.

    Args:
        run: the run, of data with labels.
        labelled: of how many training data the class is known, each a multiple of the number of classes, as [20,50].
        seeds: how many choices of labelled data, at least two.
        number: of data made of each.
        kind: whether these are draws or means of p(x | z), sample or mean.
        linear: whether the classifier is a logistic regression, in place of a support vector machine.
        num_test: how many test data at most, drawn at random.
        seed: the first of the seeds.
    """
    labels, (test, *_) = run.dataset.labels, columns(run.dataset.test)
    train, *known = columns(run.dataset.train)
    if labels is None:
        raise ValueError(f"a classifier needs labels, and {run.dataset.protocol.data} has none: give data with labels")
    if seeds < 2 or not labelled:
        raise ValueError(f"give at least two seeds and a number of labels, not {seeds} and {labelled}")
    whole("num_test", num_test)
    train = train[: len(labels.train)]  # after which a model of few labels has some of them again
    train, test = some(len(train), seed, train, labels.train), some(num_test, seed, test, labels.test)

    right: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))  # by method and labels
    trials = [(s, n) for s in range(seed, seed + seeds) for n in labelled]
    for s, n in tqdm(trials, "learning", unit=" trials", delay=3, disable=None, leave=None):
        found = applications.rightly_told(run.vae, train, test, n, number, kind, linear, seed=s)
        for method, right_or_wrong in found.items():
            right[method][n].append(right_or_wrong)
    values = {method: [torch.stack(of[n]) for n in labelled] for method, of in right.items()}  # each (S, N_test)
    accuracies = {method: [difference(a, torch.zeros_like(a)) for a in of] for method, of in values.items()}
    differences = {
        method: [difference(a, b) for a, b in zip(of, values[ALONE], strict=True)]
        for method, of in values.items()
        if method != ALONE
    }

    numbers = _numbers(labelled, accuracies, "accuracy") | _numbers(labelled, differences, "gain")
    known = f"with the classes of {(known[0][: len(train[0])] >= 0).sum()} of them" if known else "without classes"
    about = (
        f"Accuracy in % on {len(test[0])} test data with {ALONE}, and what other methods gain in points, with 95 % "
        f"intervals over seeds ({seeds}) and test data, each by itself. The model was fitted to {len(train[0])} "
        f"training data, {known}."
    )
    title = f"{number} made of each, by {kind}s of p(x | z): 95 % intervals over seeds and test data"
    files = {"gains.png": gains(labelled, accuracies, differences, title).savefig}
    if are_images(train[0]):
        x, y = (t[applications.few_of_each(train[1], min(labelled), seed)] for t in train)
        made = {"labelled data": x} | applications.augmented(run.vae, x, y, 1, kind, seed)
        rows = {name: images[:: -(-len(x) // 12)] for name, images in made.items()}
        files["examples.png"] = family_plots.montage(rows, f"One made of each, by {kind}s of p(x | z)").savefig
    return Result(numbers, f"{about}\n{_said(labelled, accuracies, differences)}", files)


def _numbers(labelled: Sequence[int], found: Mapping[str, Sequence[Difference]], name: str) -> dict[str, float]:
    """Values and the ends of their intervals, by flat names."""
    return {
        f"{method.replace(' ', '_')}_{n}_{name}{end}": getattr(of, field)
        for method, each in found.items()
        for n, of in zip(labelled, each, strict=True)
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _said(
    labelled: Sequence[int],
    accuracies: Mapping[str, Sequence[Difference]],
    differences: Mapping[str, Sequence[Difference]],
) -> str:
    """The table of all differences, and with how many labels each is real."""
    columns = {ALONE: [f"{100 * of.value:.1f}" for of in accuracies[ALONE]]}
    lines = []
    for method, each in differences.items():
        columns[method] = [f"{100 * of.value:+.1f} [{100 * of.low:+.1f}, {100 * of.high:+.1f}]" for of in each]
        verdicts = {"gains": [], "loses": [], "cannot be told from 0": []}
        for n, of in zip(labelled, each, strict=True):
            verdicts["gains" if of.low > 0 else "loses" if of.high < 0 else "cannot be told from 0"].append(f"{n}")
        said = [f"{verdict} with {', '.join(counts)} labels" for verdict, counts in verdicts.items() if counts]
        lines.append(f"{method}: {'; '.join(said)}")
    return "\n".join([pd.DataFrame(columns, index=pd.Index(labelled, name="labels")).to_markdown(), *lines])
