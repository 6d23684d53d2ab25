"""The tasks that generate, interpolate, traverse and add, on tiny runs: their numbers, files and refusals."""

from dataclasses import replace

import numpy as np
import pytest
from data_files import write_few_digits
from matplotlib.figure import Figure
from PIL import Image

from pyrovae import runs, tasks

SMALL = ["--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--latent_dim", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    write_few_digits(path)
    return str(path)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    choices = [*SMALL, "--data", data, "--epochs", "10", "--optimizer.lr", "0.01"]
    folder = tmp_path_factory.mktemp("runs") / "run"
    return runs.train(*runs.parse([*choices, "--out", str(folder)])[:2])


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: path.touch())  # which takes longer than all else


def untrained(data, folder, *arguments):
    options, _, _ = runs.parse([*SMALL, "--data", data, *arguments, "--out", str(folder)])
    return runs.Run(*runs.prepare(options)[:2], [], options)


def test_generate(run, tmp_path):
    result = tasks.TASKS["generate"](run, num_samples=40, components=2)
    tasks.write(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("numbers.json", "generated.png", "prior.npz", "aggregate_posterior.npz")
    }
    with np.load(tmp_path / "aggregate_posterior.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            **dict.fromkeys(("means", "samples"), (40, 1, 8, 8)),
            "z": (40, 3),
        }
        assert set(np.unique(arrays["samples"])) == {0, 1}
    numbers = result.numbers
    assert numbers["set_size"] == 30
    assert 0 < numbers["frechet_training_data"] < min(numbers["frechet_prior"], numbers["frechet_aggregate_posterior"])
    assert numbers["two_sample_p_training_data"] > 0.01
    assert tasks.TASKS["generate"](run, num_samples=40, components=2).numbers == numbers


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "ConditionalVAE"],
        ["--model", "M2", "--model.labelled", "20", "--objective.gradient", "Enumerate"],
        ["--model", "ConditionalVAE", "--model.quadrants", "2"],
        ["--model", "Autoencoder"],
        ["--model", "LadderVAE"],
        ["--prior", "HypersphericalUniform", "--encoder", "PowerSpherical"],
    ],
    ids=lambda arguments: " ".join(arguments[1::2]),
)
def test_generate_of_other_models(data, tmp_path, arguments):
    result = tasks.TASKS["generate"](untrained(data, tmp_path / "run", *arguments), num_samples=40, components=2)
    tasks.write(result, tmp_path)
    name = "aggregate_posterior" if "Autoencoder" in arguments else "prior"
    assert {p.name for p in tmp_path.iterdir()} == {"numbers.json", "generated.png", f"{name}.npz"}
    with np.load(tmp_path / f"{name}.npz") as arrays:
        assert arrays["means"].shape == (40, 1, 8, 8)
        if "ConditionalVAE" in arguments and "2" not in arguments:
            assert arrays["y"].tolist() == np.repeat(np.arange(10), 4).tolist()


def test_interpolate(run, tmp_path):
    result = tasks.TASKS["interpolate"](run, method="linear", steps=5)
    tasks.write(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "numbers.json",
        "paths.npz",
        "paths.png",
        "paths.gif",
        "classes.gif",
    }
    numbers, labels = result.numbers, run.dataset.labels.test
    assert labels[numbers["start"]] != labels[numbers["end"]]
    assert 0 < numbers["geodesic_length"] <= numbers["linear_length"]
    with np.load(tmp_path / "paths.npz") as arrays:
        assert arrays["geodesic_means"].shape == arrays["samples"].shape == (5, 1, 8, 8)
        np.testing.assert_allclose(arrays["spherical_z"][[0, -1]], arrays["linear_z"][[0, -1]], atol=1e-5)
    for name in ("paths.gif", "classes.gif"):
        assert (tmp_path / name).stat().st_size < 2_000_000
        with Image.open(tmp_path / name) as picture:
            assert (picture.n_frames, picture.info["loop"]) == (32, 0)
    without = run._replace(dataset=replace(run.dataset, labels=None))
    other = tasks.TASKS["interpolate"](without, method="linear", steps=2, end=7)
    assert (other.numbers["start"], other.numbers["end"]) == (0, 7)
    assert {*other.files} == {"paths.npz", "paths.png", "paths.gif"}
    with pytest.raises(ValueError, match="no test datum 30: give an index from 0 to 29"):
        tasks.TASKS["interpolate"](run, end=30)
    with pytest.raises(ValueError, match="at least its two ends"):
        tasks.TASKS["interpolate"](run, steps=1)


def test_traverse(run, tmp_path):
    result = tasks.TASKS["traverse"](run, datum=4, steps=3)
    tasks.write(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"numbers.json", *(f"traversal.{e}" for e in ("npz", "png", "gif"))}
    assert sorted(result.numbers["dimensions"]) == [1, 2, 3]
    assert result.numbers["kl"] == sorted(result.numbers["kl"], reverse=True)
    with pytest.raises(ValueError, match="no test datum -1"):
        tasks.TASKS["traverse"](run, datum=-1)
    with pytest.raises(ValueError, match="at least 2 quantiles, not 1"):
        tasks.TASKS["traverse"](run, steps=1)


def test_arithmetic(run, tmp_path):
    result = tasks.TASKS["arithmetic"](run, minus=7, plus=0)
    tasks.write(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"numbers.json", "arithmetic.npz", "arithmetic.png"}
    numbers = result.numbers
    assert numbers["moved"] == 3
    assert numbers["accuracy"] > 0.5
    assert numbers["share_moved_low"] <= numbers["share_moved"] <= numbers["share_moved_high"]
    assert numbers["share_moved"] == numbers["shares"][numbers["t"].index(1)] > numbers["share_unmoved"]
    default = tasks.TASKS["arithmetic"](run).numbers
    assert (default["minus"], default["plus"]) == (0, 1)  # the first of the few, among which is no 3
    with pytest.raises(ValueError, match="no datum has the label 12"):
        tasks.TASKS["arithmetic"](run, plus=12)
    with pytest.raises(ValueError, match="not 0 from 3 to 8"):
        tasks.TASKS["arithmetic"](run, minus=3, plus=8)


def test_data_that_are_no_images_give_numbers_and_arrays(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.random.default_rng(0).normal(size=(60, 3)))
    table = untrained(str(tmp_path / "table.npz"), tmp_path / "run", "--likelihood", "Normal")
    for name in ("generate", "interpolate", "traverse"):
        files = tasks.TASKS[name](table).files
        assert files
        assert all(file.endswith(".npz") for file in files)
    with pytest.raises(ValueError, match="the data have no labels"):
        tasks.TASKS["arithmetic"](table)


def test_models_without_the_pieces_are_refused(data, tmp_path):
    for arguments, words in (
        (["--model", "LadderVAE"], "of a model of one vector z"),
        (["--prior", "HypersphericalUniform", "--encoder", "PowerSpherical"], "is over the unit sphere"),
        (["--prior", "Bernoulli", "--encoder", "Bernoulli", "--objective.gradient", "REBAR"], r"is over \{0, 1\}\^D"),
    ):
        other = untrained(data, tmp_path / "run", *arguments)
        for name in ("interpolate", "traverse", "arithmetic"):
            with pytest.raises(ValueError, match=words):
                tasks.TASKS[name](other)
    with pytest.raises(ValueError, match="an autoencoder has not"):
        tasks.TASKS["traverse"](untrained(data, tmp_path / "run", "--model", "Autoencoder"))
