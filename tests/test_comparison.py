"""Comparisons: cells, equal conditions, tables, resuming, refusals."""

import json
import math
import os
import re
import runpy
import shutil
import signal
import time
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import fresh
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from scipy import stats

from pyrovae import batches, comparison, evaluation, jobs, known, options, plotting, runs
from pyrovae import report as reports
from pyrovae.claims import claimed, holder
from pyrovae.gradient_study import gradient_study
from pyrovae.objectives import ELBO
from pyrovae.report import report

SCRIPTS = Path(__file__).parent.parent / "scripts"
SMALL = ["--encoder_network.hidden", "[8]", "--decoder_network.hidden", "[8]", "--latent_dim", "3", "--epochs", "2"]
SMALL += ["--batch_size", "32", "--num_samples", "20", "--valid_num_samples", "2"]
IWAE = "IWAE: --objective IWAE --objective.num_particles 4"
MIXTURE = "mixture: --prior MixtureOfNormals --prior.components 3"
FIRST = ["--entries", "ELBO:", IWAE, MIXTURE]
DRAWS, TIGHT = 6, 10
TRAIN_SIZE, STEPS = 90, 3  # of the data, and in an epoch
TABLES = [f"{name}.{ending}" for name in ("table", "differences") for ending in ("csv", "json", "md", "tex")]
BITS = ["--prior", "Bernoulli", "--encoder", "Bernoulli"]


