"""Comparisons: entries trained under equal conditions, with several seeds, scored alike, and their differences.

An entry is a run's options; a cell is an entry with a seed, trained and scored in a folder of its own. All cells of a
seed have the same data in the same order and start alike; all cells are scored on the same test data by the same
evaluator. Cells that are finished are never computed again, and tables are made of what the cells keep. Several
processes may work on one comparison, see `pyrovae.claims`: a cell is of one at a time, and another goes on with it if
that one dies.

Entries may differ in dequantization and in likelihoods of probabilities and of densities, if they are of the same
images: they are compared by the probabilities of these. A density at grey values that were not dequantized is none.
"""

import io
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro.infer
import torch
from jsonargparse import Namespace
from torch import Tensor

from pyrovae import evaluation, known, runs
from pyrovae.arguments import whole as whole_number
from pyrovae.bits import log_cell
from pyrovae.checkpoint import read as read_checkpoint
from pyrovae.claims import claimed, holder
from pyrovae.compatibility import require
from pyrovae.data import Dataset, Protocol
from pyrovae.files import whole, with_nan, write_json
from pyrovae.gradient_study import decoder_evaluations, gradient_study
from pyrovae.jobs import helping
from pyrovae.memory import explained
from pyrovae.objective import Objective
from pyrovae.options import Parser
from pyrovae.rng import isolated
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["Cell", "Comparison", "parse", "parser", "run", "signal_to_noise", "train"]

DEFAULTS = (
    "ELBO/Pathwise: --objective ELBO --objective.gradient Pathwise",
    "ELBO/STL: --objective ELBO --objective.gradient STL",
    "IWAE-8/Pathwise: --objective IWAE --objective.num_particles 8 --objective.gradient Pathwise",
    "IWAE-8/DReG: --objective IWAE --objective.num_particles 8 --objective.gradient DReG",
)
SCORES, NUMBERS = "scores.npz", "scores.json"  # the second as metrics.json was, until a cell is evaluated by itself
_K = tuple(2**i for i in range(7))  # of the signal-to-noise ratio against K
_DRAWS = 100  # gradients for a signal-to-noise ratio
_EQUAL = ("seed", "num_samples", "epochs", "max_seconds", "valid_num_samples", "device")  # for a fair comparison
_TIGHT = 1000  # test data, and draws for each, for bounds against K
_PAUSE = 1.0  # seconds between looks at the cells of others


class Cell(NamedTuple):
    """An entry with a seed: a run's options, and the folder that keeps it."""

    entry: str
    options: Namespace
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has been trained and scored; `scores.json` is written last."""
        return (self.folder / NUMBERS).exists()

    @property
    def claim(self) -> Path:
        """The file that tells which process works on it, or did so last."""
        return self.folder.with_suffix(".worker")

    def __str__(self) -> str:
        return f"{self.entry}, seed {self.options.seed}"


class Comparison(NamedTuple):
    """What is compared: the options of each entry, by its name, and the seeds that each is trained with.

    An entry's `log_cell` is what turns its log p(x) into log-probabilities of data, or None if nothing does. `jobs` is
    the number of processes to work on the cells.
    """

    entries: dict[str, Namespace]
    seeds: tuple[int, ...]
    folder: Path
    log_cell: dict[str, float | None]
    jobs: int = 1

    def cells(self) -> Iterator[Cell]:
        """Each entry with each seed, seed by seed, so that what is there early is of all entries."""
        for seed in self.seeds:
            for name, options in self.entries.items():
                seeded = Namespace(**{**vars(options), "seed": seed})
                yield Cell(name, seeded, self.folder / "cells" / slug(name) / f"seed-{seed}")


class Measured(NamedTuple):
    """What an entry's numbers are of: its data, and what turns its log p(x) into log-probabilities of them."""

    data: Protocol
    log_cell: float | None


def slug(name: str) -> str:
    """The name of an entry as that of a file."""
    return re.sub(r"[^\w.-]+", "-", name)


def parser() -> Parser:
    """The options of a comparison: those that all entries share, as for a run, the entries, the seeds, the budget."""
    parser = runs.parser()
    parser.description = (
        "Compare objectives, gradient estimators, priors, likelihoods or encoders under equal conditions."
    )
    parser.add_argument(
        "--entries",
        nargs="+",
        type=str,
        default=list(DEFAULTS),
        help="what is compared, each as 'NAME: OPTIONS', with options of scripts/train.py in which it differs",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="each entry is trained with each of them")
    parser.add_argument(
        "--decoder_evaluations",
        type=float | None,
        default=None,
        help="budget of a training in evaluations of p(x | z), whole epochs, in place of --epochs; "
        "for a budget in seconds give --max_seconds, which replaces --epochs too",
    )
    parser.add_argument("--out", type=str, default="runs/comparison", help="folder of the comparison")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="processes that share the cells, and the threads; bars and warnings of all but the first go to jobs/. Or "
        "start the same command several times, on any machine that has the folder",
    )
    parser.set_defaults({"valid_num_samples": 50})
    return parser


