"""What new data are made of, against the linear-Gaussian model and scipy."""

import numpy as np
import pytest
import torch
from data_files import LEVEL
from PIL import Image
from scipy import stats

from pyrovae import MixtureVAE, animation, encoders, exact, likelihoods, networks, priors
from pyrovae.applications import aggregate_posterior, attribute_vector, decoded, distances, generated, share, traversal
from pyrovae.diagnostics import frechet_distance, latent_means


def encoder_of(model):
    """V, c and t of z = V x + c + t e."""
    layer, d = model.vae.encoder.network.layers[-1], model.weight.shape[1]
    t = model.vae.encode(torch.zeros(1, len(model.weight), dtype=torch.float64)).stddev[0]
    return layer.weight[:d].detach(), layer.bias[:d].detach(), t.detach()


def test_the_aggregate_posterior_of_a_linear_gaussian_model_is_known():
    model, n = exact.LinearGaussian(latent_dim=2, data_dim=4, scale=1.0), 4000
    model.solve_encoder()
    v, c, t = encoder_of(model)
    of_means = v @ (model.weight @ model.weight.T + model.scale**2 * torch.eye(4)).detach() @ v.T
    mean, covariance = v @ model.bias.detach() + c, of_means + t.square().diag()  # of q(z) = E_x[q(z | x)]
    q = aggregate_posterior(model.vae, model.sample(n), components=1)
    normal = q.component_distribution
    off = normal.loc[0] - mean
    assert stats.chi2.sf(n * (off @ torch.linalg.solve(covariance, off)).item(), 2) > LEVEL
    found, error = normal.covariance_matrix[0], (covariance**2 + covariance.diag().outer(covariance.diag())) / n
    assert ((found - covariance).abs() < stats.norm.isf(LEVEL / 6) * error.sqrt()).all()
    assert not ((found - of_means).abs() < stats.norm.isf(LEVEL / 6) * error.sqrt()).all()  # of the means alone


def test_the_aggregate_posterior_finds_clusters_and_is_a_density_to_draw_from():
    model = exact.LinearGaussian(latent_dim=1, data_dim=3)
    model.solve_encoder()
    v, c, _ = encoder_of(model)
    far = 40 * v[0] / (v @ v.T)[0]  # whose code is 40
    kinds = torch.arange(1000) % 4 == 0
    q = aggregate_posterior(model.vae, torch.where(kinds[:, None], far, -far), components=2, seed=3)
    weights, order = q.mixture_distribution.probs.sort()
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(
        q.component_distribution.loc[order, 0], c + torch.tensor([40.0, -40.0]), atol=0.2, rtol=0
    )
    grid = torch.linspace(-60, 60, 20_001, dtype=torch.float64)
    assert torch.trapezoid(q.log_prob(grid[:, None]).exp(), grid).item() == pytest.approx(1)
    new = generated(model.vae, 7, q, seed=1)
    torch.testing.assert_close(new.mean, new.z @ model.weight.T.detach() + model.bias.detach())
    assert torch.equal(new.sample, generated(model.vae, 7, q, seed=1).sample)
    with pytest.raises(ValueError, match="give from 1 to 3"):
        aggregate_posterior(model.vae, torch.zeros(3, 3), components=4)


def test_distances_are_those_of_the_data_themselves_where_no_component_is_left_out():
    x, train, *sets = torch.randn(6, 50, 3, dtype=torch.float64)
    found = distances({"one": sets[:2], "two": sets[2:]}, x, train)
    for name, parts in (("one", sets[:2]), ("two", sets[2:])):
        expected = np.array([frechet_distance(x, part) for part in parts])
        np.testing.assert_allclose(found[name], [expected.mean(), stats.sem(expected)], rtol=1e-6)


def test_a_traversal_goes_over_the_priors_quantiles_in_the_order_of_the_kl():
    model = exact.LinearGaussian(latent_dim=3, data_dim=5)
    with torch.no_grad():
        model.weight.mul_(torch.tensor([0.1, 3.0, 1.0]))  # what each dimension tells
    model.solve_encoder()
    x, levels = model.sample(500), torch.tensor([0.1, 0.5, 0.9])
    start = torch.tensor([7.0, 8.0, 9.0], dtype=torch.float64)
    found = traversal(model.vae, x, levels, start, most=2)
    assert found.dimensions.tolist() == [1, 2]
    np.testing.assert_allclose(found.z[0, :, 1], stats.norm.ppf(levels), atol=0.02)
    assert found.z[0, :, [0, 2]].unique(dim=0).tolist() == [[7.0, 9.0]]
    assert found.kl[0] > found.kl[1]
    assert traversal(model.vae, x, levels).z[2, 1].abs().max() < 0.02  # about the prior's mean

    decode, encode = likelihoods.Normal(networks.MLP(2, 3)), encoders.DiagonalNormal(networks.MLP(3, 4))
    mixture = MixtureVAE(priors.MixtureOfNormals(2, components=3), decode, encode)
    found = traversal(mixture, torch.randn(50, 3), levels)
    assert found.kl is None
    assert found.variance[0] >= found.variance[1]


def test_latent_arithmetic_of_a_linear_model_adds_w_v_times_the_difference_of_means():
    model = exact.LinearGaussian(latent_dim=2, data_dim=4)
    x, labels = model.sample(30), torch.arange(30) % 3
    v, w = encoder_of(model)[0], model.weight.detach()
    z = latent_means(model.vae, x)
    vector = attribute_vector(z, labels, minus=0, plus=2)
    difference = x[labels == 2].mean(0) - x[labels == 0].mean(0)
    moved = decoded(model.vae, z[labels == 0] + vector) - decoded(model.vae, z[labels == 0])
    torch.testing.assert_close(moved, (w @ v @ difference).expand(10, 4))
    with pytest.raises(ValueError, match="no datum has the label 7: take one of 0, 1, 2"):
        attribute_vector(z, labels, minus=0, plus=7)


def test_the_interval_of_a_share_is_by_quantiles_of_the_beta_distribution():
    found = share(torch.arange(27) < 20, level=0.9)
    expected = [20 / 27, stats.beta.ppf(0.05, 20, 8), stats.beta.ppf(0.95, 21, 7)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_goes_forth_and_back_for_ever(tmp_path, channels):
    frames = torch.zeros(4, 2, 3, channels, 8, 8)
    for t in range(4):
        frames[t, 1, 2] = t / 3
    animation.animation(frames, "a title", [f"panel {i}" for i in range(6)])(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 6
        assert picture.info["loop"] == 0
        seen = []
        for t in range(6):
            picture.seek(t)
            seen.append(picture.convert("L").getpixel((picture.width * 7 // 8, picture.height * 3 // 4)) / 255)
    values = [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
    np.testing.assert_allclose(seen, [1 - v for v in values] if channels == 1 else values, atol=0.02)  # ink, or light


def test_an_animation_is_made_small_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "_SIDE", 64)
    monkeypatch.setattr(animation, "_LIMIT", 6000)
    animation.animation(torch.rand(6, 2, 2, 1, 8, 8), "")(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").stat().st_size < 6000
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        animation.animation(torch.rand(6, 1, 1, 2, 8, 8), "")
