"""Latent variables for ArviZ and TensorBoard: what is written is what the model says."""

import sys

import numpy as np
import pytest
import torch
import xarray
from PIL import Image
from safetensors.torch import load_file

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.exact import LinearGaussian
from pyrovae.export import inference_data, projector, weights


def test_weights_of_the_exact_posterior_are_the_evidence(tmp_path):
    model = LinearGaussian(latent_dim=1, data_dim=3)
    model.solve_encoder()  # of D = 1 it is exact
    x, state = model.sample(7), torch.get_rng_state()
    inference_data(model.vae, x, num_draws=20, labels=torch.arange(7)).to_netcdf(tmp_path / "a.nc")
    assert torch.equal(torch.get_rng_state(), state)
    with xarray.open_datatree(tmp_path / "a.nc") as read:
        assert read.posterior.z.dims == ("chain", "draw", "datum", "dimension")
        assert read.posterior.z.shape == read.prior.z.shape == (1, 20, 7, 1)
        evidence = model.log_likelihood(x).detach()
        np.testing.assert_allclose(read.sample_stats.log_weight[0], evidence.expand(20, 7))
        z = torch.as_tensor(read.posterior.z.values)
        np.testing.assert_allclose(read.log_likelihood.x, model.vae.likelihood(z).log_prob(x).detach())
        np.testing.assert_allclose(read.observed_data.x, x)
        np.testing.assert_allclose(read.constant_data["mean"], model.posterior(x).mean.detach())
        np.testing.assert_allclose(read.constant_data.scale, model.posterior(x).stddev.detach())
        assert read.constant_data.label.values.tolist() == [*range(7)]
        assert np.abs(read.posterior.z - read.constant_data["mean"]).max() > 0.1


def images(prior="StandardNormal", encoder="DiagonalNormal"):
    vae = VAE(
        getattr(priors, prior)(2),
        likelihoods.Bernoulli(networks.MLP(2, (1, 4, 4))),
        getattr(encoders, encoder)(lambda n: networks.MLP((1, 4, 4), n(2))),
    )
    return vae, vae.sample(5)


@pytest.mark.parametrize(
    "kinds", [("Bernoulli", "Bernoulli"), ("OneHotCategorical", "OneHotCategorical"), ("StandardNormal", "Planar")]
)
def test_other_latent_variables_are_exported_too(kinds):
    found = inference_data(*images(*kinds), num_draws=3)
    assert found.observed_data.x.dims == ("datum", "channel", "height", "width")
    assert found.sample_stats.log_weight.shape == (1, 3, 5)
    assert "label" not in found.constant_data


def test_a_point_has_no_weights():
    assert "sample_stats" not in inference_data(*images(encoder="Delta"), num_draws=3)


def test_the_projector_has_means_labels_and_pictures_and_replaces_what_was_there(tmp_path):
    vae, x = images()
    for count in (5, 4):
        projector(vae, x[:count], tmp_path / "projector", torch.arange(count))
    (tensors,) = tmp_path.glob("projector/*/latent_means/tensors.tsv")
    np.testing.assert_allclose(np.loadtxt(tensors), vae.encode(x[:4]).mean.detach(), rtol=1e-5)
    assert tensors.with_name("metadata.tsv").read_text().split() == ["0", "1", "2", "3"]
    with Image.open(tensors.with_name("sprite.png")) as sprite:
        picture = np.asarray(sprite.convert("L")) / 255
    rows = x[:4, 0].reshape(2, 2, 4, 4).permute(0, 2, 1, 3).reshape(8, 8)
    np.testing.assert_array_equal(picture, rows)
    assert (tmp_path / "projector" / "projector_config.pbtxt").read_text().count("embeddings") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["projector"]


def test_data_that_are_no_images_are_points(tmp_path):
    model = LinearGaussian(latent_dim=2, data_dim=3)
    projector(model.vae, model.sample(6), tmp_path / "projector")
    assert [*tmp_path.glob("projector/*/latent_means/tensors.tsv")]
    assert not [*tmp_path.glob("projector/*/latent_means/sprite.png")]


@pytest.mark.parametrize(
    ("module", "run"),
    [
        ("arviz_base", inference_data),
        ("tensorboard", projector),
        ("safetensors", lambda vae, x, path: weights(vae, path)),
    ],
)
def test_what_is_not_installed_is_told(module, run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[export\]'"):
        run(*images(), tmp_path)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="num_draws must be at least 1, not 0"):
        inference_data(*images(), num_draws=0)


def test_weights_are_handed_on(tmp_path):
    vae, x = images()
    other, _ = images()
    weights(vae, tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.encode(x).mean, vae.encode(x).mean)