def parse(arguments: Sequence[str] | None = None) -> Comparison:
    """The comparison that a command line describes, its budget shared out, each entry built once to see that it can be.

    Args:
        arguments: of the command line, by default the process's own.

    Raises:
        ValueError: if entries cannot be told apart or compared, cannot be built, or have no epoch within the budget, or
            the folder keeps something else.

    Example:
        >>> import tempfile
        >>> entries = ["normal:", "mixture: --prior MixtureOfNormals"]
        >>> chosen = parse(["--out", tempfile.mkdtemp(), "--seeds", "0", "1", "--entries", *entries])
        >>> [(cell.entry, cell.options.seed) for cell in chosen.cells()]
        [('normal', 0), ('mixture', 0), ('normal', 1), ('mixture', 1)]
    """
    full = parser()
    options = full.parse_args(arguments)
    whole_number("num_samples", options.num_samples, least=2)  # for a standard error
    if len(set(options.seeds)) < len(options.seeds) or not options.seeds:
        raise ValueError(f"seeds must be given, each once, not {options.seeds}")
    if options.seed != full.get_defaults().seed:
        raise ValueError("a comparison has several seeds: give --seeds")
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {options.jobs}")
    if options.max_seconds is not None and options.decoder_evaluations is not None:
        raise ValueError("give one budget: --max_seconds or --decoder_evaluations")
    folder = Path(options.out)
    if (folder / runs.CHECKPOINT).exists():
        raise ValueError(f"'{folder}' keeps a run: give the comparison another --out")
    runs.anchor(options)
    jobs = options.pop("jobs")
    text = full.dump(options, skip_unset=False)
    entries, seeds, budget = options.entries, tuple(options.seeds), options.decoder_evaluations
    for name in ("config", "entries", "seeds", "decoder_evaluations", "out", "seed"):
        options.pop(name)
    if options.max_seconds is not None:
        options.epochs = 10**6
    shared = runs.parser().changes(options)
    shared_options = runs.parser().parse_args(["--config", shared])
    chosen = dict(_entry(entry, shared) for entry in entries)
    for name, entry in chosen.items():
        for shared_by_all in _EQUAL:
            if entry.get(shared_by_all) != shared_options.get(shared_by_all):
                raise ValueError(
                    f"entry '{name}': --{shared_by_all} is given once, for all entries, or conditions are unequal"
                )
    if len({slug(name) for name in chosen}) < len(entries):
        raise ValueError(f"entries need names of their own: {', '.join(entry.partition(':')[0] for entry in entries)}")
    measured = _check_comparable(chosen, budget)
    comparison = Comparison(chosen, seeds, folder, {name: of.log_cell for name, of in measured.items()}, jobs)
    for cell in comparison.cells():
        _check_same(cell, measured[cell.entry].data)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "comparison.yaml") as path:
        path.write_text(text)
    return comparison


def run(comparison: Comparison) -> Comparison:
    """Train and score all cells that are not finished, and tell which; the comparison of the entries that could be.

    Cells that another process works on are left to it, and waited for.

    Raises:
        ValueError: if training failed for all entries, or another process has put cells of other options there.
    """
    with helping(comparison.jobs - 1, comparison.folder / "jobs", _work, comparison):
        failed = _work(comparison)
    lacking = {cell.entry for cell in comparison.cells() if not cell.finished}
    if len(lacking) == len(comparison.entries):
        raise ValueError(f"training failed for all entries: {next(iter(failed.values()))}")
    return comparison._replace(entries={name: o for name, o in comparison.entries.items() if name not in lacking})


def _work(comparison: Comparison) -> dict[str, str]:
    """Do cells until all are finished or failed; why they failed, by entry."""
    cells, failed, others = list(comparison.cells()), {}, ""
    names = {cell.folder: f"[{number}/{len(cells)}] {cell}" for number, cell in enumerate(cells, 1)}
    while cells:
        left = []
        for cell in cells:
            with nullcontext(True) if cell.finished else claimed(cell.claim) as mine:
                if not mine:
                    left.append(cell)
                    continue
                _check_options(cell)  # as a process with others may have begun it since they were looked at
                print(f"{names[cell.folder]}{': finished before' if cell.finished else ''}", flush=True)
                try:
                    with explained():
                        train(cell)
                except (FloatingPointError, MemoryError, RuntimeError, ValueError) as error:  # of one entry alone
                    failed[cell.entry] = str(error)
                    print(f"left out: entry '{cell.entry}' failed with seed {cell.options.seed}: {error}", flush=True)
        if len(left) == len(cells):  # nothing was free
            if others != (others := ", ".join(f"{cell} ({holder(cell.claim)})" for cell in left)):
                print(f"waiting for {others}", flush=True)
            time.sleep(_PAUSE)
        cells = left
    return failed


