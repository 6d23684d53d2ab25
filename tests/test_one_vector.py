"""Which models have one vector z, and that a diagnosis or an export of others is refused in a sentence."""

import runpy
from pathlib import Path

import pytest
import torch

from pyrovae import Autoencoder, data, diagnosis, export, fit, likelihoods, networks, objectives, runs
from pyrovae.one_vector import has_one_vector, require_one_vector

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = ["--encoder_network.hidden", "[8]", "--decoder_network.hidden", "[8]", "--num_samples", "5", "--epochs", "1"]
ONE = {"VAE", "Autoencoder", "AdversarialAutoencoder", "AdversarialVB", "MixtureVAE --prior MixtureOfNormals"}
OTHERS = {
    *("ConditionalVAE", "M2 --objective.gradient Enumerate", "VQVAE", "DeepMarkovModel"),
    *("HierarchicalVAE", "LadderVAE", "TwoLevelVAE"),
}


def prepared(model, folder):
    options, _, _ = runs.parse([*SMALL, "--model", *model.split(), "--out", str(folder)])
    return options, *runs.prepare(options)[:2]


@pytest.mark.parametrize("model", sorted(ONE | OTHERS))
def test_models_of_one_vector_are_told_from_others(model, tmp_path):
    _, vae, dataset = prepared(model, tmp_path)
    assert has_one_vector(vae, dataset.test) == (model in ONE)
    if model in OTHERS:
        with pytest.raises(ValueError, match=r"a picture is of a model of one vector z, .* is not: leave it out"):
            require_one_vector(vae, dataset.test, "a picture")


@pytest.mark.parametrize("model", ["LadderVAE", "M2 --objective.gradient Enumerate", "ConditionalVAE"])
def test_others_are_neither_diagnosed_nor_exported(model, tmp_path):
    options, vae, dataset = prepared(model, tmp_path)
    run = runs.Run(vae, dataset, [], options)
    with pytest.raises(ValueError, match="a diagnosis is of a model of one vector"):
        next(diagnosis.diagnose(run, 5))
    for exported in (export.inference_data, lambda *a: export.projector(*a, tmp_path)):
        with pytest.raises(ValueError, match="an export is of a model of one vector"):
            exported(vae, dataset.test)


def test_the_script_says_so_before_it_scores(tmp_path):
    options, _, _ = prepared("LadderVAE", tmp_path / "run")
    runs.train(options, tmp_path / "run")
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    for option in ("--report", "--json", "--export"):
        with pytest.raises(ValueError, match=f"{option} is of a model of one vector"):
            main([str(tmp_path / "run"), option])
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_an_autoencoder_says_that_it_has_no_prior_to_draw_from():
    torch.manual_seed(0)
    decoder = likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8)))
    x, vae = data.load("digits", "threshold").train[:20], Autoencoder(networks.MLP((1, 8, 8), 2), decoder)
    for ask in (lambda: fit(vae, x, objective=objectives.WAE(), epochs=1), lambda: export.inference_data(vae, x)):
        with pytest.raises(ValueError, match=r"has no p\(z\) to draw from: decode points"):
            ask()
