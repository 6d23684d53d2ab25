"""What tasks make of data that are no images: numbers and arrays, and what there is of other data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyrovae import runs, tasks
from pyrovae.tasks.strangers import strangers


def made(folder, likelihood, x):
    """An untrained run of a labelled table."""
    np.savez(folder / "table.npz", x=x, y=np.arange(len(x)) % 3)
    options, *_ = runs.parse(["--data", str(folder / "table.npz"), "--likelihood", likelihood, "--latent_dim", "2"])
    return runs.Run(*runs.prepare(options)[:2], [], options)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return made(tmp_path_factory.mktemp("table"), "Normal", np.random.default_rng(0).normal(size=(60, 4)))


@pytest.mark.parametrize(
    ("task", "options", "files"),
    [
        ("arithmetic", {}, {"arithmetic.npz"}),
        ("augment", {"labelled": (3, 6), "number": 1, "seeds": 2}, {"gains.png"}),
        ("denoise", {"num_samples": 10}, set()),
    ],
)
def test_of_a_table_no_images_are_shown(table, task, options, files):
    found = tasks.TASKS[task](table, **options)
    assert found.files.keys() == files
    assert not [name for name in found.numbers if "median_filter" in name or "shifts" in name]


def test_counts_have_no_baseline_that_is_a_density(tmp_path):
    """Its log score would not be one of probabilities."""
    x = np.random.default_rng(0).poisson(3.0, (60, 4)).astype(np.float32)
    numbers = tasks.TASKS["impute"](made(tmp_path, "Poisson", x), num_samples=50, num_imputations=2).numbers
    assert {"log_score", "squared_error", "nearest_squared_error"} <= numbers.keys()
    assert not {"nearest_log_score", "column_means_log_score", "coverage"} & numbers.keys()


def test_strangers_to_a_table_are_noise_means_and_what_is_given(table, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("\n".join(f"{i},{i % 5},{i % 2},1.25" for i in range(20)))
    names = {"uniform noise", "means of p(x | z)"}
    assert strangers(table).keys() == names
    found = strangers(table, str(other))
    assert found.keys() == names | {"other.csv"}
    assert all(t.shape[1:] == (4,) for t in found.values())
    whole = replace(table.dataset, test=torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"have the shape \(4,\), those of the run \(3,\): give data of that shape"):
        strangers(table._replace(dataset=whole), str(other))