def train(cell: Cell) -> None:
    """Train a cell, or go on where it stopped, and score it; a cell that is finished stays as it is."""
    if cell.finished:
        return
    seed = cell.options.seed
    run = runs.train(cell.options, cell.folder, resume=(cell.folder / runs.CHECKPOINT).exists())
    vae, x = run.vae, run.dataset.test
    scores = evaluation.scores(vae, x, cell.options.num_samples, seed)
    few, draws = x[:_TIGHT], min(cell.options.num_samples, _TIGHT)
    num_particles = [2**i for i in range(draws.bit_length())]  # 1, 2, 4, ... up to the draws there are
    exact = known.log_likelihood(vae, few) if isinstance(vae, VAE) else None
    arrays = {
        "elbo": scores.elbo.value,  # (N,)
        "log_likelihood": scores.log_likelihood.value,  # (N,)
        "num_particles": torch.tensor(num_particles),
        "bounds": evaluation.bounds(vae, few, num_particles, draws, seed).double().mean(1),  # by K
        "exact": torch.tensor(float("nan")) if exact is None else exact.double().mean(),
    }
    with whole(cell.folder / SCORES) as path:
        np.savez(path, **{name: array.cpu().numpy() for name, array in arrays.items()})
    metrics = runs.score(run, cell.options.num_samples, seed, scores) | _cost(run, cell)
    for name in (runs.METRICS, NUMBERS):
        write_json(cell.folder / name, metrics)


def signal_to_noise(comparison: Comparison) -> list[dict[str, Any]]:
    """The signal-to-noise ratio of each entry's gradients against K, all at the same parameters where that can be.

    The parameters are those of the first entry that has the same model, as the first seed left them. Rows as of
    `gradient_study`, kept in the comparison's folder. None for entries that share one objective with its estimator, as
    it is these that are told apart by it.
    """
    objectives = [_plain(options.objective) for options in comparison.entries.values()]
    if len(objectives) > 1 and all(objective == objectives[0] for objective in objectives):
        return []
    rows, cells = [], {cell.entry: cell for cell in reversed(list(comparison.cells()))}  # the first seed's
    for name, options in comparison.entries.items():
        if "num_particles" not in options.objective.get("init_args", {}):
            continue
        alike = (e for e, others in comparison.entries.items() if _model(others) == _model(options))
        at = cells[next(alike)]
        settings = {"entry": name, "at": at.entry, "seed": at.options.seed, "objective": _plain(options.objective)}
        settings["elbo"] = json.loads((at.folder / NUMBERS).read_text())["elbo"]  # as tells the parameters apart
        path = comparison.folder / "signal_to_noise" / f"{slug(name)}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if {key: kept.get(key) for key in settings} != settings:
            bounds = {k: bound for k in _K if (bound := _with_particles(options, k)) is not None}
            run = runs.load(at.folder)
            x = run.dataset.test[: options.batch_size]
            kept = settings | {"rows": _snr(run.vae, x, name, bounds.__getitem__, list(bounds), at.options.seed)}
            path.parent.mkdir(exist_ok=True)
            write_json(path, kept)
        rows += map(with_nan, kept["rows"])
    return rows


def _cost(run: runs.Run, cell: Cell) -> dict[str, float]:
    """What training took, and the signal-to-noise ratio of the gradients that it ended with."""
    options = cell.options
    objective = runs.parser().instantiate(options).objective
    if isinstance(objective, Objective):  # with what a baseline has learned
        objective.load_state_dict(read_checkpoint(cell.folder / runs.CHECKPOINT)["parts"]["objective"])
    x = run.dataset.test[: options.batch_size]
    each = decoder_evaluations(objective, run.vae, x)
    rows = _snr(run.vae, x, "", lambda num_particles: objective, [objective.num_particles], options.seed)
    return {
        "decoder_evaluations": each * _train_size(run.dataset) * len(run.history),
        **{f"snr_{row['block']}": row["snr"] for row in rows},
    }


def _train_size(dataset: Dataset) -> int:
    return len(dataset.train[0] if isinstance(dataset.train, tuple) else dataset.train)


