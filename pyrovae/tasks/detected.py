"""What scores of normal and of anomalous data say: areas under ROC curves, a table, figures and sentences."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import t as student
from torch import Tensor

from pyrovae.application_plots import anomalies as plots
from pyrovae.applications.anomalies import typicality, typicality_threshold
from pyrovae.applications.auroc import AUROC, auroc
from pyrovae.tasks.task import Result

__all__ = ["Case", "result"]

FORMULAS = {
    "surprisal": "-log p(x)",
    "distortion": "-E$_q$[log p(x | z)]",
    "typicality": "|log p(x) + H|",
    "regret": "L(x; q*) - L(x; q)",
}
_LEVEL = 0.01  # of the typicality test
_BATCHES = (1, 10)  # data at a time in it


class Case(NamedTuple):
    """Normal and anomalous data `(N, *event)`, each score of both by name, and log p(x) of validation data."""

    normal: Tensor
    anomalous: Tensor
    scores: Mapping[str, tuple[Tensor, Tensor]]
    valid: Tensor

    def areas(self) -> dict[str, AUROC]:
        """The area under the ROC curve of each score."""
        return {name: auroc(*of) for name, of in self.scores.items()}

    def shown(self) -> dict[str, Tensor] | None:
        """Some of the data, if they are images."""
        if self.normal.dim() != 4 or self.normal.shape[1] not in (1, 3):
            return None
        n = min(16, len(self.normal), len(self.anomalous))
        return {"known": self.normal[:n], "never seen": self.anomalous[:n]}


def result(held_out: Mapping[str, Case], others: Mapping[str, Case], notes: Sequence[str]) -> Result:
    """Numbers, sentences, a table `areas.csv` and figures.

    Args:
        held_out: by class, a model that was trained without it, and test data.
        others: by set, the run's own model, and test data.
        notes: sentences to end with.
    """
    areas = {name: case.areas() for name, case in held_out.items()}
    if len(held_out) > 1:
        areas["mean over classes"] = _mean(list(areas.values()))
    files: dict[str, Callable[[Path], Any]] = {}
    if held_out:
        files["held_out.png"] = plots.areas(
            areas, "Classes never seen: area under the ROC curve, with 95 % intervals"
        ).savefig
        worst = sorted(held_out, key=lambda name: next(iter(areas[name].values())).value)[:4]
        title = "Classes never seen, those told apart worst: ROC curves, with the areas under them"
        files["held_out_roc.png"] = plots.curves(_rates({name: held_out[name] for name in worst}), title).savefig
    areas |= {name: case.areas() for name, case in others.items()}
    cases = held_out | others
    rows = [
        {"set": name, "data": len(cases[name].anomalous) if name in cases else None, "score": score, **area._asdict()}
        for name, of in areas.items()
        for score, area in of.items()
    ]
    files["areas.csv"] = partial(pd.DataFrame(rows).to_csv, index=False)
    files |= {name: figure.savefig for name, figure in _figures(others)}
    numbers = {
        f"{name}/{score}{end}": value
        for name, of in areas.items()
        for score, area in of.items()
        for end, value in zip(("", "/low", "/high"), area, strict=True)
    }
    told = pd.DataFrame({name: {score: _told(area) for score, area in of.items()} for name, of in areas.items()}).T
    sentences = [
        "Areas under ROC curves with intervals of 95 %, of scores that are larger for more anomalous data: surprisal "
        "-log p(x), distortion -E_q[log p(x | z)], typicality |log p(x) + H|, regret L(x; q*) - L(x; q)."
    ]
    sentences.append(told.to_markdown())
    if "surprisal" in next(iter(others.values())).scores:
        alarms = _alarms(others)
        numbers |= {f"{name}/alarms/{m}": share for name, of in alarms.items() for m, share in of.items()}
        sentences += [_of_alarms(m, alarms) for m in _BATCHES]
        worst, *rest = sorted(cases, key=lambda name: areas[name]["surprisal"].value)
        files["failure.png"] = _failure(worst, cases[worst], areas[worst]).savefig
        higher = [name for name in (worst, *rest) if areas[name]["surprisal"].high < 0.5]
        sentences += [_of_failure(name, areas[name]) for name in higher]
        if not higher:
            least = _told(areas[worst]["surprisal"])
            sentences.append(
                f"No set surely has a higher log p(x) than known data; the least area is {least}, for {worst}."
            )
    return Result(numbers, "\n".join([*sentences, *notes]), files)


def _mean(of_each: Sequence[Mapping[str, AUROC]]) -> dict[str, AUROC]:
    """The mean area over classes, with Student's interval, as if they were drawn of many."""
    found = {}
    for name in of_each[0]:
        values = torch.tensor([of[name].value for of in of_each], dtype=torch.double)
        mean, n = values.mean().item(), len(values)
        half = student.ppf(0.975, n - 1) * values.std().item() / math.sqrt(n)
        found[name] = AUROC(mean, max(mean - half, 0.0), min(mean + half, 1.0))
    return found