@pytest.fixture(autouse=True, scope="module")
def _small(tmp_path_factory):
    """120 grey images of two kinds, few draws for signal-to-noise ratios, figures not drawn, parsers made once."""
    noise = np.random.default_rng(0)
    kind = noise.random((120, 1, 1, 1)) < 0.5
    x = np.where(kind ^ (np.arange(16).reshape(1, 1, 4, 4) % 3 == 0), 220, 30) + noise.integers(0, 30, (120, 1, 4, 4))
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "kinds.npy", x.astype(np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        full, short = comparison.parser(), runs.parser()
        patch.setattr(comparison, "parser", lambda: full)
        patch.setattr(runs, "parser", lambda: short)
        patch.setattr(comparison, "_K", (1, 2))
        patch.setattr(comparison, "_DRAWS", DRAWS)
        patch.setattr(comparison, "_TIGHT", TIGHT)
        patch.setattr(Figure, "savefig", lambda figure, path: path.touch())
        yield


def parse(folder, *arguments):
    return comparison.parse([*SMALL, "--data", "kinds.npy", "--out", str(folder), *arguments])


def finish(chosen):
    comparison.run(chosen)
    return report(chosen)


def compare(folder, *arguments):
    return finish(parse(folder, *arguments))


def script(folder, *arguments):
    runpy.run_path(str(SCRIPTS / "compare.py"))["main"](
        [*SMALL, "--data", "kinds.npy", "--out", str(folder), *arguments]
    )


def numbers(folder):
    """The table without what differs from run to run."""
    return pd.read_json(folder / "table.json").drop(columns="seconds")


def copied(values):
    return {name: value.clone() for name, value in values.state_dict().items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison, and what each of its trainings started from, met and was scored on."""
    folder, starts, passes, scored = tmp_path_factory.mktemp("finished") / "all", [], [], []
    original = batches.Batches.__iter__, runs.fit, runs.score

    @wraps(original[1])  # whose arguments are options
    def fit(vae, *args, **kwargs):
        starts.append(copied(vae))
        passes.append([])
        return original[1](vae, *args, **kwargs)

    def batch(self):
        for (x,) in original[0](self):
            passes[-1].append(x.clone())
            yield (x,)

    def score(run, *args):
        scored.append(run.dataset.test)
        return original[2](run, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "fit", fit)
        patch.setattr(batches.Batches, "__iter__", batch)
        patch.setattr(runs, "score", score)
        result = finish(chosen := parse(folder, *FIRST))
    cells = list(chosen.cells())
    met = {
        (cell.entry, cell.options.seed): SimpleNamespace(cell=cell, start=start, batches=epochs, test=x)
        for cell, start, epochs, x in zip(cells, starts, passes, scored, strict=True)
    }
    return SimpleNamespace(folder=folder, result=result, cells=cells, met=met)


# What it makes -------------------------------------------------------------------------------------------------------


def scores_in(path):
    with np.load(path) as arrays:
        return dict(arrays)


def test_a_comparison_keeps_tables_figures_and_a_run_for_each_entry_and_seed(finished):
    cells = {f"cells/{name}/seed-{seed}" for name in ("ELBO", "IWAE", "mixture") for seed in (0, 1)}
    assert {str(cell.folder.relative_to(finished.folder)) for cell in finished.cells} == cells
    for cell in finished.cells:
        assert {"config.yaml", "checkpoint.pt", "history.csv", "metrics.json", "scores.npz"} <= {
            path.name for path in cell.folder.iterdir()
        }
    figures = {
        *("learning_curves", "tightness", "rate_distortion"),
        *("differences_elbo", "differences_log_likelihood", "signal_to_noise"),
    }
    assert {path.stem for path in (finished.folder / "figures").iterdir()} == figures
    tables = finished.result.table, finished.result.differences
    for name, table in zip(("table", "differences"), tables, strict=True):
        pd.testing.assert_frame_equal(pd.read_csv(finished.folder / f"{name}.csv"), table, check_exact=False)
        pd.testing.assert_frame_equal(pd.read_json(finished.folder / f"{name}.json"), table, check_dtype=False)
        for ending in ("md", "tex"):
            text = (finished.folder / f"{name}.{ending}").read_text()
            assert all(entry in text for entry in ("ELBO", "IWAE", "mixture"))
    columns = {"kl", "active_units", "snr_generative", "snr_inference", "decoder_evaluations", "seconds", "epochs"}
    for quantity in ("elbo", "log_likelihood"):
        columns |= {quantity, *(f"{quantity}_{error}" for error in ("std_error", "seed_std_error"))}
        columns |= {f"{quantity}_monte_carlo_error"}
    assert columns <= set(finished.result.table)
    assert list(finished.result.table["entry"]) == ["ELBO", "IWAE", "mixture"]
    assert len(finished.result.differences) == 2 * 3


def test_a_cell_is_a_run_that_opens_and_scores_as_it_was_scored(finished):
    for cell in finished.cells[:3]:
        run = runs.load(cell.folder)
        metrics = json.loads((cell.folder / "metrics.json").read_text())
        again = runs.score(run, 20, cell.options.seed)
        assert {name: metrics[name] for name in again} == again
        assert metrics["seed"] == cell.options.seed == run.options.seed


def evaluated(finished, name):
    """Of an entry's cells: the values by seed and datum, and their Monte Carlo errors."""
    loaded = [runs.load(finished.met[name, seed].cell.folder) for seed in (0, 1)]
    scores = [evaluation.scores(run.vae, run.dataset.test, 20, run.options.seed) for run in loaded]
    return {
        quantity: tuple(
            np.stack([getattr(s[i], part).double().numpy() for s in scores]) for part in ("value", "std_error")
        )
        for i, quantity in enumerate(("elbo", "log_likelihood"))
    }


def crossed(values):
    """Mean, its errors over seeds alone and over images alone, and over both, of `(S, N)` values."""
    by_seed, by_image = stats.sem(values.mean(1)), stats.sem(values.mean(0))
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    mean_square = (rest**2).sum() / (values.shape[0] - 1) / (values.shape[1] - 1) / values.size
    both = max(by_seed**2, by_image**2, by_seed**2 + by_image**2 - mean_square)
    return values.mean(), by_seed, by_image, math.sqrt(both)


def test_numbers_are_those_of_the_cells_computed_anew(finished):
    values = {name: evaluated(finished, name) for name in ("ELBO", "IWAE", "mixture")}
    table, differences = finished.result.table.set_index("entry"), finished.result.differences
    for name, of in values.items():
        for quantity, (value, error) in of.items():
            mean, by_seed, _, both = crossed(value)
            monte_carlo = math.sqrt((error**2).sum()) / error.size
            found = [table.loc[name, f"{quantity}{end}"] for end in ("", "_seed_std_error", "_std_error")]
            assert found == pytest.approx([mean, by_seed, both], rel=1e-6)
            assert table.loc[name, f"{quantity}_monte_carlo_error"] == pytest.approx(monte_carlo, rel=1e-6)
    for row in differences.itertuples():
        d = values[row.entry][row.quantity][0] - values[row.minus][row.quantity][0]
        found = row.difference, row.seed_std_error, row.image_std_error, row.std_error
        assert found == pytest.approx(crossed(d), rel=1e-6)
        assert row.low < row.difference < row.high
        assert row.real == (row.low > 0 or row.high < 0)


def test_means_over_seeds_of_what_cells_say_stand_beside(finished):
    table = finished.result.table.set_index("entry")
    for name in table.index:
        of = [met.cell for (entry, _), met in finished.met.items() if entry == name]
        loaded = [runs.load(cell.folder) for cell in of]
        seconds = [pd.read_csv(cell.folder / "history.csv")["seconds"].sum() for cell in of]
        assert table.loc[name, "seconds"] == pytest.approx(np.mean(seconds))
        units = [evaluation.active_units(run.vae, run.dataset.test).value for run in loaded]
        assert table.loc[name, "active_units"] == np.mean(units)
        scores = [evaluation.scores(run.vae, run.dataset.test, 20, run.options.seed) for run in loaded]
        kl = [score.elbo.kl.mean().item() for score in scores]
        assert table.loc[name, "kl"] == pytest.approx(np.mean(kl), rel=1e-5)
        objectives = [runs.parser().instantiate(cell.options).objective for cell in of]
        rows = [
            gradient_study(
                run.vae,
                run.dataset.test,
                {"": (lambda num_particles, of=objective: of, None)},
                [objective.num_particles],
                num_draws=DRAWS,
                reference_draws=0,
                seed=run.options.seed,
                progress=False,
            )
            for run, objective in zip(loaded, objectives, strict=True)
        ]
        for i, block in enumerate(("generative", "inference")):
            assert table.loc[name, f"snr_{block}"] == pytest.approx(np.mean([r[i]["snr"] for r in rows]), rel=1e-6)
    assert list(table["epochs"]) == [2, 2, 2]
    assert list(table["decoder_evaluations"]) == [2 * k * TRAIN_SIZE for k in (1, 4, 1)]


def test_evaluating_a_cell_by_itself_leaves_the_comparison_as_it_is(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished.folder, tmp_path / "all")
    monkeypatch.setattr(runs, "draw", lambda *args: [])
    cell = folder / "cells" / "ELBO" / "seed-1"
    runs.report(runs.load(cell), cell, num_samples=3)
    assert json.loads((cell / "metrics.json").read_text())["num_samples"] == 3
    compare(folder, *FIRST)
    assert (folder / "table.csv").read_text() == (finished.folder / "table.csv").read_text()


# Equal conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_entries_of_a_seed_start_from_the_same_networks(finished, seed):
    first, *others = (finished.met[name, seed].start for name in ("ELBO", "IWAE", "mixture"))
    for start in others:
        assert all(torch.equal(start[name], value) for name, value in first.items())
    assert any(name.startswith("prior.") for name in others[-1])
    other = finished.met["ELBO", 1 - seed].start
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("seed", [0, 1])
def test_entries_of_a_seed_meet_the_same_bits_in_the_same_order(finished, seed):
    first, *others = (finished.met[name, seed].batches for name in ("ELBO", "IWAE", "mixture"))
    assert len(first) == 2 * STEPS
    for met in others:
        assert all(torch.equal(a, b) for a, b in zip(first, met, strict=True))
    assert not torch.equal(first[0], first[STEPS])
    other = finished.met["ELBO", 1 - seed].batches
    assert not torch.equal(other[0], first[0])


def test_all_cells_are_scored_on_the_same_data(finished):
    first, *others = (met.test for met in finished.met.values())
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert all(torch.equal(x, first) for x in others)


# Again, and further --------------------------------------------------------------------------------------------------


def never(*args, **kwargs):
    raise AssertionError("computed again")


def test_a_finished_comparison_computes_nothing_and_writes_the_same(finished, monkeypatch, capsys):
    before = {name: (finished.folder / name).read_bytes() for name in TABLES}
    for module, name in [
        (runs, "train"),
        (comparison, "gradient_study"),
        *((evaluation, name) for name in ("scores", "bounds", "elbo", "log_likelihood")),
        (known, "log_likelihood"),
    ]:
        monkeypatch.setattr(module, name, never)
    script(finished.folder, *FIRST)
    out = capsys.readouterr().out
    assert out.count(": finished before") == 6
    assert f"kept in {finished.folder}" in out
    assert {name: (finished.folder / name).read_bytes() for name in TABLES} == before


def test_its_own_config_repeats_it(finished):
    again = comparison.parse(["--config", str(finished.folder / "comparison.yaml")])
    assert list(again.cells()) == finished.cells


def test_only_new_entries_and_seeds_are_computed(finished, tmp_path, monkeypatch):
    folder, original = shutil.copytree(finished.folder, tmp_path / "all"), runs.train
    trained, drawn, study = [], [], comparison.gradient_study

    def train(options, cell, resume):
        trained.append(str(cell.relative_to(folder)))
        return original(options, cell, resume)

    def gradient(vae, x, pairs, *args, **kwargs):
        drawn.extend(pairs)
        return study(vae, x, pairs, *args, **kwargs)

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(comparison, "gradient_study", gradient)
    result = compare(folder, *FIRST, "STL: --objective.gradient STL", "--seeds", "0", "1")
    assert trained == ["cells/STL/seed-0", "cells/STL/seed-1"]
    assert [name for name in drawn if name] == ["STL"]
    new, old = result.table.set_index("entry"), finished.result.table.set_index("entry")
    pd.testing.assert_frame_equal(new.loc[old.index], old)
    trained.clear()
    drawn.clear()
    result = compare(folder, "--entries", "ELBO:", IWAE, "--seeds", "0", "1", "2")
    assert trained == ["cells/ELBO/seed-2", "cells/IWAE/seed-2"]
    assert [name for name in drawn if name] == []
    assert list(result.table["entry"]) == ["ELBO", "IWAE"]
    assert list(result.table["seeds"]) == [3, 3]


def test_noise_is_measured_again_where_training_was_done_again(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "all")
    file = folder / "signal_to_noise" / "ELBO.json"
    before = file.read_text()
    shutil.rmtree(folder / "cells")
    compare(folder, "--entries", "ELBO:", "--seeds", "0", "--epochs", "1")
    assert file.read_text() != before


class Stopped(BaseException):
    """As an interruption from outside."""


@contextmanager
def stopping(module, name, n, generator=False):
    """Makes the n-th call of a function, or the n-th item of a generator, the last."""
    original, calls = getattr(module, name), []

    def count():
        calls.append(None)
        if len(calls) == n:
            raise Stopped

    def each(*args):
        for item in original(*args):
            count()
            yield item

    def call(*args, **kwargs):
        count()
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, each if generator else call)
        yield


def snr(folder):
    files = sorted((folder / "signal_to_noise").iterdir())
    return [[row["snr"] for row in json.loads(file.read_text())["rows"]] for file in files]


def assert_same_end(folder, other):
    pd.testing.assert_frame_equal(numbers(folder), numbers(other), check_exact=True)
    assert (folder / "differences.csv").read_text() == (other / "differences.csv").read_text()
    assert snr(folder) == snr(other)


def test_stopped_anywhere_it_ends_as_if_it_had_not_been(finished, tmp_path):
    places = [
        (batches.Batches, "__iter__", STEPS * 2 + STEPS + 2, True),  # in the second epoch of the second cell
        (known, "log_likelihood", 2),  # between the training of the third and its scores
        (comparison, "_cost", 2),  # between the scores of the fourth and their end
        (comparison, "gradient_study", 4),  # after the last cells, and the signal-to-noise ratio of the first entry
    ]
    chosen = parse(tmp_path, *FIRST)
    for place in places:
        with stopping(*place), pytest.raises(Stopped):
            finish(chosen)
    compare(tmp_path, *FIRST)
    assert_same_end(tmp_path, finished.folder)


def _run_small(arguments):
    comparison._K, comparison._DRAWS, comparison._TIGHT, comparison._PAUSE = (1, 2), DRAWS, TIGHT, 0.05
    Figure.savefig = lambda figure, path: path.touch()
    report(comparison.run(comparison.parse(arguments)))


def test_of_two_that_share_the_cells_one_is_killed_and_the_other_does_the_rest(tmp_path):
    arguments = ["--entries", "ELBO:", IWAE, "--seeds", "0", "--epochs", "12"]
    shared = [*SMALL, "--data", str(Path("kinds.npy").absolute()), "--out", str(tmp_path / "shared"), *arguments]
    cells = list(comparison.parse(shared).cells())
    processes = [fresh.start(_run_small, shared) for _ in range(2)]
    while not (begun := [(cell, p) for cell in cells for p in processes if holds(cell, p) and epochs(cell) in (2, 3)]):
        assert all(p.exitcode is None for p in processes)
        time.sleep(0.001)
    cell, killed = begun[0]
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not cell.finished
    assert epochs(cell) < 12
    (other,) = (p for p in processes if p is not killed)
    assert fresh.finish(other) == 0
    assert holds(cell, other)
    compare(tmp_path / "whole", *arguments)
    assert_same_end(tmp_path / "shared", tmp_path / "whole")


def test_jobs_are_processes_that_share_the_cells(tmp_path, monkeypatch, capfd):
    quick = ["--data", str(Path("kinds.npy").absolute()), "--epochs", "1", "--num_samples", "2", "--seeds", "0"]
    chosen = parse(tmp_path, *quick, "--jobs", "3", "--entries", "ELBO:")
    (cell,), started = chosen.cells(), []

    def process(**options):
        started.append(fresh.CONTEXT.Process(**options))
        return started[-1]

    @contextmanager
    def unclaimed(path):  # as this process shall leave the cell to the others
        yield False

    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda kind: SimpleNamespace(Process=process))
    monkeypatch.setattr(comparison, "_PAUSE", 0.05)
    monkeypatch.setattr(comparison, "claimed", unclaimed)
    monkeypatch.setattr(comparison, "holder", lambda path: "another")
    threads = torch.get_num_threads()
    assert list(comparison.run(chosen).entries) == ["ELBO"]
    assert [helper.exitcode for helper in started] == [0, 0]
    assert any(holds(cell, helper) for helper in started)
    assert len(list((tmp_path / "jobs").glob("*.log"))) == 2
    assert torch.get_num_threads() == threads
    assert "waiting for ELBO, seed 0 (another)" in capfd.readouterr().out


