"""The family side by side: each model trained on the same data for as long, in one table and two figures."""

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import family_plots, runs
from pyrovae.columns import columns
from pyrovae.files import with_nan
from pyrovae.model import Model
from pyrovae.one_vector import has_one_vector
from pyrovae.rng import isolated

__all__ = ["COLUMNS", "MEMBERS", "Member", "figures", "largest_step", "table", "trained"]

NO_DENSITY = "q(z | x) has no density that is known, so there is neither a KL nor a bound"
_GIVEN = "of x given y, which no other row is of"
_ANNEALED = "by annealing from p(z), of at most 300 data, as there is no q(z | x) to weigh draws of"


class Member(NamedTuple):
    """A model with the options of `scripts/train.py` that make it, and what its numbers do not say."""

    options: str
    notes: Mapping[str, str] = {}  # by column, of numbers that are not of what the column says
    lacking: Mapping[str, str] = {}  # by column, why it is empty


_ADVERSARIAL = '--optimizer.betas "[0.5, 0.999]"'
_NO_BOUND = {"ELBO": NO_DENSITY, "KL": NO_DENSITY}
_NO_PRIOR = dict.fromkeys(("log p(x)", "ELBO", "KL"), "there is no p(z), so no p(x)")
_NO_VECTOR = "z are codes, not continuous units"
_NO_CODES = "x is not made of one vector z of continuous units alone"

MEMBERS = {
    "VAE": Member(""),
    "beta-TCVAE": Member("--objective BetaTCVAE --objective.beta 6"),
    "InfoVAE": Member("--objective InfoVAE --objective.lambd 10"),
    "flow posterior": Member("--encoder IAF"),
    "VampPrior": Member("--prior VampPrior"),
    "autoencoder": Member("--model Autoencoder", lacking=_NO_PRIOR),
    "denoising": Member("--model Autoencoder --model.corruption Masking", lacking=_NO_PRIOR),
    "adversarial AE": Member(
        f"--model AdversarialAutoencoder --encoder_lr 2e-4 {_ADVERSARIAL}", {"log p(x)": _ANNEALED}, _NO_BOUND
    ),
    "adversarial VB": Member(
        f"--model AdversarialVB --optimizer.lr 2e-3 --encoder_lr 3e-4 {_ADVERSARIAL}",
        {"log p(x)": _ANNEALED},
        _NO_BOUND,
    ),
    "two layers": Member("--model HierarchicalVAE", lacking={"active units": "there are two vectors z"}),
    "ladder": Member(
        "--model LadderVAE --objective.beta Linear --objective.beta.steps 1000",
        lacking={"active units": "there are two vectors z"},
    ),
    "two levels": Member(
        "--model TwoLevelVAE --prior VampPrior --objective.beta Linear --objective.beta.steps 1000",
        {"active units": "of z2"},
    ),
    "mixture": Member("--model MixtureVAE --prior MixtureOfNormals --objective.gradient Enumerate"),
    "conditional": Member("--model ConditionalVAE", dict.fromkeys(("log p(x)", "ELBO"), _GIVEN)),
    "half missing": Member(
        "--model IncompleteVAE --model.fraction 0.5 --objective IWAE --objective.num_particles 20",
        dict.fromkeys(("log p(x)", "ELBO", "reconstruction"), "of the half of each x that is observed"),
        {"largest step": "codes are of halves of the data"},
    ),
    "M2, 100 labels": Member(
        "--model M2 --objective.gradient Enumerate", lacking={"active units": "q(z | x) is a mixture over y"}
    ),
    "VQ-VAE": Member(
        "--model VQVAE",
        {"log p(x)": "by 100 draws of a q(c | x) that is spread over codes"},
        {"active units": _NO_VECTOR},
    ),
    "deep Markov": Member(
        "--model DeepMarkovModel --latent_dim 16 --objective.num_particles 4 --objective.beta Linear "
        "--objective.beta.steps 400 --optimizer.lr 5e-3",
        lacking={"active units": "there is a z for each row"},
    ),
}

COLUMNS = {
    "log p(x)": "log_likelihood",
    "ELBO": "elbo",
    "reconstruction": "reconstruction",
    "KL": "kl",
    "active units": "active_units",
    "largest step": "largest_step",
    "parameters": "parameters",
    "seconds": "seconds",
}
_OWN = ("accuracy", "perplexity", "dead_codes", "discriminator_accuracy")  # of few models


def trained(
    shared: Iterable[str], names: Iterable[str], folder: Path
) -> Iterator[tuple[str, runs.Run, dict[str, Any]]]:
    """Each member by name as a run with its metrics: trained, scored and drawn, unless its folder keeps all that.

    Args:
        shared: options that all have.
        names: of `MEMBERS`.
        folder: where each gets a folder of its own.

    Raises:
        ValueError: if there is no such member, or a folder keeps a run of other options.
    """
    if unknown := set(names) - MEMBERS.keys():
        raise ValueError(f"there is no member called '{min(unknown)}': there are {', '.join(MEMBERS)}")
    for name in names:
        place = folder / name.replace(" ", "-").replace(",", "")
        arguments = [*shared, *shlex.split(MEMBERS[name].options), "--out", str(place)]
        if (place / runs.CHECKPOINT).exists():
            arguments.append("--resume")
        options, _, resume = runs.parse(arguments)
        run = runs.train(options, place, resume)
        if _scored(place).get("epochs") != len(run.history):
            runs.report(run, place, options.num_samples)
        yield name, run, _scored(place) | {"largest_step": largest_step(run)}


