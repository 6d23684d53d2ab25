"""The tasks map, manifold and uncertainty on small runs: their numbers and files, not the look."""

import inspect

import numpy as np
import pytest
import torch
from data_files import write_few_digits

from pyrovae import diagnostics, evaluation, runs, tasks

FAST = ["--epochs", "2", "--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--num_samples", "5"]


def run_of(folder, *arguments):
    return runs.train(*runs.parse([*FAST, *arguments, "--out", str(folder / "run")]))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Of two latent dimensions."""
    folder = tmp_path_factory.mktemp("digits")
    write_few_digits(folder / "few.npz")
    return run_of(folder, "--data", str(folder / "few.npz"), "--binarize", "dynamic", "--latent_dim", "2")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Of three latent dimensions and 60 labelled rows of four numbers."""
    folder, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    np.savez(folder / "table.npz", x=random.normal(size=(60, 4)), y=np.arange(60) % 3)
    return run_of(folder, "--data", str(folder / "table.npz"), "--likelihood", "Normal", "--latent_dim", "3")


def written(result, folder):
    tasks.write(result, folder)
    return {path.name for path in folder.iterdir()}


def test_a_map_of_the_plane_has_what_is_decoded_under_it(digits, tmp_path):
    found = tasks.TASKS["map"](digits, projector=True)
    assert written(found, tmp_path) == {"numbers.json", "map.png", "projector"}
    assert (tmp_path / "projector" / "projector_config.pbtxt").exists()
    means = diagnostics.latent_means(digits.vae, digits.dataset.test)
    limit = 2.3263  # of the standard normal, 1 % and 99 %
    outside = (means.abs() > limit).any(1).double().mean().item()
    assert found.numbers["outside"] == pytest.approx(outside, abs=0.04)
    assert 0 <= found.numbers["all_dimensions_accuracy"] <= 1
    assert "plane_accuracy" not in found.numbers  # the plane is all of z


def test_a_map_of_more_dimensions_tells_what_planes_lose(table, tmp_path):
    found = tasks.TASKS["map"](table)
    assert written(found, tmp_path) == {"numbers.json", "map.png"}
    assert {f"{space}_accuracy" for space in ("all_dimensions", "pca", "t_sne")} < found.numbers.keys()
    assert found.numbers["num_data"] == 10


def test_a_manifold_is_judged_beside_components(digits, table, tmp_path):
    for run in (digits, table):
        found = tasks.TASKS["manifold"](run)
        x = run.dataset.test.flatten(1)
        assert found.numbers["extent"] == pytest.approx(torch.cdist(x, x).max().item(), rel=1e-4)
        assert found.numbers["vae_error"] > 0.9 * found.numbers["pca_error"]  # hardly trained
    assert written(found, tmp_path) == {"numbers.json", "manifold.png"}


def test_a_roll_has_positions_and_two_columns_no_manifold(tmp_path):
    folder = tmp_path / "roll"
    folder.mkdir()
    run = run_of(folder, "--data", "swiss_roll", "--likelihood", "Normal", "--latent_dim", "1", "--epochs", "1")
    found = tasks.TASKS["manifold"](run)
    assert found.numbers["vae_factor_0_neighbours"] < 0.99  # of one dimension
    assert found.numbers["vae_factor_1_linear_std_error"] > 0
    assert set(tasks.TASKS["map"](run).files) == {"map.png"}  # without labels
    np.save(tmp_path / "two.npy", np.random.default_rng(0).normal(size=(40, 2)))
    run = run_of(tmp_path, "--data", str(tmp_path / "two.npy"), "--likelihood", "Normal")
    with pytest.raises(ValueError, match="data of this run have 2: see the task map"):
        tasks.TASKS["manifold"](run)


def test_uncertainty_is_split_and_checked(digits, table, tmp_path, monkeypatch):
    module = inspect.getmodule(tasks.TASKS["uncertainty"])
    regions = module.posterior_regions
    monkeypatch.setattr(module, "posterior_regions", lambda *args: [None, *regions(*args)[1:]])
    found = tasks.TASKS["uncertainty"](digits, num_samples=20)
    assert "no grid is fit for the true posterior of 1 of 28 data" in found.summary
    figures = {"predictive_first.png", "predictive_worst.png", "posteriors.png", "coverage.png"}
    assert written(found, tmp_path) == {"numbers.json"} | figures
    bound, evidence = evaluation.scores(digits.vae, digits.dataset.test, 20, 0)
    assert found.numbers["largest_gap"] == pytest.approx((evidence.value - bound.value).max().item())
    assert found.numbers["z_80%_low"] < found.numbers["z_80%"] < found.numbers["z_80%_high"]
    found = tasks.TASKS["uncertainty"](table, num_samples=20)
    assert "posterior_80%" not in found.numbers
    assert "one or two dimensions, but z has 3" in found.summary
    assert set(found.files) == figures - {"posteriors.png"}


@pytest.mark.parametrize("task", ["map", "manifold", "uncertainty"])
def test_a_model_of_other_latent_variables_is_refused(task, tmp_path):
    write_few_digits(tmp_path / "few.npz")
    data = ["--data", str(tmp_path / "few.npz"), "--binarize", "dynamic"]
    options, *_ = runs.parse([*FAST, "--model", "ConditionalVAE", *data, "--epochs", "0"])
    vae, dataset, *_ = runs.prepare(options)
    with pytest.raises(ValueError, match=r"of one vector z, .* which ConditionalVAE is not"):
        tasks.TASKS[task](runs.Run(vae, dataset, None, options))


def test_a_folder_is_written_by_its_writer(tmp_path):
    result = tasks.Result({"one": 1}, "", {"more/": lambda path: (path.mkdir(), (path / "a").touch())})
    tasks.write(result, tmp_path / "all")
    assert (tmp_path / "all" / "more" / "a").exists()
