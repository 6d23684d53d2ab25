"""Networks between images and grids of vectors: convolutions alone, written out, and what each place sees."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, correlate2d
from torch import nn

from pyrovae.networks import ConvGrid, ConvGridTranspose


def randomised(network):
    for p in network.double().parameters():
        nn.init.normal_(p, std=0.3)
    return network


def convolved(x, layer, stride=1):
    """Correlations with each kernel, from a frame of zeros, summed over input channels."""
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    padding = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    maps = [sum(correlate2d(c, k, "valid") for c, k in zip(x, kernels, strict=True)) for kernels in weight]
    return np.stack(maps)[:, ::stride, ::stride] + bias[:, None, None]


def transposed(x, layer, size):
    """Pixels put 2 apart, convolved with 3 x 3 kernels, and cut to size."""
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    apart = np.zeros((len(x), *(2 * n - 1 for n in x.shape[1:])))
    apart[:, ::2, ::2] = x
    apart = np.pad(apart, ((0, 0), (0, 1), (0, 1)))
    maps = [sum(convolve2d(c, k) for c, k in zip(apart, kernels, strict=True)) for kernels in weight.swapaxes(0, 1)]
    return np.stack(maps)[:, 1 : size[0] + 1, 1 : size[1] + 1] + bias[:, None, None]


def block(h, layer):
    return np.tanh(h + convolved(np.tanh(convolved(h, layer.branch[0])), layer.branch[2]))


def test_an_image_becomes_a_grid_by_these_equations():
    network = randomised(ConvGrid((2, 5, 6), 3 * 2 * 2, channels=(4, 3), blocks=2, activation=nn.Tanh))
    x, layers = torch.randn(2, 5, 6).double(), network.layers
    h = np.tanh(convolved(np.tanh(convolved(x.numpy(), layers[0], 2)), layers[2], 2))
    h = convolved(block(block(h, layers[4]), layers[6]), layers[8])
    np.testing.assert_allclose(network(x).detach(), h.ravel(), rtol=1e-10)


def test_a_grid_becomes_an_image_by_these_equations():
    network = randomised(ConvGridTranspose(3 * 2 * 2, (2, 5, 6), channels=(4, 3), activation=nn.Tanh))
    z, layers = torch.randn(12).double(), network.layers
    h = block(np.tanh(convolved(z.numpy().reshape(3, 2, 2), layers[2])), layers[4])
    h = transposed(np.tanh(transposed(h, layers[6], (3, 3))), layers[8], (5, 6))
    np.testing.assert_allclose(network(z).detach(), h, rtol=1e-10)


def test_a_place_sees_what_is_near_it():
    network = randomised(ConvGrid((1, 32, 32), 2 * 8 * 8, blocks=1))
    x = torch.zeros(1, 32, 32).double()
    other = x.clone()
    other[:, 2, 2] = 1.0
    moved = (network(x) != network(other)).reshape(2, 8, 8).any(0)
    assert moved[:3, :3].any()
    assert not moved[5:].any()
    assert not moved[:, 5:].any()


@pytest.mark.parametrize("lead", [(), (4,), (3, 4)])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_rows_are_mapped_one_by_one(lead, normalization):
    for network, shape in (
        (ConvGrid((1, 7, 8), (2, 2, 2), normalization=normalization), (1, 7, 8)),
        (ConvGridTranspose((2, 2, 2), (1, 7, 8), normalization=normalization), (2, 2, 2)),
    ):
        x = torch.randn(*lead, *shape)
        y = network.eval()(x)
        assert y.shape == (*lead, *network.out_shape)
        one = network(x.reshape(-1, *shape)[-1])
        torch.testing.assert_close(y.reshape(-1, *network.out_shape)[-1], one)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r"5 numbers cannot be split among the \(2, 2\) places"):
        ConvGrid((1, 8, 8), 5)
    with pytest.raises(ValueError, match=r"5 numbers cannot be split among the \(2, 2\) places"):
        ConvGridTranspose(5, (1, 8, 8))
    with pytest.raises(ValueError, match=r"needs an image \(C, H, W\)"):
        ConvGrid(5, 5)
