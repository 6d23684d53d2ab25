"""Accuracy against the number of labels: what the rows are of, and the script."""

import pandas as pd
import pytest
import torch
from fresh import run_script

from pyrovae import data, fit, semi_supervised


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", binarize="dynamic")


def test_codes_are_those_of_a_fitted_vae(digits):
    fitted, again, untrained = (semi_supervised.codes(digits, 6, epochs=epochs) for epochs in (5, 5, 0))
    x, classes = digits.test, digits.labels.test
    assert torch.equal(fitted(x, drawn=False), again(x, drawn=False))
    share = []
    for codes in (fitted, untrained):
        z = codes(x, drawn=False)
        share.append((torch.stack([z[classes == c].mean(0) for c in range(10)]).var(0) / z.var(0)).max())
    assert share[0] > share[1] + 0.1  # of the variance, what classes tell
    z = fitted(x[:1].expand(4000, 1, 8, 8), drawn=True)
    q = fitted.m1.encode(x[:1])
    assert ((z.mean(0) - q.mean) / q.stddev).abs().max() < 4 / 4000**0.5
    torch.testing.assert_close(z.std(0), q.stddev[0], rtol=0.05, atol=0)


def test_labelled_data_alone_are_what_is_labelled(digits, monkeypatch):
    met = []

    def spy(m2, train, objective, epochs, **options):
        met.append((len(train[0]), int((train[1] >= 0).sum()), type(objective.gradient).__name__, epochs))
        return fit(m2, train, objective=objective, epochs=0, **options)

    monkeypatch.setattr(semi_supervised, "fit", spy)
    make = lambda: semi_supervised.model((1, 8, 8), 10, binary=True)  # noqa: E731
    rows = [*semi_supervised.accuracies(digits, [20, 50], make, epochs=3, seeds=[0, 1])]
    assert [(row["seed"], row["labelled"]) for row in rows[::3]] == [(0, 20), (0, 50), (1, 20), (1, 50)]
    assert len({(row["labelled"], row["seed"], row["method"]) for row in rows}) == 12
    (all_, known, gradient, epochs), (again, _, sampled, _), (alone, labelled, _, passes) = met[:3]
    assert (gradient, sampled) == ("Enumerate", "ScoreFunction")
    assert all_ == again > alone == labelled == known
    assert 0 <= epochs * all_ - passes * alone < alone
    start = {row["accuracy"] for row in rows[:3]}
    assert len(start) == 1  # untrained, all methods are one


def test_labels_of_few_tell_the_classes_of_all(digits):
    make = lambda: semi_supervised.model((1, 8, 8), 10, binary=True)  # noqa: E731
    enumerated = next(semi_supervised.accuracies(digits, [100], make, epochs=10))
    assert enumerated["method"] == "enumerated"
    assert enumerated["accuracy"] > 0.6


@pytest.mark.parametrize("more", [[], ["--features", "--m1_epochs", "1"]])
def test_the_script(tmp_path, more):
    command = ["labels.py", "--labelled", "[10,20]", "--epochs", "1", "--out", "some", *more]
    code, out, err = run_script(tmp_path, *command)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "some" / "labels.csv")
    assert len(table) == 6
    assert out.count("accuracy") == 6
    assert table["accuracy"].between(0, 1).all()
    assert (tmp_path / "some" / "figures" / "labels.png").exists()
    code, _, err = run_script(tmp_path, *command)
    assert code == 2
    assert "keeps such numbers already" in err