def _told(area: AUROC) -> str:
    return f"{area.value:.2f} ({area.low:.2f} to {area.high:.2f})"


def _figures(others: Mapping[str, Case]) -> Iterator[tuple[str, Figure]]:
    """ROC curves of other sets, and where their log p(x) lies."""
    title = "Other data against test data: ROC curves, with the areas under them"
    yield "roc.png", plots.curves(_rates(others), title)
    values = {}
    for name, case in others.items():
        if "surprisal" in case.scores:
            normal, anomalous = case.scores["surprisal"]
            values[f"{name}, {len(case.anomalous)} data"] = {"test data": -normal, "the other data": -anomalous}
    if values:
        title = "log p(x) of test data and of other data"
        yield "log_likelihoods.png", plots.histograms(values, title, ["log p(x) (nats)"] * len(values))


def _rates(cases: Mapping[str, Case]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """False and true positive rates, by set and score."""
    from sklearn.metrics import roc_curve  # which takes a second

    lines: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, case in cases.items():
        lines[panel := f"{name}, {len(case.anomalous)} data"] = {}
        for score, (normal, anomalous) in case.scores.items():
            kinds = torch.cat([torch.zeros(len(normal)), torch.ones(len(anomalous))])
            rates = roc_curve(kinds, torch.cat([normal, anomalous]))[:2]
            lines[panel][f"{score}: {auroc(normal, anomalous).value:.2f}"] = rates
    return lines


def _alarms(others: Mapping[str, Case]) -> dict[str, dict[int, float]]:
    """The share of batches that the typicality test finds anomalous, by set and by how many data are in a batch."""
    first = next(iter(others.values()))
    valid, entropy = first.valid, -first.valid.mean().item()
    log_p = {"test data": -first.scores["surprisal"][0]}
    log_p |= {name: -case.scores["surprisal"][1] for name, case in others.items()}
    found = {name: {} for name in log_p}
    for m in _BATCHES:
        threshold = typicality_threshold(valid, entropy, m, _LEVEL)
        for name, values in log_p.items():
            if len(values) >= m:
                found[name][m] = (typicality(values, entropy, m) > threshold).double().mean().item()
    return found


def _of_alarms(m: int, alarms: Mapping[str, Mapping[int, float]]) -> str:
    shares = ", ".join(f"{of[m]:.0%} of {name}" for name, of in alarms.items() if m in of)
    return f"Typicality at level {_LEVEL:.0%}, {m} at a time, finds anomalous: {shares}."


def _failure(name: str, case: Case, areas: Mapping[str, AUROC]) -> Figure:
    """The scores of a set and of known data."""
    panels = {
        f"{score}: area {areas[score].value:.2f}": {"known to the model": normal, f"never seen: {name}": anomalous}
        for score, (normal, anomalous) in case.scores.items()
    }
    title = f"Never seen: {name} (further right: more anomalous)"
    return plots.histograms(panels, title, [f"{FORMULAS[score]} (nats)" for score in case.scores], case.shown())


def _of_failure(name: str, areas: Mapping[str, AUROC]) -> str:
    """What became of a set whose log p(x) is higher than that of known data."""
    mended = [
        f"{score} {'tells them apart' if areas[score].low > 0.5 else 'does not mend it'}, {_told(areas[score])}"
        for score in ("typicality", "regret")
        if score in areas
    ]
    return (
        f"log p(x) is higher for {name}, which the model never saw, than for known data, area "
        f"{_told(areas['surprisal'])}: {'; '.join(mended)}."
    )
