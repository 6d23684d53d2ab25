"""Every model of the family from the command line: trained, scored, drawn and read again."""

import json
import math
from dataclasses import replace

import pytest
import torch
from data_files import write_few_digits

from pyrovae import blueprints, data, models, runs
from pyrovae.figures import draw

SMALL = [
    "--optimizer.lr",
    "5e-3",
    "--encoder_network.hidden",
    "[16]",
    "--decoder_network.hidden",
    "[16]",
    "--num_samples",
    "10",
]
OPTIONS = {  # beside --model, for what is not the default
    "MixtureVAE": ["--prior", "MixtureOfNormals", "--prior.components", "5", "--objective.gradient", "Enumerate"],
    "M2": ["--model.labelled", "50", "--objective.gradient", "Enumerate"],
    "TwoLevelVAE": ["--model.lower_dim", "5", "--prior", "VampPrior", "--prior.components", "9"],
    "AdversarialVB": ["--encoder_lr", "1e-3"],
    "Autoencoder": ["--model.corruption", "Masking", "--model.corruption.probability", "0.2"],
    "DeepMarkovModel": ["--model.hidden", "9", "--model.transition", "8", "--encoder", "IAF"],
    "HierarchicalVAE": ["--model.latent_dims", "[5, 4, 3]"],
    "IncompleteVAE": ["--model.fraction", "0.5", "--objective", "IWAE"],
    "LadderVAE": ["--model.latent_dims", "[5, 4, 3]", "--model.features", "7"],
    "VQVAE": ["--model.codes", "9", "--model.positions", "3", "--model.code_prior.hidden", "4"],
}
FIGURES = {
    "VAE": {"samples"},
    "AdversarialAutoencoder": {"samples", "codes"},
    "AdversarialVB": {"samples", "posteriors"},
    "Autoencoder": {"codes"},
    "DeepMarkovModel": {"samples", "kl_per_step", "forecasts"},
    "HierarchicalVAE": {"samples", "kl_per_layer", "layers"},
    "IncompleteVAE": {"samples", "completions"},
    "LadderVAE": {"samples", "kl_per_layer", "layers"},
    "MixtureVAE": {"samples", "clusters"},
    "TwoLevelVAE": {"samples", "kl_per_layer", "layers"},
    "ConditionalVAE": {"classes"},
    "M2": {"classes"},
    "VQVAE": {"samples", "codes", "code_usage"},
}
# Of these the guide has no density, so that there is no bound.
POINTS = {"AdversarialAutoencoder", "AdversarialVB", "Autoencoder"}
NAMES = blueprints.__all__


def test_every_model_has_a_blueprint():
    assert set(NAMES) == set(models.__all__) == set(FIGURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_every_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_few_digits(tmp_path / "few.npz")
    arguments = [*SMALL, "--data", "few.npz", "--epochs", "2", "--model", name, *OPTIONS.get(name, [])]
    choices, folder, resume = runs.parse(arguments)
    run = runs.train(choices, folder, resume)
    assert type(run.vae).__name__ == name
    assert run.history["reconstruction"][1] > run.history["reconstruction"][0]
    metrics = runs.report(run, folder, choices.num_samples)
    assert math.isnan(metrics["elbo"]) == math.isnan(metrics["log_likelihood"]) == (name in POINTS)
    assert math.isfinite(metrics["reconstruction"])
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn >= FIGURES[name] | {"training_curves"}
    assert "trained 2 epochs" in runs.summary(metrics)
    assert (name in POINTS) == ("no bound on log p(x)" in runs.summary(metrics))
    assert (name == "M2") == ("accuracy 0." in runs.summary(metrics).replace("discriminator accuracy", ""))
    json.loads((folder / "metrics.json").read_text())
    again = runs.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(run.vae.parameters(), again.vae.parameters(), strict=True))
    rescored = runs.score(again, choices.num_samples, 0)
    assert str(rescored) == str(metrics)  # NaN, which is like no number, included