def _snr(
    vae: VAE, x: Tensor, name: str, bound: Callable[[int], pyro.infer.ELBO], num_particles: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """Rows of the gradient study of one objective, without a truth, which would take longer than all the rest."""
    pairs = {name: (lambda num_particles: bound(num_particles), None)}
    return gradient_study(vae, x, pairs, num_particles, num_draws=_DRAWS, reference_draws=0, seed=seed)


def _with_particles(options: Namespace, num_particles: int) -> pyro.infer.ELBO | None:
    """The entry's objective with another K, if it can be had with that."""
    options = options.clone()
    options.objective.init_args.num_particles = num_particles
    try:
        with isolated(options.seed, "objective"):
            return runs.parser().instantiate(options).objective
    except ValueError:  # some estimators need several draws
        return None


def _entry(entry: str, shared: str) -> tuple[str, Namespace]:
    """Name and options of 'NAME: OPTIONS', over the options that all entries share."""
    name, colon, text = entry.partition(":")
    if not colon or not slug(name.strip()).strip("-."):
        raise ValueError(
            f"an entry is given as 'NAME: OPTIONS', such as 'STL: --objective.gradient STL', not '{entry}'"
        )
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            common, options = (runs.parser().parse_args(["--config", shared, *own]) for own in ([], shlex.split(text)))
    except (SystemExit, ValueError) as error:
        reason = (
            told.getvalue().removeprefix("error: ").strip() or f"'{text.strip()}' is no choice of options ({error})"
        )
        raise ValueError(f"entry '{name.strip()}': {reason}") from None
    try:
        runs.require_taken(options, common)
    except ValueError as error:
        raise ValueError(f"entry '{name.strip()}': {error}") from None
    options.pop("config")
    runs.anchor(options)
    return name.strip(), options


def _check_comparable(entries: dict[str, Namespace], decoder_budget: float | None) -> dict[str, Measured]:
    """Build each entry and differentiate its objective once; set epochs by the budget; what its numbers are of."""
    found = {}
    for name, options in entries.items():
        try:
            vae, dataset, arguments = runs.prepare(options)
            if isinstance(dataset.test, tuple):
                raise ValueError("its numbers are of x given y, and others' of x: leave it out")
            vae.check(dataset.test, name="test")
            fit(vae, dataset.train, dataset.valid, progress=False, **runs.taken(fit, {**arguments, "epochs": 0}))
            if require(vae, arguments["objective"], dataset.test).at_a_point:
                raise ValueError("its q(z | x) has no density, so neither ELBO nor log p(x) to compare: leave it out")
            each = decoder_evaluations(arguments["objective"], vae, dataset.test[:2]) * _train_size(dataset)
        except ValueError as error:
            raise ValueError(f"entry '{name}': {error}") from error
        if decoder_budget is not None:
            options.epochs = int(decoder_budget // each)
            if options.epochs < 1:
                raise ValueError(
                    f"an epoch of entry '{name}' takes {each:.3g} decoder evaluations, more than the budget of "
                    f"{decoder_budget:.3g}"
                )
        if options.epochs < 1:
            raise ValueError(f"entry '{name}': epochs must be at least 1, not {options.epochs}")
        found[name] = Measured(dataset.protocol, log_cell(vae.likelihood, dataset.protocol))
        _check_same_data(found)
    return found


def _check_same_data(found: dict[str, Measured]) -> None:
    """Refuse the last entry if its numbers cannot stand beside those of the first."""
    first, last = next(iter(found)), next(reversed(found))
    a, b = found[first], found[last]
    if _raw(a.data) != _raw(b.data):
        raise ValueError(
            f"entries '{first}' and '{last}' are of different data or different binarization, and numbers of "
            f"different data cannot be compared: give --binarize and --data for all entries"
        )
    if a.data.binarize != "none" and (a.log_cell is None) != (b.log_cell is None):
        raise ValueError(
            f"entries '{first}' and '{last}' cannot be compared: one gives probabilities of data, the other densities"
        )


def _raw(protocol: Protocol) -> Protocol:
    """Of the data as they were before dequantization, of which probabilities are."""
    if protocol.binarize != "none":
        return protocol
    return replace(protocol, dequantize=False, binarize_seed=None, checksum=protocol.raw_checksum)


def _check_same(cell: Cell, protocol: Protocol) -> None:
    """Refuse a folder that keeps a run of other options, or scores of other data."""
    _check_options(cell)
    if cell.finished and json.loads((cell.folder / NUMBERS).read_text())["checksum"] != protocol.checksum:
        raise ValueError(f"'{cell.folder}' keeps a run on other data: give the comparison another --out")


def _check_options(cell: Cell) -> None:
    """Refuse a folder that keeps a run of other options."""
    path = cell.folder / runs.CONFIG
    if not path.exists():
        return
    saved = runs.parser().parse_path(path)
    for name in vars(cell.options).keys() - {"device", "data", "root", "config"}:
        if saved[name] != cell.options[name]:
            raise ValueError(
                f"'{cell.folder}' keeps a run with another --{name}: give the comparison another --out, or delete that "
                f"folder"
            )


def _model(options: Namespace) -> dict[str, Any]:
    """All options but the objective's."""
    return {name: value for name, value in vars(options).items() if name not in ("objective", "epochs")}


def _plain(options: Namespace) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(options.as_dict()))