def holds(cell, process):
    return cell.claim.exists() and holder(cell.claim).endswith(f"process {process.pid}")


def epochs(cell):
    history = cell.folder / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.exists() else 0


def test_a_cell_that_another_works_on_is_waited_for_and_told(finished, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(finished.folder, tmp_path / "all")
    chosen = parse(folder, *FIRST)
    last = list(chosen.cells())[-1]
    (last.folder / "scores.json").rename(tmp_path / "scores.json")
    with claimed(last.claim), monkeypatch.context() as patch:
        end = (tmp_path / "scores.json").rename  # of the other's work, in place of waiting for it
        patch.setattr(comparison, "time", SimpleNamespace(sleep=lambda seconds: end(last.folder / "scores.json")))
        comparison.run(chosen)
    out = capsys.readouterr().out
    assert out.count("waiting for mixture, seed 1 (") == 1
    assert f"process {os.getpid()})" in out
    assert out.count(": finished before") == 6


def test_a_learned_baseline_starts_alike_whatever_was_computed_before(tmp_path):
    network = (
        "MLP --objective.gradient.baseline.network.in_shape [1,4,4] --objective.gradient.baseline.network.out_shape 1"
    )
    entry = f"learned: --objective.gradient.baseline Learned --objective.gradient.baseline.network {network}"
    arguments = [*BITS, "--objective.gradient", "ScoreFunction", "--epochs", "1", "--entries", entry]
    torch.manual_seed(1)
    comparison.run(whole := parse(tmp_path / "whole", *arguments))
    parts = list(parse(tmp_path / "parts", *arguments).cells())
    for cell in reversed(parts):
        torch.manual_seed(2)
        comparison.train(cell)
    for cells in zip(whole.cells(), parts, strict=True):
        a, b = (json.loads((cell.folder / "scores.json").read_text()) for cell in cells)
        assert a | {"seconds": 0} == b | {"seconds": 0}


def test_gradients_at_the_end_are_studied_with_what_their_baseline_has_learned(tmp_path, monkeypatch):
    studied, original = [], comparison.gradient_study

    def study(vae, x, pairs, num_particles, *args, **kwargs):
        studied.append(pairs[""][0](num_particles[0]).state_dict())
        return original(vae, x, pairs, num_particles, *args, **kwargs)

    monkeypatch.setattr(comparison, "gradient_study", study)
    baseline = "ScoreFunction --objective.gradient.baseline MovingAverage"
    (cell,) = parse(tmp_path, *BITS, "--seeds", "0", "--entries", f"moving: --objective.gradient {baseline}").cells()
    comparison.train(cell)
    trained = torch.load(cell.folder / "checkpoint.pt", weights_only=True)["parts"]["objective"]
    assert trained == studied[0]
    assert trained["gradient.baseline.average"] < -1


# Which differences are real ------------------------------------------------------------------------------------------


def test_equal_entries_are_not_told_apart_and_trained_ones_are_told_from_untrained_ones(tmp_path):
    still, trained = "--optimizer.lr 1e-6", "trained: --optimizer.lr 5e-2"
    entries = f"one: {still}", f"two: {still}", trained
    result = compare(tmp_path, "--epochs", "40", "--batch_size", "90", "--entries", *entries)
    for row in result.differences.itertuples():
        if row.entry == "two":
            assert (row.difference, row.low, row.high, row.std_error) == (0, 0, 0, 0)
            assert not row.real
            assert not row.real_for_these_seeds
        else:
            assert row.real
            assert row.low > 0.5
    lines = str(result).splitlines()
    assert sum("two - one" in line and line.endswith("not told apart") for line in lines) == 2
    assert sum("trained - " in line and line.endswith("  real") for line in lines) == 4
    kept = pd.read_csv(tmp_path / "differences.csv")
    assert kept.loc[kept["entry"] == "two", "real"].tolist() == [False, False]


class OneDraw(ELBO):
    """Which takes one draw, and no other number."""

    def __init__(self) -> None:
        super().__init__()


def test_an_entry_that_takes_no_number_of_draws_has_no_ratio_against_it(tmp_path):
    chosen = parse(tmp_path, "--entries", f"mine: --objective {__name__}.OneDraw")
    assert comparison.signal_to_noise(chosen) == []


def test_one_entry_or_one_seed_makes_a_table_too(tmp_path):
    result = compare(tmp_path, "--epochs", "1", "--entries", "alone:", "--seeds", "3")
    assert "alone" in str(result)
    assert "Differences" not in str(result)
    assert math.isnan(result.table["elbo_seed_std_error"][0])
    error, monte_carlo = result.table["elbo_std_error"][0], result.table["elbo_monte_carlo_error"][0]
    run = runs.load(tmp_path / "cells" / "alone" / "seed-3")
    bound = evaluation.scores(run.vae, run.dataset.test, 20, seed=3).elbo
    assert error == pytest.approx(stats.sem(bound.value.double()), rel=1e-6)
    assert monte_carlo == pytest.approx(bound.std_error.double().square().sum().sqrt().item() / len(bound.value))
    assert not list((tmp_path / "figures").glob("differences*"))
    with_another = compare(tmp_path, "--epochs", "1", "--entries", "alone:", "other: --latent_dim 2", "--seeds", "3")
    assert len(list((tmp_path / "figures").glob("differences*"))) == 2
    values = [scores_in(tmp_path / "cells" / name / "seed-3" / "scores.npz")["elbo"] for name in ("other", "alone")]
    row = with_another.differences.iloc[0]
    interval = stats.ttest_rel(*(value.astype(float) for value in values)).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx(interval, rel=1e-5)


# Entries of all kinds ------------------------------------------------------------------------------------------------


def test_pyros_own_objective_and_ours_end_alike(tmp_path):
    result = compare(tmp_path, "--epochs", "1", "--seeds", "0", "--entries", "ours:", "Pyro's: --objective Trace_ELBO")
    ours, pyros = result.table.drop(columns=["entry", "seconds"]).to_dict("records")
    assert ours == pytest.approx(pyros, rel=1e-5, nan_ok=True)
    assert not result.differences["real"].any()
    assert {len(ratios) for ratios in snr(tmp_path)} == {4}  # two K, two blocks


def test_discrete_entries_have_the_particles_that_their_estimators_take(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(reports.plotting, "signal_to_noise", lambda rows: drawn.extend(rows) or Figure())
    entries = [
        "VIMCO: --objective IWAE --objective.gradient VIMCO --objective.num_particles 3",
        "REBAR: --objective.gradient REBAR",
        "sum: --objective.gradient Enumerate",
    ]
    result = compare(tmp_path, *BITS, "--latent_dim", "2", "--epochs", "1", "--seeds", "0", "--entries", *entries)
    particles = {
        entry: {row["num_particles"] for row in drawn if row["pair"] == entry} for entry in result.table["entry"]
    }
    assert particles == {"VIMCO": {2}, "REBAR": {1, 2}, "sum": {1, 2}}
    evaluations = dict(zip(result.table["entry"], result.table["decoder_evaluations"], strict=True))
    assert [evaluations[name] / TRAIN_SIZE for name in ("VIMCO", "sum")] == [3, 4]
    for name in ("VIMCO", "sum"):
        cell = tmp_path / "cells" / name / "seed-0"
        run, scores = runs.load(cell), scores_in(cell / "scores.npz")
        z = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
        x = run.dataset.test[:TIGHT]
        with torch.no_grad():
            joint = run.vae.prior().log_prob(z) + run.vae.likelihood(z[None].expand(len(x), -1, -1)).log_prob(
                x[:, None]
            )
        assert scores["exact"] == pytest.approx(joint.logsumexp(1).mean().item(), rel=1e-6)


def test_a_linear_decoder_is_scored_against_its_exact_evidence(tmp_path, monkeypatch):
    drawn, original = {}, plotting.tightness

    def tightness(num_particles, values, exact):
        drawn.update(num_particles=num_particles, values=values, exact=exact)
        return original(num_particles, values, exact)

    monkeypatch.setattr(reports.plotting, "tightness", tightness)
    arguments = ["--likelihood", "Normal", "--binarize", "none", "--latent_dim", "3", "--seeds", "0", "1"]
    compare(tmp_path, *arguments, "--entries", "linear: --decoder_network.hidden []", "deep:")
    means, bounds = [], []
    for seed in (0, 1):
        folders = [tmp_path / "cells" / name / f"seed-{seed}" for name in ("linear", "deep")]
        linear, deep = (scores_in(folder / "scores.npz") for folder in folders)
        assert math.isnan(deep["exact"])
        run = runs.load(folders[0])
        layer = run.vae.likelihood.network.layers[-1]
        w, b = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        scale = run.vae.likelihood(torch.zeros(3)).stddev.flatten()[0].item()
        x = run.dataset.test[:TIGHT].flatten(1).double().numpy()
        marginal = stats.multivariate_normal(b, w @ w.T + scale**2 * np.eye(16))
        assert linear["exact"] == pytest.approx(marginal.logpdf(x).mean(), rel=1e-6)
        means.append(linear["exact"])
        ks = [1, 2, 4, 8]
        assert linear["num_particles"].tolist() == ks
        by_k = evaluation.bounds(run.vae, run.dataset.test[:TIGHT], ks, TIGHT, seed).double().mean(1)
        assert linear["bounds"] == pytest.approx(by_k.numpy())
        bounds.append(linear["bounds"])
    assert drawn["exact"] == {"linear": pytest.approx(np.mean(means))}
    assert drawn["values"]["linear"] == pytest.approx(np.mean(bounds, 0))
    assert drawn["num_particles"] == ks


# Likelihoods on grey values ------------------------------------------------------------------------------------------

NORMAL = "Normal: --likelihood Normal --dequantize true"
ON_GREY = ["--binarize", "none", "--entries", NORMAL, "wide: --likelihood Normal --dequantize true --latent_dim 2"]
ON_GREY += ["DiscretizedLogistic: --likelihood DiscretizedLogistic", "raw: --likelihood Normal"]


@pytest.fixture(scope="module")
def on_grey(tmp_path_factory):
    """Densities of dequantized data, probabilities, and densities that are not comparable."""
    folder, drawn = tmp_path_factory.mktemp("grey") / "all", {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("learning_curves", "tightness"):
            patch.setattr(plotting, name, lambda *args, name=name: drawn.update({name: args}) or Figure())
        result = compare(folder, *ON_GREY)
    return SimpleNamespace(folder=folder, result=result, drawn=drawn)


def test_likelihoods_on_grey_values_are_compared_by_the_probabilities_of_the_images(on_grey):
    table, differences = on_grey.result.table.set_index("entry"), on_grey.result.differences
    masses = {}
    for name in table.index:
        cells = [on_grey.folder / "cells" / name / f"seed-{seed}" for seed in (0, 1)]
        loaded = [runs.load(cell) for cell in cells]
        values = {
            "elbo": [evaluation.scores(r.vae, r.dataset.test, 20, r.options.seed).elbo.value for r in loaded],
            "log_likelihood": [evaluation.log_likelihood(r.vae, r.dataset.test, 20, r.options.seed)[0] for r in loaded],
        }
        of_levels = -16 * math.log(256) if name in ("Normal", "wide") else 0  # 4 x 4 bytes
        for quantity, of in values.items():
            masses[name, quantity] = torch.stack(of).double().numpy() + of_levels
            assert table.loc[name, quantity] == pytest.approx(masses[name, quantity].mean(), rel=1e-6)
        kept = [json.loads((cell / "scores.json").read_text()) for cell in cells]
        if name == "raw":
            assert [numbers["bits_per_dimension"] for numbers in kept] == [None, None]
            assert math.isnan(table.loc[name, "bits_per_dimension"])
            continue
        bits = -masses[name, "log_likelihood"].mean(1) / 16 / math.log(2)
        assert [numbers["bits_per_dimension"] for numbers in kept] == pytest.approx(bits.tolist(), rel=1e-6)
        assert table.loc[name, "bits_per_dimension"] == pytest.approx(bits.mean(), rel=1e-6)
        assert 0 < bits.mean() < 12
    pairs = {(row.entry, row.minus) for row in differences.itertuples()}
    assert pairs == {("wide", "Normal"), ("DiscretizedLogistic", "Normal"), ("DiscretizedLogistic", "wide")}
    for row in differences.itertuples():
        d = masses[row.entry, row.quantity] - masses[row.minus, row.quantity]
        found = row.difference, row.seed_std_error, row.image_std_error, row.std_error
        assert found == pytest.approx(crossed(d), rel=1e-6)


def test_a_density_of_grey_values_is_shown_as_not_comparable_with_the_reason(on_grey):
    text = str(on_grey.result)
    (row,) = [line for line in text.splitlines() if line.startswith("| raw")]
    assert row.count("not comparable") == 3
    assert "Not comparable: raw: p(x) is a density at values that were not dequantized" in text
    assert " raw " not in text.partition("Differences")[2]
    assert "not comparable" in (on_grey.folder / "table.tex").read_text()
    (histories,), (_, bounds, exact) = on_grey.drawn["learning_curves"], on_grey.drawn["tightness"]
    assert list(histories) == list(bounds) == ["Normal", "wide", "DiscretizedLogistic"]
    cells = [on_grey.folder / "cells" / "wide" / f"seed-{seed}" for seed in (0, 1)]
    expected = np.mean([scores_in(cell / "scores.npz")["exact"] for cell in cells]) - 16 * math.log(256)
    assert exact == {"wide": pytest.approx(expected)}
    for name, shift in (("Normal", -16 * math.log(256)), ("DiscretizedLogistic", 0)):
        cell = on_grey.folder / "cells" / name / "seed-1"
        kept = pd.read_csv(cell / "history.csv")
        for key in ("valid_elbo", "valid_log_likelihood"):
            assert [r[key] for r in histories[name][1]] == pytest.approx((kept[key] + shift).tolist())
        assert [r["elbo"] for r in histories[name][1]] == pytest.approx(kept["elbo"].tolist())
        of = [scores_in(cell.with_name(f"seed-{seed}") / "scores.npz")["bounds"] for seed in (0, 1)]
        assert bounds[name] == pytest.approx((np.mean(of, 0) + shift).tolist())


def test_a_comparison_on_grey_values_is_finished_once(on_grey, monkeypatch):
    monkeypatch.setattr(runs, "train", never)
    again = compare(on_grey.folder, *ON_GREY)
    pd.testing.assert_frame_equal(again.table, on_grey.result.table)


def test_densities_alone_are_compared_as_they_are(tmp_path):
    entries = "--entries", "a: --likelihood Normal", "b: --likelihood Normal --latent_dim 2"
    result = compare(tmp_path, "--binarize", "none", "--epochs", "1", "--seeds", "0", *entries)
    assert "bits_per_dimension" not in result.table
    assert len(result.differences) == 2
    assert "not comparable" not in str(result).lower()
    kept = json.loads((tmp_path / "cells" / "a" / "seed-0" / "scores.json").read_text())
    assert result.table["elbo"][0] == pytest.approx(kept["elbo"])


def test_equal_files_of_other_images_are_told_apart_before_training(tmp_path):
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "kinds.npy", np.load("kinds.npy")[::-1])
    entries = "--entries", NORMAL, f"raw: --likelihood Normal --data {tmp_path}/other/kinds.npy"
    with pytest.raises(ValueError, match="'Normal' and 'raw' are of different data"):
        parse(tmp_path / "out", "--binarize", "none", *entries)


# Budgets -------------------------------------------------------------------------------------------------------------


def test_a_budget_of_decoder_evaluations_buys_fewer_epochs_of_more_draws(tmp_path):
    eight = "eight: --objective IWAE --objective.num_particles 8"
    budget = ["--decoder_evaluations", str(8.5 * TRAIN_SIZE), "--seeds", "0"]
    chosen = parse(tmp_path, *budget, "--entries", "one:", eight)
    assert {name: options.epochs for name, options in chosen.entries.items()} == {"one": 8, "eight": 1}
    comparison.run(chosen)
    kept = [json.loads((cell.folder / "scores.json").read_text()) for cell in chosen.cells()]
    assert [(cell["epochs"], cell["decoder_evaluations"]) for cell in kept] == [(n, 8 * TRAIN_SIZE) for n in (8, 1)]


def test_decoder_evaluations_count_data_of_which_labels_are_known_too(tmp_path):
    semi = "semi: --model M2 --model.labelled 20 --objective.gradient Enumerate"
    chosen = parse(tmp_path, "--data", "digits", "--epochs", "1", "--seeds", "0", "--entries", semi)
    comparison.run(chosen)
    [cell] = chosen.cells()
    train = len(runs.load(cell.folder).dataset.train[0])
    kept = json.loads((cell.folder / "scores.json").read_text())
    assert kept["decoder_evaluations"] % train == 0


def test_a_budget_in_seconds_ends_training(tmp_path):
    chosen = parse(tmp_path, "--max_seconds", "0.05", "--seeds", "0", "--entries", "ELBO:")
    comparison.run(chosen)
    seconds = pd.read_csv(tmp_path / "cells" / "ELBO" / "seed-0" / "history.csv")["seconds"].to_numpy()
    expected = seconds.cumsum() + seconds  # if the next epoch takes as long as the last
    assert (expected[:-1] <= 0.05).all()
    assert expected[-1] > 0.05
    kept = json.loads((tmp_path / "cells" / "ELBO" / "seed-0" / "scores.json").read_text())
    assert (kept["epochs"], kept["decoder_evaluations"]) == (len(seconds), len(seconds) * TRAIN_SIZE)
    parse(tmp_path, "--max_seconds", "0.05", "--seeds", "0", "--entries", "ELBO:")  # is the same comparison again


# Options -------------------------------------------------------------------------------------------------------------


def objectives(folder, *arguments):
    found = parse(folder, *arguments).entries
    return {
        name: (options.objective.class_path.split(".")[-1], options.objective.init_args)
        for name, options in found.items()
    }


def test_an_objective_of_an_entry_has_its_own_defaults(tmp_path):
    found = objectives(tmp_path, "--objective.beta", "0.5", "--entries", "ELBO:", "IWAE: --objective IWAE")
    assert [(kind, options.num_particles) for kind, options in found.values()] == [("ELBO", 1), ("IWAE", 10)]
    assert found["ELBO"][1].beta == 0.5
    assert "beta" not in found["IWAE"][1]


def test_what_entries_share_is_inherited(tmp_path):
    entries = ["a:", "b: --objective IWAE", "c: --objective.gradient STL", "d: --objective.num_particles 2"]
    found = objectives(tmp_path, "--objective.num_particles", "5", "--objective.beta", "0.5", "--entries", *entries)
    kinds = [(kind, options.num_particles) for kind, options in found.values()]
    assert kinds == [("ELBO", 5), ("IWAE", 5), ("ELBO", 5), ("ELBO", 2)]
    assert found["c"][1].gradient.class_path.endswith("STL")
    assert found["c"][1].beta == 0.5


def test_the_default_entries_are_a_comparison(tmp_path):
    found = objectives(tmp_path)
    gradients = [(kind, o.num_particles, o.gradient.class_path.split(".")[-1]) for kind, o in found.values()]
    assert gradients == [("ELBO", 1, "Pathwise"), ("ELBO", 1, "STL"), ("IWAE", 8, "Pathwise"), ("IWAE", 8, "DReG")]


TWO = ["--entries", "a:", "b: --objective IWAE"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--entries", "--objective IWAE"], "an entry is given as 'NAME: OPTIONS'"),
        (["--entries", "a:", "a: --objective IWAE"], "names of their own: a, a"),
        (["--entries", "a/b:", "a b: --objective IWAE"], "names of their own: a/b, a b"),
        (["--entries", "a:", "b: --nonesuch 3"], "entry 'b': .*--nonesuch"),
        (["--entries", "a:", "b: --epochs x"], "entry 'b': --epochs: 'x' is not a whole number"),
        (["--entries", "a:", "b: --prior 'x"], "entry 'b': .*quotation"),
        (["--entries", "a:", "b: --seed 3"], "entry 'b': --seed is given once, for all"),
        (["--entries", "a:", "b: --num_samples 30"], "entry 'b': --num_samples is given once"),
        (["--entries", "a:", "b: --epochs 30"], "entry 'b': --epochs is given once"),
        (["--entries", "a:", "b: --max_seconds 3"], "entry 'b': --max_seconds is given once"),
        (["--entries", "a:", "b: --patience 0"], "entry 'b': .*patience at least 1"),
        (["--entries", "a:", "b: --batch_size 0"], "entry 'b': .*batch_size"),
        (["--entries", "a:", "--epochs", "0"], "entry 'a': epochs must be at least 1"),
        (["--entries", "a:", "b: --likelihood Normal"], "'a' and 'b' .*different binarization"),
        (["--entries", "a:", "b: --valid_size 5"], "'a' and 'b' are of different data"),
        (["--binarize", "dynamic", "--entries", "a:", "b: --likelihood Normal"], "probabilities of data.*densities"),
        (["--entries", "a:", "b: --likelihood Normal --dequantize true"], "'a' and 'b' .*different binarization"),
        (["--dequantize", "true", "--entries", "a:"], "entry 'a': Bernoulli needs .*binarize"),
        (["--entries", "a: --binarize static --dequantize true"], "leaves no grey levels to dequantize"),
        (["--entries", "a: --likelihood DiscretizedLogistic --likelihood.levels 17"], "number of levels to theirs"),
        (["--entries", "a: --likelihood Categorical --likelihood.categories 17"], "of 17 values, but train"),
        (["--entries", "a: --model Autoencoder"], "entry 'a': its q.z . x. has no density"),
        (["--entries", "a: --model LadderVAE --encoder IAF"], "entry .a.: --encoder is not taken by LadderVAE"),
        (["--data", "digits", "--entries", "a: --model ConditionalVAE"], "entry 'a': its numbers are of x given y"),
        (["--entries", "a:", "bits: --prior Bernoulli --encoder Bernoulli"], "entry 'bits': .*Pathwise"),
        ([*TWO, "--decoder_evaluations", "800"], "an epoch of entry 'b' takes 900 .*budget of 800"),
        ([*TWO, "--decoder_evaluations", "1e6", "--max_seconds", "9"], "one budget"),
        ([*TWO, "--seed", "1"], "give --seeds"),
        ([*TWO, "--seeds", "1", "1"], r"each once, not \[1, 1\]"),
        ([*TWO, "--num_samples", "1"], "num_samples must be a whole number of at least 2"),
        ([*TWO, "--jobs", "0"], "jobs must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line_before_anything_is_done(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.setattr(runs, "train", never)
    with pytest.raises(SystemExit) as end:
        options.command(lambda: script(tmp_path / "out", *arguments))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(words, line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--entries", "new:", "ELBO:", "--epochs", "3"], "ELBO/seed-0' keeps a run with another --epochs"),
        ([*FIRST, "--batch_size", "7"], "keeps a run with another --batch_size"),
        (["--entries", "new:", "ELBO: --objective.gradient STL"], "ELBO/seed-0' keeps a run with another --objective"),
        ([*FIRST, "--num_samples", "30"], "keeps a run with another --num_samples"),
    ],
)
def test_a_folder_that_keeps_other_runs_is_refused_and_stays(finished, monkeypatch, arguments, words):
    monkeypatch.setattr(runs, "train", never)
    before = yaml.safe_load((finished.folder / "comparison.yaml").read_text())
    with pytest.raises(ValueError, match=words):
        compare(finished.folder, *arguments)
    assert yaml.safe_load((finished.folder / "comparison.yaml").read_text()) == before
    assert not (finished.folder / "cells" / "new").exists()


def test_a_cell_that_another_command_took_meanwhile_is_refused(finished, tmp_path, monkeypatch):
    chosen = parse(tmp_path, "--entries", "ELBO: --objective.beta 0.5")
    shutil.copytree(finished.folder / "cells", tmp_path / "cells")
    monkeypatch.setattr(comparison, "train", never)
    with pytest.raises(ValueError, match="keeps a run with another --objective"):
        comparison.run(chosen)


def test_a_folder_that_keeps_scores_of_other_data_is_refused(tmp_path):
    for name in ("one", "two"):
        x = np.random.default_rng(len(name)).random((30, 6)) < {"one": 0.3, "two": 0.7}[name]
        np.save(tmp_path / f"{name}.npy", x.astype(np.uint8))
    arguments = ["--entries", "ELBO:", "--seeds", "0", "--epochs", "1"]
    comparison.run(parse(tmp_path / "out", *arguments, "--data", str(tmp_path / "one.npy")))
    with pytest.raises(ValueError, match="on other data"):
        parse(tmp_path / "out", *arguments, "--data", str(tmp_path / "two.npy"))
    (tmp_path / "one.npy").rename(tmp_path / "moved.npy")
    (cell,) = parse(tmp_path / "out", *arguments, "--data", str(tmp_path / "moved.npy")).cells()
    assert cell.finished


def test_the_folder_of_a_run_is_not_taken(finished):
    cell = finished.cells[0]
    before = (cell.folder / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="keeps a run: give the comparison another --out"):
        parse(cell.folder, "--entries", "a:")
    assert (cell.folder / "config.yaml").read_bytes() == before


def test_an_entry_that_diverges_is_left_out_and_told(tmp_path, capsys):
    bad = "bad: --optimizer SGD --optimizer.lr 1e30"
    chosen = parse(tmp_path, "--epochs", "3", "--entries", "a:", bad, "c: --objective.beta 2")
    left = comparison.run(chosen)
    assert list(left.entries) == ["a", "c"]
    assert capsys.readouterr().out.count("left out: entry 'bad' failed with seed") == len(chosen.seeds)
    assert report(left).table["entry"].tolist() == ["a", "c"]
    with pytest.raises(ValueError, match="training failed for all entries"):
        comparison.run(parse(tmp_path, "--epochs", "3", "--entries", bad))
