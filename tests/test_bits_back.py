"""Bits back: what comes back is what was sent, and messages are as long as the mathematics says, by other means."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from data_files import LEVEL
from scipy import stats
from scipy.special import expit, log_expit
from toys import component

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.applications import Compressed, compress, decompress
from pyrovae.scale import unconstrained


def made(likelihood="Bernoulli", prior="StandardNormal", encoder="DiagonalNormal", shape=(1, 3, 3)):
    """A model of nothing in particular, and draws of it."""
    torch.manual_seed(0)
    vae = VAE(
        getattr(priors, prior)(2),
        component(likelihoods, likelihood, lambda n: networks.MLP(2, (n(shape[0]), *shape[1:]), hidden=(8,))),
        getattr(encoders, encoder)(lambda n: networks.MLP(shape, n(2), hidden=(8,))),
    )
    return vae, vae.sample(20)


def linear(likelihood, weight, bias, loc_weight, scale):
    """p(x | z) of parameters W z + b, and q(z | x) = N(V x, diag(scale^2)), in float64."""
    (n, d), v, t = weight.shape, torch.as_tensor(loc_weight), torch.as_tensor(scale)
    p = likelihood(networks.MLP(d, n, hidden=()))
    q = encoders.DiagonalNormal(networks.MLP(n, 2 * d, hidden=()))
    vae = VAE(priors.StandardNormal(d), p, q).double()
    with torch.no_grad():
        for part, w, b in (
            (p, torch.as_tensor(weight), torch.as_tensor(bias)),
            (q, torch.cat([v, 0 * v]), torch.cat([0 * t, unconstrained(t)])),
        ):
            part.network.layers[-1].weight.copy_(w)
            part.network.layers[-1].bias.copy_(b)
    return vae


@pytest.mark.parametrize(
    "likelihood",
    ["Bernoulli", "Categorical", "DiscretizedLogistic", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"],
)
def test_data_come_back_bit_for_bit(likelihood):
    vae, x = made(likelihood)
    again = decompress(vae, Compressed.from_bytes(compress(vae, x).to_bytes()))
    assert again.dtype == x.dtype
    assert torch.equal(again, x)


@pytest.mark.parametrize(("prior", "encoder"), [("Normal", "Laplace"), ("Laplace", "DiagonalNormal")])
def test_priors_and_posteriors_may_be_any_whose_dimensions_are_independent(prior, encoder):
    vae, x = made(prior=prior, encoder=encoder)
    assert torch.equal(decompress(vae, compress(vae, x, seed=3)), x)


def test_bytes_divided_by_255_come_back():
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Categorical(lambda n: networks.MLP(1, n(16), hidden=())),
        encoders.DiagonalNormal(networks.MLP(16, 2, hidden=())),
    )
    x = torch.randperm(256).reshape(16, 16).float() / 255
    assert torch.equal(decompress(vae, compress(vae, x)), x)
    with pytest.raises(ValueError, match="to the last digit"):
        compress(vae, x * (1 + 1e-6))


def test_where_z_tells_nothing_messages_are_as_long_as_log_p_of_the_data():
    """Of q(z | x) = p(z) all bits come back. What larger counts are given is lost to those that there are."""
    rng, n = np.random.default_rng(0), 6
    nothing = np.zeros((n, 2)), np.zeros((2, n)), np.ones(2)
    a = np.linspace(-3, 2, n)
    of_bits = linear(likelihoods.Bernoulli, nothing[0], a, *nothing[1:])
    of_counts = linear(likelihoods.Poisson, nothing[0], a, *nothing[1:])
    for vae, p in ((of_bits, stats.bernoulli(expit(a))), (of_counts, stats.poisson(np.exp(a)))):
        x = p.rvs(size=(300, n), random_state=rng).clip(max=1).astype(float)
        exact = -p.logpmf(x).sum() / math.log(2)
        assert compress(vae, torch.from_numpy(x)).net_bits == pytest.approx(exact, abs=2, rel=1e-4)


def test_on_average_messages_are_as_long_as_minus_the_elbo():
    """E_q[log p(x | z)] by quadrature, KL in closed form; q is not p(z | x), which alone would have log p(x)."""
    rng, n, num_data, scale = np.random.default_rng(1), 8, 1000, 0.6
    w, b, v = 1.5 * rng.normal(size=(n, 1)), rng.normal(size=n), 0.3 * rng.normal(size=(1, n))
    x = (rng.random((num_data, n)) < expit(rng.normal(size=(num_data, 1)) @ w.T + b)).astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    z = x @ v.T + scale * nodes  # (N, 40)
    logits = z[..., None] * w[:, 0] + b
    log_likelihood = np.where(x[:, None] == 1, log_expit(logits), log_expit(-logits)).sum(-1)
    log_weight = log_likelihood + stats.norm.logpdf(z) - stats.norm.logpdf(nodes) + math.log(scale)
    elbo = log_weight @ weights  # (N,)
    variance = (log_weight - elbo[:, None]) ** 2 @ weights
    closed = log_likelihood @ weights - ((x @ v.T)[:, 0] ** 2 + scale**2 - 1 - 2 * math.log(scale)) / 2
    assert elbo == pytest.approx(closed)
    net = compress(linear(likelihoods.Bernoulli, w, b, v, np.array([scale])), torch.from_numpy(x)).net_bits
    error = math.sqrt(variance.sum()) / math.log(2)
    assert abs(net + elbo.sum() / math.log(2)) < stats.norm.isf(LEVEL / 2) * error
    at_prior = nodes[:, None] * w[:, 0] + b  # (40, n)
    log_p = np.log(np.exp(x @ log_expit(at_prior).T + (1 - x) @ log_expit(-at_prior).T) @ weights)
    assert (log_p - elbo).sum() / math.log(2) > 2 * stats.norm.isf(LEVEL / 2) * error  # so the test can tell them


def test_damaged_messages_and_other_models_are_refused():
    vae, x = made()
    message = compress(vae, x)
    content = message.to_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 4
    for wrong in (b"", content[:9], content[:-4], bytes(flipped), b"x" * len(content)):
        with pytest.raises(ValueError, match="no compressed data, or damaged"):
            Compressed.from_bytes(wrong)
    words = message.words.copy()
    words[3] ^= 1
    for wrong in (message._replace(words=words), message._replace(seed=5), message._replace(words=words[2:])):
        with pytest.raises(ValueError, match="the initial bits did not come back"):
            decompress(vae, wrong)
    with torch.no_grad():
        next(vae.parameters()).add_(1e-6)
    with pytest.raises(ValueError, match="other parameters"):
        decompress(vae, message)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"likelihood": "Normal"}, "discrete data alone can be compressed, but p.x. is a density"),
        ({"likelihood": "Multinomial"}, "in p.x . z. they are not independent"),
        ({"likelihood": "DiscretizedLogisticMixture"}, "in p.x . z. they are not independent"),
        ({"prior": "MixtureOfNormals"}, "in p.z. they are not independent"),
        ({"prior": "StudentT"}, "quantiles of p.z., which StudentT does not have"),
        ({"encoder": "FullRankNormal"}, "in q.z . x. they are not independent"),
        ({"encoder": "Delta"}, "in q.z . x. they are not independent"),
    ],
)
def test_models_without_the_pieces_are_refused(names, words):
    vae, x = made(**names)
    with pytest.raises(ValueError, match=words):
        compress(vae, x)


def test_an_encoder_of_ones_own_needs_a_cumulative_distribution_function():
    class Student(torch.nn.Module):
        event_shape = (2,)

        def forward(self, x):
            return dist.StudentT(3.0, x.flatten(1)[:, :2], 1.0).to_event(1)

    vae, x = made()
    vae.encoder = Student()
    with pytest.raises(ValueError, match=r"cumulative distribution function of q\(z \| x\), which StudentT"):
        compress(vae, x)


def test_numbers_that_cannot_be_are_refused():
    vae, x = made("Poisson")
    with pytest.raises(ValueError, match="from 1 to 16, not 0"):
        compress(vae, x, bits=0)
    with pytest.raises(ValueError, match=r"table of 1000000. values for each of 9 elements"):
        compress(vae, x + 1e7 * (x == x.max()))
