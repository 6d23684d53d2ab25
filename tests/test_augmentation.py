"""Data made of few: by a model whose means and variances are known, and a classifier that learns by hand."""

import numpy as np
import pytest
import torch
from data_files import LEVEL
from linear_gaussian import LinearGaussian
from scipy import ndimage, stats
from sklearn.svm import SVC

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.applications import augmented, few_of_each, rightly_told
from pyrovae.conditions import Features, OneHot
from pyrovae.models import ConditionalVAE


def test_few_of_each_are_as_many_of_each_and_others_for_another_seed():
    y = torch.arange(90) % 3
    drawn = [few_of_each(y, 12, seed) for seed in (0, 0, 1)]
    assert all(y[few].bincount().tolist() == [4, 4, 4] and len(few.unique()) == 12 for few in drawn)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for number in (0, 10, 93):
        with pytest.raises(ValueError, match=f"are not {number}: take a multiple of 3, at most 90"):
            few_of_each(y, number)


def test_reconstructions_have_the_mean_and_covariance_of_p_of_x_given_z_with_z_of_q():
    """x' ~ N(W m + b, W diag(t^2) W' + s^2 I), m = V x + c."""
    exact, number = LinearGaussian(num_data=2), 3000
    made = augmented(exact.vae, exact.data, torch.tensor([0, 1]), number)["reconstructions"].numpy()
    covariance = exact.W @ np.diag(exact.t**2) @ exact.W.T + exact.s**2 * np.eye(len(exact.b))
    for datum in (0, 1):
        off = made[datum::2] - exact.W @ (exact.V @ exact.x[datum] + exact.c) - exact.b  # (number, n)
        mean = off.mean(0)
        assert number * mean @ np.linalg.solve(covariance, mean) < stats.chi2.isf(LEVEL, len(mean))
        squares = (off * np.linalg.solve(covariance, off.T).T).sum()
        assert stats.chi2.cdf(squares, off.size) == pytest.approx(0.5, abs=0.5 - LEVEL / 2)


def test_mixed_codes_are_uniform_on_the_way_between_two_data_of_a_class():
    """In the linear model the mean of p(x | z) is on the straight way between those of the two codes."""
    exact, number = LinearGaussian(num_data=3), 400
    y = torch.tensor([5, 5, 7])
    made = augmented(exact.vae, exact.data, y, number, kind="mean")["mixed codes"].numpy().reshape(number, 3, -1)
    means = (exact.x @ exact.V.T + exact.c) @ exact.W.T + exact.b
    assert made[:, 2] == pytest.approx(np.broadcast_to(means[2], made[:, 2].shape))  # the only one of its class
    way = means[1] - means[0]
    for datum, sign in ((0, 1), (1, -1)):
        t = sign * (made[:, datum] - means[datum]) @ way / (way @ way)
        assert made[:, datum] == pytest.approx(means[datum] + sign * t[:, None] * way)
        assert stats.kstest(t, "uniform").pvalue > LEVEL


def test_images_are_moved_by_up_to_an_eighth_and_keep_their_values():
    exact = LinearGaussian(n=4)
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 14:18, 14:18] = 1.0
    images = ConditionalVAE(  # any model of such images
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2 + 2, (1, 32, 32), hidden=())),
        encoders.DiagonalNormal(networks.MLP((3, 32, 32), 4, hidden=())),
        OneHot(2),
    ).double()
    moved = augmented(images, x, torch.tensor([0]), 500)["shifts and turns"]
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert moved.sum((1, 2, 3)).sub(16).abs().max() <= 6  # pixels of a turned square
    shift = np.array([ndimage.center_of_mass(image) for image in moved[:, 0].numpy()]) - 15.5
    assert 3.5 < np.abs(shift).max() <= 4.5  # of 4, and half a pixel by rounding
    for along in shift.T:  # uniform, up to the rounding to pixels
        assert along.var() == pytest.approx(4**2 / 3, rel=0.2)
        assert abs(along.mean()) < stats.norm.isf(LEVEL / 2) * along.std() / len(along) ** 0.5
    assert "shifts and turns" not in augmented(exact.vae, exact.data, torch.zeros(len(exact.data)), 1)


def test_draws_of_the_class_are_of_that_class():
    vae = ConditionalVAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1 + 3, 3, hidden=())),
        encoders.DiagonalNormal(networks.MLP(3 + 3, 2, hidden=())),
        OneHot(3),
    )
    with torch.no_grad():
        layer = vae.likelihood.network.layers[-1]
        layer.weight.copy_(torch.cat([torch.zeros(3, 1), 60 * torch.eye(3)], 1))  # x is y, one-hot
        layer.bias.fill_(-30.0)
    y = torch.tensor([2, 0, 1, 1])
    made = augmented(vae, torch.zeros(4, 3), y, 5)
    assert set(made) == {"reconstructions", "draws of the class"}
    assert torch.equal(made["draws of the class"].argmax(1), y.repeat(5))


def test_what_a_model_has_no_codes_for_is_left_out():
    """Of bits z nothing is mixed, and where z goes with a class its means are no features."""
    x, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    p, q = likelihoods.Bernoulli(networks.MLP(2, 3)), encoders.Bernoulli(networks.MLP(3, 2))
    assert set(augmented(VAE(priors.Bernoulli(2), p, q), x, y, 1)) == {"reconstructions"}
    q = encoders.DiagonalNormal(networks.MLP(3 + 3, 4))
    vae = ConditionalVAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2 + 3, 3)), q, OneHot(3))
    right = rightly_told(vae, (x, y), (x, y), labelled=6, number=1)
    assert list(right) == ["labelled data alone", "reconstructions", "draws of the class"]
    assert right["labelled data alone"].all()


def test_a_classifier_learns_of_those_data_whose_class_is_known():
    exact = LinearGaussian(num_data=300)
    y = torch.from_numpy((exact.x @ exact.W[:, 0] > 0).astype(int))
    train, test = (exact.data[:200], y[:200]), (exact.data[200:], y[200:])
    right = rightly_told(exact.vae, train, test, labelled=10, number=5, seed=3)
    assert list(right) == ["labelled data alone", "reconstructions", "mixed codes", "latent means"]
    few = few_of_each(train[1], 10, seed=3)
    means = exact.x @ exact.V.T
    for method, features in (("labelled data alone", exact.x), ("latent means", means + exact.c)):
        told = SVC().fit(features[:200][few], y[few].numpy()).predict(features[200:])
        assert right[method].tolist() == (told == y[200:].numpy()).tolist()
    made = augmented(exact.vae, exact.data[few], y[few], 5, seed=3)["mixed codes"].numpy()
    told = SVC().fit(np.concatenate([exact.x[few], made]), np.tile(y[few], 6)).predict(exact.x[200:])
    assert right["mixed codes"].tolist() == (told == y[200:].numpy()).tolist()
    linear = rightly_told(exact.vae, train, test, labelled=10, number=5, linear=True, seed=3)
    assert linear["labelled data alone"].mean() > 0.8


def test_other_conditions_and_no_data_are_refused():
    vae = ConditionalVAE(
        priors.StandardNormal(1),
        likelihoods.Normal(networks.MLP(1 + 2, 3, hidden=())),
        encoders.DiagonalNormal(networks.MLP(3 + 2, 2, hidden=())),
        Features(2),
    )
    with pytest.raises(ValueError, match="of x, or of x and its class"):
        augmented(vae, torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]))
    exact = LinearGaussian()
    with pytest.raises(ValueError, match="at least one is made, not 0"):
        augmented(exact.vae, exact.data, torch.zeros(len(exact.data)), 0)
