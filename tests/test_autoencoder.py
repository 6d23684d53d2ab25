"""Autoencoders against principal components, and denoising against what noise costs."""

import math

import pytest
import torch
from torch import nn

from pyrovae import data, evaluation, fit, likelihoods, networks
from pyrovae.autoencoder import Autoencoder
from pyrovae.corruptions import GaussianNoise, Masking, SaltAndPepper


def linear(corruption=None):
    return Autoencoder(
        networks.MLP(5, 2, hidden=()).double(),
        likelihoods.Normal(networks.MLP(2, 5, hidden=()), scale=1.0, learned=False).double(),
        corruption,
    )


def correlated(n=400):
    x = torch.randn(n, 2).double() @ torch.tensor([[2.0, 1, 0, 1, 0], [0, 1, 1, 0, 1]]).double()
    return x + 0.3 * torch.randn(n, 5).double()


def trained(autoencoder, x, epochs=150):
    fit(autoencoder, x, epochs=epochs, optimizer=lambda g: torch.optim.Adam(g, 0.02), batch_size=len(x), progress=False)
    return autoencoder


def test_a_linear_one_finds_the_principal_components():
    x = correlated()
    x = x - x.mean(0)
    rest = torch.linalg.svdvals(x)[2:].square().sum() / len(x)  # what two components leave
    autoencoder = linear()
    before = (autoencoder.reconstruct(x) - x).square().sum(1).mean()
    error = (trained(autoencoder, x, 400).reconstruct(x) - x).square().sum(1).mean()
    assert before > 2 * rest
    assert rest * 0.999 < error < rest * 1.02


def test_what_it_maximises_is_the_reconstruction_and_no_bound():
    x = correlated()
    autoencoder = linear()
    history = fit(autoencoder, x, x, epochs=3, progress=False)
    assert all(math.isnan(row["elbo"]) and math.isnan(row["kl"]) for row in history)
    assert history["reconstruction"] == history["objective"]
    found = evaluation.elbo(autoencoder, x)
    exact = -(autoencoder.reconstruct(x) - x).square().sum(1) / 2 - 5 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(found.reconstruction, exact)
    assert found.value.isnan().all()
    with pytest.raises(ValueError, match="no p\\(z\\) to draw from"):
        autoencoder.sample(3)


def test_a_denoising_one_is_better_with_noise_and_worse_without():
    x = correlated(2000)
    noise = GaussianNoise(1.0)
    plain, denoising = trained(linear(), x), trained(linear(noise), x)
    noisy = noise.train()(x)
    clean, given_noise = (
        [(m.reconstruct(given) - x).square().sum(1).mean() for m in (plain, denoising)] for given in (x, noisy)
    )
    assert clean[0] < clean[1]
    assert given_noise[1] < 0.9 * given_noise[0]
    # The best linear recovery of x from x + noise, of any rank, is not beaten.
    s = x.T.cov(correction=0)
    least = (s - s @ torch.linalg.solve(s + torch.eye(5), s)).trace()
    assert given_noise[1] > 0.95 * least


@pytest.mark.parametrize("corruption", [GaussianNoise(0.4), Masking(0.4), SaltAndPepper(0.4)])
def test_corruptions_act_in_training_alone_as_they_say(corruption):
    x = torch.full((200, 500), 0.3)
    assert torch.equal(corruption.eval()(x), x)
    y = corruption.train()(x)
    lost = y != x
    if isinstance(corruption, GaussianNoise):
        assert (y - x).std() == pytest.approx(0.4, rel=0.01)
        return
    assert lost.float().mean() == pytest.approx(0.4, abs=0.01)
    ones = 0.5 if isinstance(corruption, SaltAndPepper) else 0.0
    assert y[lost].mean() == pytest.approx(ones, abs=0.01)
    assert set(y[lost].tolist()) <= {0.0, 1.0}


def test_numbers_out_of_range_and_parts_that_do_not_fit_are_refused():
    for make in (lambda: GaussianNoise(0.0), lambda: Masking(1.0), lambda: SaltAndPepper(0.0)):
        with pytest.raises(ValueError, match="must be"):
            make()
    with pytest.raises(ValueError, match=r"gives z of shape \(3,\), but the likelihood's takes \(2,\)"):
        Autoencoder(networks.MLP(5, 3), likelihoods.Normal(networks.MLP(2, 5)))
    with pytest.raises(ValueError, match="nothing tells the size of z"):
        Autoencoder(nn.Linear(5, 2), likelihoods.Normal(nn.Linear(2, 5)))


def test_a_network_of_ones_own_takes_the_size_that_the_likelihood_tells():
    autoencoder = Autoencoder(nn.Linear(5, 2), likelihoods.Normal(networks.MLP(2, 5)))
    fit(autoencoder, torch.randn(20, 5), epochs=1, progress=False)
    assert autoencoder.prior().event_shape == (2,)


def test_digits_are_coded_the_same_from_the_same_seed():
    digits = data.load("digits", binarize="dynamic")

    def build():
        torch.manual_seed(0)
        network = networks.MLP((1, 8, 8), 4, hidden=(32,), activation=nn.Tanh)
        return Autoencoder(network, likelihoods.Bernoulli(networks.MLP(4, (1, 8, 8), hidden=(32,))), Masking(0.2))

    histories = [fit(build(), digits.train, digits.valid, epochs=3, progress=False) for _ in range(2)]
    assert histories[0]["reconstruction"] == histories[1]["reconstruction"]
    assert histories[0]["valid_reconstruction"][-1] > histories[0]["valid_reconstruction"][0] + 3
