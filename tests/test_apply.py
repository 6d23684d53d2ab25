"""The script apply, and what no task takes: mistakes end in one sentence, and leave no folder."""

from dataclasses import replace
from runpy import run_path

import pytest
import torch
from data_files import write_few_digits

from pyrovae import runs, tasks
from pyrovae.tasks.hiding import hidden

APPLY = run_path("scripts/apply.py")["main"]
FAST = ["--epochs", "1", "--encoder_network.hidden", "[8]", "--decoder_network.hidden", "[8]", "--num_samples", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apply")
    write_few_digits(folder / "few.npz")
    runs.train(*runs.parse([*FAST, "--data", str(folder / "few.npz"), "--out", str(folder / "run")]))
    return folder / "run"


def test_a_task_is_kept_in_its_folder(folder, capsys):
    APPLY([str(folder), "arithmetic", "--minus", "7"])
    assert {path.name for path in (folder / "arithmetic").iterdir()} == {
        *("arithmetic.npz", "arithmetic.png", "numbers.json")
    }
    assert f"kept in {folder / 'arithmetic'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("generate --seed -1", "seed must be from 0"),
        (f"compress --seed {2**70}", "seed must be from 0"),
        ("generate --components 0", "components must be a whole number of at least 1, not 0"),
        ("augment --num_test -5", "num_test must be a whole number of at least 1, not -5"),
        ("denoise --num_data 0", "test data must be a whole number of at least 2, not 0"),
        ("detect --num_data -1", "num_data must be a whole number of at least 1, not -1"),
        ("impute --num_data 1", "test data must be a whole number of at least 2, not 1"),
        ("impute --num_imputations 0", "num_imputations must be a whole number of at least 2, not 0"),
    ],
)
def test_what_is_out_of_range_is_refused(folder, arguments, words):
    with pytest.raises(ValueError, match=words):
        APPLY([str(folder), *arguments.split()])
    assert not (folder / arguments.split()[0]).exists()


@pytest.mark.parametrize("task", ["generate", "denoise", "detect", "impute", "manifold", "uncertainty"])
def test_of_one_test_datum_nothing_is_told(digits_run, task):
    dataset = digits_run.dataset
    labels = dataset.labels._replace(test=dataset.labels.test[:1])
    with pytest.raises(ValueError, match="test data must be a whole number of at least 2, not 1"):
        tasks.TASKS[task](digits_run._replace(dataset=replace(dataset, test=dataset.test[:1], labels=labels)))


def test_data_that_are_all_alike_are_no_surface(digits_run):
    alike = replace(digits_run.dataset, test=torch.zeros_like(digits_run.dataset.test))
    with pytest.raises(ValueError, match="all alike"):
        tasks.TASKS["manifold"](digits_run._replace(dataset=alike))


@pytest.mark.parametrize("task", ["compress", "uncertainty"])
def test_a_model_without_a_bound_is_refused(folder, task):
    options = runs.parse([*FAST, "--data", str(folder.parent / "few.npz"), "--model", "AdversarialAutoencoder"])[0]
    with pytest.raises(ValueError, match=r"AdversarialAutoencoder has no (ELBO|L\(x\))"):
        tasks.TASKS[task](runs.Run(*runs.prepare(options)[:2], [], options), num_samples=2)


def test_a_table_has_no_halves():
    with pytest.raises(ValueError, match=r"the top half is one of an image, not of data \(4,\): hide at random"):
        hidden(torch.zeros(2, 4), "top", 0.5, (), 0)


def test_halves_are_half_also_of_odd_sizes():
    x = torch.zeros(2, 1, 5, 7)
    assert [hidden(x, half, 0.5, (), 0)[0, 0].sum().item() for half in ("top", "bottom", "left", "right")] == [
        *(14, 21, 15, 20)
    ]