@pytest.mark.parametrize("name", ["Autoencoder", "VQVAE"])
def test_few_test_data_are_drawn_too(name, tmp_path):
    options, _, _ = runs.parse([*SMALL, "--model", name, *OPTIONS[name], "--out", str(tmp_path)])
    vae, dataset, _ = runs.prepare(options)
    few = replace(dataset, test=dataset.test[:5], labels=None)
    assert {figure for figure, _ in draw(vae.eval(), few, [])} >= FIGURES[name]


def test_a_run_of_quadrants_is_of_the_hidden_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, "--epochs", "1", "--model", "ConditionalVAE", "--model.quadrants", "2"]
    choices, folder, resume = runs.parse([*arguments, "--model.learned_prior", "true"])
    run = runs.train(choices, folder, resume)
    metrics = runs.report(run, folder, choices.num_samples)
    assert run.dataset.test[0].shape == run.dataset.test[1].shape == (300, 1, 32)
    assert metrics["bits_per_dimension"] == pytest.approx(-metrics["log_likelihood"] / 32 / math.log(2))
    assert "test log p(x | y)" in runs.summary(metrics)
    assert (folder / "figures" / "completions.png").exists()


def test_few_labels_tell_the_others():
    blueprint = blueprints.M2(labelled=30, share=0.2, label_seed=1)
    dataset = data.load("digits", binarize="dynamic")
    x, y = blueprint.data(dataset).train
    assert type(x) is data.Intensities
    assert (y >= 0).sum() / len(y) == pytest.approx(0.2, abs=0.02)
    known, count = x[y >= 0].unique(dim=0, return_counts=True)
    assert len(known) == 30
    assert count.unique().numel() == 1
    assert torch.equal(y[y >= 0].bincount(), torch.full((10,), 3 * int(count[0])))
    assert torch.equal(y[y >= 0][:30], dataset.labels.train[: len(dataset.train)][y[: len(dataset.train)] >= 0])
    for wrong in ({"labelled": 33}, {"labelled": 5000}, {"share": 1.0}):
        with pytest.raises(ValueError, match="labelled data are some of each of 10 classes"):
            blueprints.M2(**wrong).data(dataset)


def test_parts_start_alike_whatever_else_the_model_has():
    flat, deep = (runs.build(model=model)[0] for model in (blueprints.VAE(), blueprints.HierarchicalVAE()))
    for one, other in ((flat.encoder, deep.encoders[0]), (flat.likelihood, deep.likelihood)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    shapes = [p.shape for p in deep.encoders[1].parameters()]
    twin = runs.build(model=blueprints.HierarchicalVAE([8, 4, 4]))[0]
    third = [p for p in twin.encoders[2].parameters() if p.shape in shapes and p.dim() > 1]
    assert third
    assert not any(torch.equal(a, b) for a, b in zip(third, twin.encoders[1].parameters(), strict=False))


@pytest.mark.parametrize("name", ["HierarchicalVAE", "LadderVAE", "TwoLevelVAE", "ConditionalVAE"])
def test_images_may_go_through_convolutions_with_layers_of_vectors_above(name, tmp_path):
    images = ["--encoder_network", "Conv", "--decoder_network", "ConvTranspose", "--model", name]
    learned = ["--model.learned_prior", "true"] if name == "ConditionalVAE" else []
    options, folder, _ = runs.parse([*images, *learned, "--epochs", "1", "--out", str(tmp_path / "run")])
    kinds = {type(part).__name__ for part in runs.train(options, folder).vae.modules()}
    assert kinds >= {"Conv", "ConvTranspose", "MLP"}


def test_what_is_no_image_does_not_go_through_convolutions(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "1.0,2.0\n" * 20)
    options, _, _ = runs.parse(["--data", str(rows), "--likelihood", "Normal", "--encoder_network", "Conv"])
    with pytest.raises(ValueError, match="a convolutional network needs an image"):
        runs.prepare(options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ConditionalVAE", "needs the classes of the data, and rows.csv has none"),
        ("DeepMarkovModel", r"is of sequences \(T, F\) or images, not of data \(2,\)"),
    ],
)
def test_a_table_without_labels_is_neither_of_classes_nor_of_steps(name, words, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "1.0,2.0\n" * 20)
    options, _, _ = runs.parse(["--data", str(rows), "--likelihood", "Normal", "--model", name])
    with pytest.raises(ValueError, match=words):
        runs.prepare(options)
