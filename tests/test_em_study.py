"""EM against fitting both at once: the numbers against closed forms and scipy, the figure, and the script."""

import csv
import math
import time
from functools import partial

import numpy as np
import pytest
from fresh import run_script
from scipy.stats import multivariate_normal

from pyrovae import em_plots, objectives
from pyrovae.em_study import em_study, summary
from pyrovae.exact import LinearGaussian

START = partial(LinearGaussian, 1, 4, seed=3)


def data():
    return LinearGaussian(1, 4, scale=0.7).sample(200, seed=1)


@pytest.fixture(scope="module")
def rows():
    objective = partial(objectives.ELBO, num_particles=4)
    return em_study(START, data(), objective, 200, [(10, 10), (1, 3)], learning_rate=0.05)


def of(rows, method, key):
    return [row[key] for row in rows if row["method"] == method]


def test_all_start_alike_and_each_has_its_steps(rows):
    model = START()
    w, b, s = (t.detach().numpy() for t in (model.weight, model.bias, model.scale))
    p = multivariate_normal(b, w @ w.T + s**2 * np.eye(4))
    steps = {
        "exact EM": range(201),
        "EM, 10 + 10 steps a round": range(0, 201, 20),
        "EM, 1 + 3 steps a round": range(0, 201, 4),
        "both at once": range(201),
    }
    assert list(dict.fromkeys(row["method"] for row in rows)) == list(steps)
    for method, expected in steps.items():
        assert of(rows, method, "step") == list(expected)
        assert of(rows, method, "log_likelihood")[0] == pytest.approx(p.logpdf(data()).mean(), rel=1e-12)


def test_the_maximum_is_the_closed_form_and_all_come_near(rows):
    x = data()
    most = LinearGaussian.maximum_likelihood(x, 1).log_likelihood(x).mean().item()
    for row in rows:
        assert row["log_likelihood"] + row["excess"] == pytest.approx(most, abs=1e-9)
        assert row["excess"] >= 0
    last = {line["method"]: line["excess at the end"] for line in summary(rows)}
    assert last["exact EM"] < 1e-9
    assert max(last.values()) < 0.1
    assert min(of(rows, method, "excess")[0] for method in last) > 1


def test_seconds_leave_out_the_telling_of_log_p_of_x(monkeypatch):
    clock, plain, told = time.perf_counter, LinearGaussian.log_likelihood, [0]

    def slow(model, x):
        told[0] += 1
        return plain(model, x)

    monkeypatch.setattr(LinearGaussian, "log_likelihood", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 1000 * told[0])
    rows = em_study(START, data(), objectives.ELBO, 6, [(2, 1)])
    assert told[0] > 3 * 6
    for method in ("exact EM", "EM, 2 + 1 steps a round", "both at once"):
        seconds = of(rows, method, "seconds")
        assert seconds == sorted(seconds)
        assert seconds[0] == 0 < seconds[-1] < 500


def test_a_summary_tells_when_each_was_near():
    rows = [{"method": "a", "step": 2 * i, "seconds": i / 2, "excess": 0.1**i} for i in range(4)]
    rows += [{"method": "b", "step": 0, "seconds": 0.0, "excess": 1.0}]
    first, second = summary(rows, within=[0.1, 0.02])
    assert first == {
        "method": "a",
        "steps to 0.1": 2,
        "seconds to 0.1": 0.5,
        "steps to 0.02": 4,
        "seconds to 0.02": 1.0,
        "excess at the end": pytest.approx(1e-3),
    }
    assert math.isnan(second["steps to 0.1"])
    assert second["excess at the end"] == 1.0


@pytest.mark.parametrize(("steps", "settings"), [(0, []), (5, [(3, 3)]), (5, [(0, 1)]), (5, [(1, 1), (1, 0)])])
def test_rounds_that_cannot_be_are_refused(steps, settings):
    with pytest.raises(ValueError, match="steps must be at least 1, and those of a round"):
        em_study(START, data(), objectives.ELBO, steps, settings)


def test_the_figure_shows_every_step_but_the_start(rows):
    figure = em_plots.excess([{"model": name, **row} for name in ("first", "second") for row in rows])
    assert [axes.get_title("left") for axes in figure.axes] == ["first", "", "second", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "steps", "seconds"]
    for axes, key in zip(figure.axes, ("step", "seconds") * 2, strict=True):
        exact, *_, both, start = axes.lines
        assert exact.get_xdata().tolist() == of(rows, "exact EM", key)[1:]
        assert both.get_ydata().tolist() == of(rows, "both at once", "excess")[1:]
        assert start.get_ydata() == [rows[0]["excess"]] * 2
        assert axes.get_ylim()[0] == pytest.approx(1e-7)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*dict.fromkeys(row["method"] for row in rows), "start"]


def test_the_script_keeps_figure_and_numbers(tmp_path):
    small = ["--num_data", "30", "--steps", "12", "--rounds", "[[2,1],[1,3]]"]
    code, out, err = run_script(tmp_path, "em.py", *small)
    assert code == 0, err
    assert "kept in runs/em" in out
    assert out.count("EM, 2 + 1 steps a round") == 2
    folder = tmp_path / "runs" / "em"
    assert (folder / "figures" / "em.png").stat().st_size > 10_000
    with (folder / "em.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "method", "step", "seconds", "log_likelihood", "excess"]
    assert len(rows) == 2 * (13 + 5 + 4 + 13)
    code, _, err = run_script(tmp_path, "em.py", *small)
    assert (code, err) == (2, "error: 'runs/em' keeps a comparison already: give another folder by --out\n")
    code, _, err = run_script(tmp_path, "em.py", "--steps", "3", "--rounds", "[[2,2]]", "--out", "other")
    assert code == 2
    assert "those of a round" in err
    assert not (tmp_path / "other").exists()