def _scored(place: Path) -> dict[str, Any]:
    """The metrics that a folder keeps, if it does."""
    path = place / runs.METRICS
    return with_nan(json.loads(path.read_text())) if path.exists() else {}


def table(metrics: Mapping[str, dict[str, Any]]) -> tuple[pd.DataFrame, str]:
    """A row for each member, in nats per test datum, and notes: what a cell is of, and why others are empty.

    Args:
        metrics: by name of the member, as `metrics.json` has them.
    """
    rows, notes = [], {}
    for name, of in metrics.items():
        member, row = MEMBERS[name], {"model": name}
        for column, key in COLUMNS.items():
            value = of.get("annealed_log_likelihood", of[key]) if key == "log_likelihood" else of[key]
            said = member.lacking.get(column) or member.notes.get(column)
            if column == "largest step" and math.isnan(value):
                said = said or _NO_CODES
            mark = f" [{notes.setdefault(said, len(notes) + 1)}]" if said else ""
            row[column] = (_told(value) * (column not in member.lacking) + mark).strip()
        own = [f"{key.replace('_', ' ')} {_told(of[key])}" for key in _OWN if key in of]
        rows.append({**row, "of its own": ", ".join(own)})
    return pd.DataFrame(rows), "\n".join(f"[{number}] {said}." for said, number in notes.items())


@torch.no_grad()
def largest_step(run: runs.Run, pairs: int = 100, steps: int = 50) -> float:
    """How smooth p(x | z) is in z: of equal steps between the codes of two data, the largest change over the mean one.

    Changes are those of the mean of p(x | z), Euclidean; 1 if all are alike. NaN for a model without one vector z.

    Args:
        run: a trained run.
        pairs: of test data, neighbours in their order.
        steps: on the way from one to the other.
    """
    if not has_one_vector(run.vae, run.dataset.test):
        return math.nan
    x = columns(run.dataset.test)[0]
    x = x[: 2 * min(pairs, len(x) // 2)].to(next(run.vae.parameters()))
    with isolated(0, "largest step"):
        start, end = _codes(run.vae, x).unflatten(0, (-1, 2)).unbind(1)  # (P, D) each
    t = torch.linspace(0, 1, steps + 1).to(x)[:, None, None]
    means = run.vae.likelihood(torch.lerp(start, end, t)).mean  # (T + 1, P, *event)
    change = means.diff(dim=0).flatten(2).norm(dim=-1)  # (T, P)
    return (change.max(0).values / change.mean(0).clamp(min=1e-12)).mean().item()


def _told(value: float) -> str:
    whole = isinstance(value, int) or float(value).is_integer()
    return "" if math.isnan(value) else f"{value:,.0f}" if whole else f"{value:.2f}"


@torch.no_grad()
def figures(members: Mapping[str, runs.Run], seed: int) -> Iterator[tuple[str, Figure]]:
    """Reconstructions, paths between codes and draws of all members of whole images, side by side.

    Args:
        members: trained runs, by name.
        seed: of what is drawn.
    """
    data = {name: run.dataset.test for name, run in members.items()}
    images = {name: members[name] for name, x in data.items() if isinstance(x, Tensor) and x.dim() == 4}
    if not images:
        return
    x = next(iter(images.values())).dataset.test[:12]
    rebuilt, paths, drawn = {"data x": x}, {}, {}
    for name, run in images.items():
        vae = run.vae
        some = x.to(next(vae.parameters()))
        with isolated(seed, "figures"):
            rebuilt[name] = vae.reconstruct(some)
            if has_one_vector(vae, run.dataset.test):
                paths |= {f"{name}, {i}": row for i, row in enumerate(_paths(vae, some), 1)}
            try:
                drawn[name] = vae.sample(12, "mean")
            except ValueError:  # there is no p(z)
                continue
    yield "reconstructions", family_plots.montage(rebuilt, "Means of p(x | z), z ~ q(z | x)")
    if paths:
        yield "paths", family_plots.montage(paths, "Straight paths between the codes of two data")
    if drawn:
        yield "samples", family_plots.montage(drawn, "Means of p(x | z), z ~ p(z)")


def _codes(vae: Model, x: Tensor) -> Tensor:
    """E_q[z], `(N, D)`, by draws."""
    return vae.encode(x).sample((100,)).mean(0)


def _paths(vae: Model, x: Tensor) -> Iterator[Tensor]:
    """Decoded ways between two pairs of codes, `(12, C, H, W)` each."""
    codes, n = _codes(vae, x), len(x)  # of few data the first are told again
    for start, end in ((0, 3), (1, 6)):
        yield vae.likelihood(torch.lerp(codes[start % n], codes[end % n], torch.linspace(0, 1, 12).to(x)[:, None])).mean
