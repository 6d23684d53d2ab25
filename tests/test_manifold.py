"""A Swiss roll is what its equations say, and what a code tells of the place on it is measured by what is known."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from pyrovae import data, diagnostics, exact
from pyrovae.applications import by_components, by_model, latent_moments, neighbours, plane, told, tsne
from pyrovae.applications.manifold import Coded
from pyrovae.swiss_roll import NOISE, swiss_roll


def test_the_roll_is_that_of_its_equations():
    """The angle t is found from the length by bisection; what is left is the noise, alike in three directions."""
    x, (length, height) = (swiss_roll()[0].double().numpy(), swiss_roll()[1].double().numpy().T)
    grid = np.linspace(1.5 * np.pi, 4.5 * np.pi, 200_001)
    speed = np.sqrt(1 + grid**2) / 7  # |dx / dt|
    along = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(grid))])
    t = np.interp(length, along, grid)
    noise = x - np.stack([t * np.cos(t) / 7, height, t * np.sin(t) / 7], 1)
    np.testing.assert_allclose(noise.std(0), NOISE, rtol=0.05)
    np.testing.assert_allclose(np.cov(noise.T) / NOISE**2, np.eye(3), atol=0.08)
    assert abs(length.max() - along[-1]) < 0.02
    assert height.min() > -1.5
    assert height.max() < 1.5


def test_the_roll_is_a_data_set_that_is_always_the_same():
    found, again = data.load("swiss_roll"), data.load("swiss_roll", seed=7)
    assert [t.shape for t in (found.train, found.valid, found.test)] == [(4500, 3), (500, 3), (1000, 3)]
    assert found.protocol == again.protocol
    assert found.labels is None
    assert found.factors.test.shape == (1000, 2)
    x, factors = swiss_roll()
    rows = {tuple(row) for row in torch.cat([x, factors], 1).tolist()}
    assert {tuple(row) for row in torch.cat([found.test, found.factors.test], 1).tolist()} <= rows


def test_continuous_factors_are_told_apart_too():
    place = torch.rand(2000, 2)
    apart = diagnostics.disentanglement(10 * place, place, bins=10)
    mixed = diagnostics.disentanglement(place @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]), place, bins=10)
    assert apart.mig > 0.9
    assert mixed.mig < 0.2
    assert apart.sap > 0.5 > mixed.sap


def test_components_are_scikit_learns():
    torch.manual_seed(0)
    train, test = torch.randn(40, 2, 3), torch.randn(10, 2, 3)
    found, pca = by_components(train, test, 2), PCA(2).fit(train.flatten(1).double())
    np.testing.assert_allclose(found.test.abs(), np.abs(pca.transform(test.flatten(1).double())), atol=1e-5)
    rebuilt = pca.inverse_transform(pca.transform(test.flatten(1).double()))
    np.testing.assert_allclose(found.x.flatten(1), rebuilt, atol=1e-5)


def test_codes_of_the_linear_model_are_its_posterior_and_rebuild_as_components_do():
    """As s goes to 0, E[W z + b | x] of the most likely model is the projection on principal components."""
    x = exact.LinearGaussian(latent_dim=2, data_dim=4, scale=1e-2).sample(300)
    model = exact.LinearGaussian.maximum_likelihood(x, 2)
    found = by_model(model.vae, x[:200], x[200:])
    torch.testing.assert_close(found.test, model.posterior(x[200:]).mean)
    assert (found.x - by_components(x, x[200:], 2).x).abs().max() < 1e-3
    _, deviation = latent_moments(model.vae, x)
    torch.testing.assert_close(deviation[0], model.posterior(x).covariance_matrix[0].diagonal().sqrt())


def test_what_is_told_is_r2_and_its_error_that_of_other_data():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 1, generator=generator)
    noisy = z + 0.5 * torch.randn(3000, 1, generator=generator)  # R^2 = 1 - 0.25 / 1.25
    (found,) = told(Coded(z[:2000], z[2000:], z), noisy[:2000], noisy[2000:])
    assert abs(found.linear - 0.8) < 4 * found.linear_std_error
    slope, constant = np.polyfit(z[:2000, 0], noisy[:2000, 0], 1)
    assert abs(found.linear - r2_score(noisy[2000:].numpy(), slope * z[2000:].numpy() + constant)) < 1e-6
    drawn = [told(Coded(z[:900], z[i : i + 300], z), noisy[:900], noisy[i : i + 300])[0] for i in range(900, 3000, 300)]
    spread = np.std([of.linear for of in drawn], ddof=1)
    assert 0.4 < spread / drawn[0].linear_std_error < 2  # of 7 draws


def test_a_bent_map_is_told_by_neighbours_alone_and_a_folded_one_not():
    place = torch.rand(1500, 1, generator=torch.Generator().manual_seed(0))
    maps = {
        "bent": torch.cat([(6 * place).cos(), (6 * place).sin()], 1),
        "folded": (place - 0.5).abs(),
    }
    found = {name: told(Coded(z[:1000], z[1000:], z), place[:1000], place[1000:])[0] for name, z in maps.items()}
    assert found["bent"].neighbours > 0.98
    assert found["bent"].linear < 0.7
    assert found["folded"].neighbours < 0.1


def test_planes_of_one_two_and_more_dimensions():
    means = torch.randn(30, 4) * torch.tensor([4.0, 2.0, 1.0, 0.5])
    points, names = plane(means, torch.ones(30, 4))
    ratio = PCA().fit(means).explained_variance_ratio_
    assert names == (f"first principal component ({ratio[0]:.0%})", f"second ({ratio[1]:.0%})")
    np.testing.assert_allclose(points.var(0) / means.var(0).sum(), ratio[:2], rtol=1e-4)
    assert torch.equal(plane(means[:, :2], means[:, :2])[0], means[:, :2])
    assert torch.equal(plane(means[:, :1], means[:, 1:2])[0], means[:, :2])
    alike = torch.zeros(30, 4)
    assert torch.equal(tsne(alike), plane(alike, alike)[0])


def test_neighbours_tell_what_they_can():
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(1200, 2, generator=generator), torch.arange(1200) % 2
    z[:, 0] += 2 * labels  # the best that can be told is Phi(1)
    found = neighbours((z[:800], labels[:800]), (z[800:], labels[800:]))
    assert abs(found.accuracy - 0.8413) < 0.03 + 3 * found.std_error  # five neighbours are not the best
    assert found.std_error == (found.accuracy * (1 - found.accuracy) / 400) ** 0.5
