"""Bits per dimension: of models whose probabilities are known, by hand and by integrals over cells."""

import json
import math

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from scipy import stats
from torch import nn

from pyrovae import VAE, data, encoders, likelihoods, priors, runs
from pyrovae.bits import NO_PROBABILITY, bits_per_dimension, log_cell
from pyrovae.training import History


class Constant(nn.Module):
    """A network that looks at nothing, so that p(x) is p(x | z) and q(z | x) may be p(z)."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value)
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, b, lead=1):
        return self.value.expand(*b.shape[:-lead], *self.value.shape)


class OfImages(Constant):
    def forward(self, x):
        return super().forward(x, lead=3)


def scored(likelihood, dataset):
    q = encoders.DiagonalNormal(OfImages(torch.tensor([0.0, math.log(math.e - 1)])))  # N(0, 1)
    run = runs.Run(VAE(priors.StandardNormal(1), likelihood, q), dataset, History(), Namespace(compile=False))
    return runs.score(run, num_samples=2, seed=0)


def constant(likelihood, *parameters, **arguments):
    """P(x | z) of images 1 x 8 x 8 whose parameters are the same everywhere."""
    value = torch.cat([torch.full((1, 8, 8), float(p)) for p in parameters])
    return likelihood(Constant(value), **arguments)


def test_bernoulli_bits_are_those_of_the_bits_entropy_code():
    dataset = data.load("digits", binarize="static")
    found = scored(constant(likelihoods.Bernoulli, -0.7), dataset)
    ones = dataset.test.double().mean().item()
    p = 1 / (1 + math.exp(0.7))
    assert found["bits_per_dimension"] == pytest.approx(-ones * math.log2(p) - (1 - ones) * math.log2(1 - p), rel=1e-5)
    assert "bits_per_dimension_note" not in found


def cells(loc, scale, n):
    """Log-probabilities of n levels whose dequantizations are N(loc, scale^2): log int_cell p(x) dx."""
    edges, p = np.arange(n + 1) / n, stats.norm(loc, scale)
    upper = edges[:-1] > loc  # where the cdf is too near 1 to tell
    return np.log(np.where(upper, -np.diff(p.sf(edges)), np.diff(p.cdf(edges))))


def expected_log_density(loc, scale, n):
    """E_u[log N((k + u) / n; loc, scale^2)] of each level, by the moments of u."""
    middle = (np.arange(n) + 0.5) / n
    return stats.norm(loc, scale).logpdf(middle) - 1 / 12 / n**2 / (2 * scale**2)


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_bits_of_dequantized_data_are_densities_less_levels_and_bound_those_of_the_levels(scale):
    dataset = data.load("digits", dequantize=True)
    found = scored(constant(likelihoods.Normal, 0.3, scale=scale, learned=False), dataset)
    bits = found["bits_per_dimension"]
    x = dataset.test.double().numpy()
    assert bits == pytest.approx(-stats.norm(0.3, scale).logpdf(x).mean() / math.log(2) + math.log2(17), rel=1e-4)
    k = (data.load("digits").test * 16).round().long().numpy()
    levels = -cells(0.3, scale, 17)[k].mean() / math.log(2)
    average = -expected_log_density(0.3, scale, 17)[k].mean() / math.log(2) + math.log2(17)
    noise = 4 * math.sqrt(k.size) / 17 / scale**2 / k.size / math.log(2)  # 4 standard errors, and more, of u
    assert bits == pytest.approx(average, abs=noise)
    assert average > levels  # Jensen's inequality
    assert (average - levels) / levels == pytest.approx(0, abs=0.3 if scale < 0.1 else 0.01)


def test_a_density_at_grey_values_has_no_bits_and_says_why(tmp_path):
    found = scored(constant(likelihoods.Normal, 0.3, scale=0.1), data.load("digits"))
    assert found["bits_per_dimension"] is None
    assert found["bits_per_dimension_note"] == NO_PROBABILITY
    assert found["log_likelihood"] < 1e9
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", ["Categorical", "DiscretizedLogistic"])
def test_likelihoods_of_levels_have_bits_without_dequantization(name):
    dataset = data.load("digits")
    if name == "Categorical":
        logits = torch.linspace(1, -1, 17)
        network = Constant(logits.reshape(17, 1, 1).expand(17, 8, 8).clone())
        likelihood = likelihoods.Categorical(network, categories=17)
        log_p = logits.double().log_softmax(0).numpy()
    else:
        likelihood = constant(likelihoods.DiscretizedLogistic, 0.2, math.log(math.expm1(0.15 - 1e-4)), levels=17)
        edges = stats.logistic(0.2, 0.15).cdf((np.arange(18) - 0.5) / 16)
        edges[0], edges[-1] = 0, 1
        log_p = np.log(np.diff(edges))
    k = (dataset.test * 16).round().long().numpy()
    found = scored(likelihood, dataset)
    assert found["bits_per_dimension"] == pytest.approx(-log_p[k].mean() / math.log(2), rel=1e-5)


def test_uniform_noise_on_all_levels_takes_what_storing_them_takes(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (24, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    protocol = data.load(str(tmp_path / "x.npy"), dequantize=True).protocol
    volume = log_cell(likelihoods.Normal, protocol)
    assert bits_per_dimension(0.0 + volume, protocol.shape) == pytest.approx(8)  # the density is 1
    assert log_cell(likelihoods.Normal, data.load(str(tmp_path / "x.npy")).protocol) is None
