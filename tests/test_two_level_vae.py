"""Two levels that both make x, against the exact posterior and the mixture that the VampPrior is."""

import pytest
import torch
from scipy.stats import norm
from torch.distributions import MultivariateNormal, Normal

from pyrovae import data, encoders, evaluation, fit, likelihoods, networks, objectives, priors
from pyrovae.scale import unconstrained
from pyrovae.two_level_vae import TwoLevelVAE

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
# z2 ~ N(0, 1), z1 ~ N(A z2, S1^2), x ~ N(W z1 + V z2, S^2)
A, S1, S = 0.8, 0.6, 0.9
W, V = torch.tensor([1.0, -0.5, 0.7]).double(), torch.tensor([0.2, 0.4, -0.3]).double()


def normal(weight, scale):
    """N(W b, scale^2) for a vector b, in float64."""
    weight = torch.as_tensor(weight).double()
    network = networks.MLP(weight.shape[1], 2 * len(weight), hidden=()).double()
    with torch.no_grad():
        network.layers[-1].weight.zero_()[: len(weight)].copy_(weight)
        network.layers[-1].bias.zero_()[len(weight) :].copy_(unconstrained(torch.as_tensor(scale)))
    return encoders.DiagonalNormal(network)


def gaussian():
    """The model with its exact posterior."""
    x_given_z2, noise = A * W + V, S1**2 * torch.outer(W, W) + S**2 * torch.eye(3).double()
    gain = torch.linalg.solve(noise, x_given_z2)
    top = 1 + x_given_z2 @ gain  # precision of z2 given x
    low = S1**-2 + W @ W / S**2  # of z1 given x and z2
    by_z2 = (A / S1**2 - W @ V / S**2) / low
    decode = networks.MLP(2, 3, hidden=()).double()
    with torch.no_grad():
        decode.layers[-1].weight.copy_(torch.stack([W, V], 1))
        decode.layers[-1].bias.zero_()
    return TwoLevelVAE(
        priors.StandardNormal(1).double(),
        normal([[A]], S1),
        likelihoods.Normal(decode, S).double(),
        normal((gain / top)[None], top**-0.5),
        normal(torch.cat([W / S**2 / low, by_z2[None]])[None], low**-0.5),
    )


def test_with_the_exact_posterior_every_draw_weighs_the_evidence():
    vae = gaussian()
    torch.manual_seed(0)
    x = vae.sample(9)
    mean = A * W + V
    covariance = torch.outer(mean, mean) + S1**2 * torch.outer(W, W) + S**2 * torch.eye(3).double()
    exact = MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x)
    torch.testing.assert_close(objectives.IWAE(3).bound(vae.model, vae.guide, x), exact)
    layers = evaluation.kl_per_layer(vae, x, 3000)
    q = vae.encode(x)
    top = (q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1) / 2
    assert (layers["z2"] - top).abs().max() < 0.1
    assert layers["z1"].min() > -0.05


def test_what_is_rebuilt_from_a_level_has_the_posteriors_mean():
    vae, x = gaussian(), torch.tensor([[1.5, -1.0, 0.8]]).double()
    mean = A * W + V  # of x given z2 = 1
    covariance = torch.outer(mean, mean) + S1**2 * torch.outer(W, W) + S**2 * torch.eye(3).double()
    told = torch.linalg.solve(covariance, x[0])
    z2, z1 = mean @ told, (A * mean + S1**2 * W) @ told  # E[z2 | x], E[z1 | x], by Cov(z, x)
    torch.manual_seed(0)
    for layer, expected in ((1, W * z1 + V * z2), (2, mean * z2)):
        found = vae.reconstruct(x.expand(20_000, 3), layer=layer)
        z = (found.mean(0) - expected) / (found.std(0) / 20_000**0.5)
        assert 2 * norm.sf(z.abs().max().item()) > LEVEL
    with pytest.raises(ValueError, match="there is no layer 3"):
        vae.reconstruct(x, layer=3)


def test_with_a_vampprior_the_top_is_a_mixture_of_posteriors():
    torch.manual_seed(0)
    vae = TwoLevelVAE(
        priors.VampPrior(2, components=3),
        encoders.DiagonalNormal(networks.MLP(2, 2 * 4, hidden=(8,))),
        likelihoods.Bernoulli(networks.MLP(4 + 2, (1, 4, 4), hidden=(8,))),
        encoders.DiagonalNormal(networks.MLP((1, 4, 4), 2 * 2, hidden=(8,))),
        encoders.DiagonalNormal(networks.MLP((1 + 2, 4, 4), 2 * 4, hidden=(8,))),
    )
    z = torch.randn(5, 2)
    q = vae.encode(vae.prior.pseudo_inputs)
    each = Normal(q.mean[:, None], q.stddev[:, None]).log_prob(z).sum(-1)  # (C, N)
    torch.testing.assert_close(vae.prior().log_prob(z), each.logsumexp(0) - torch.tensor(3.0).log())


@pytest.mark.parametrize("prior", [priors.StandardNormal, priors.VampPrior])
def test_digits_are_fitted_from_both_levels(prior):
    digits = data.load("digits", binarize="dynamic")
    torch.manual_seed(0)
    small = {"hidden": (32,)}
    vae = TwoLevelVAE(
        prior(3),
        encoders.DiagonalNormal(networks.MLP(3, 2 * 5, **small)),
        likelihoods.Bernoulli(networks.MLP(5 + 3, (1, 8, 8), **small)),
        encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 3, **small)),
        encoders.DiagonalNormal(networks.MLP((1 + 3, 8, 8), 2 * 5, **small)),
    )
    history = fit(vae, digits.train, digits.valid, epochs=5, progress=False)
    assert history["valid_elbo"][-1] > history["valid_elbo"][0] + 3
    assert vae.reconstruct(digits.test[:3]).shape == vae.reconstruct(digits.test[:3], layer=2).shape == (3, 1, 8, 8)


def test_parts_that_do_not_fit_are_refused():
    decoder, likelihood = normal([[A]], S1), likelihoods.Normal(networks.MLP(2, 3), 1.0)
    top, low = normal([[1.0, 1.0, 1.0]], 1.0), normal([[1.0] * 4], 1.0)
    with pytest.raises(ValueError, match=r"the network of q\(z1 \| x, z2\) takes \(3,\)"):
        TwoLevelVAE(priors.StandardNormal(1), decoder, likelihood, top, top)
    two = likelihoods.Normal(networks.MLP(3, 3), 1.0)  # of z1 in the plane
    with pytest.raises(ValueError, match=r"p\(z1 \| z2\) is over \(2,\), but q\(z1 \| x, z2\) over \(1,\)"):
        TwoLevelVAE(priors.StandardNormal(1), normal([[1.0]] * 2, 1.0), two, top, low)
    with pytest.raises(ValueError, match=r"p\(z2\) is over \(2,\), but q\(z2 \| x\) over \(1,\)"):
        TwoLevelVAE(priors.StandardNormal(2), decoder, likelihood, top, low)
