"""Networks against their equations in NumPy and SciPy, and normalization and dropout against theirs."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d, correlate2d
from scipy.special import expit
from scipy.stats import norm
from torch import nn

from pyrovae import networks
from pyrovae.networks.network import BatchNorm


def randomised(network):
    """All parameters, scales and biases too, drawn anew, so that each matters."""
    for p in network.double().parameters():
        nn.init.normal_(p, std=0.5)
    return network


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def values(network):
    return {name: p.detach().numpy() for name, p in network.named_parameters()}


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


# Gated layers


def test_a_gated_layer_multiplies_a_linear_map_by_the_sigmoid_of_another():
    network, x = randomised(networks.GatedMLP(5, 3, hidden=(4, 2))), randn(7, 5)
    p, h = values(network), x.numpy()
    for layer, units in ((1, 4), (3, 2)):
        weight, bias = p[f"layers.{layer}.weight"], p[f"layers.{layer}.bias"]
        h = (h @ weight[:units].T + bias[:units]) * expit(h @ weight[units:].T + bias[units:])
    assert_equal(network(x), h @ p["layers.5.weight"].T + p["layers.5.bias"])


# Residual blocks


def convolved(x, weight, bias, stride=1):
    """Each output channel: the sum over input channels of correlations with the kernel, from a frame of zeros."""
    padding = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    maps = [sum(correlate2d(c, k, "valid") for c, k in zip(x, kernels, strict=True)) for kernels in weight]
    return np.stack(maps)[:, ::stride, ::stride] + bias[:, None, None]


def transposed(x, weight, bias, size):
    """Pixels put 2 apart, convolved with 3 x 3 kernels, and cut to size."""
    apart = np.zeros((len(x), *(2 * n - 1 for n in x.shape[1:])))
    apart[:, ::2, ::2] = x
    apart = np.pad(apart, ((0, 0), (0, 1), (0, 1)))
    maps = [sum(convolve2d(c, k) for c, k in zip(apart, kernels, strict=True)) for kernels in weight.swapaxes(0, 1)]
    return np.stack(maps)[:, 1 : size[0] + 1, 1 : size[1] + 1] + bias[:, None, None]


def parts(p, prefix):
    return p[f"{prefix}.weight"], p[f"{prefix}.bias"]


def test_a_residual_block_adds_two_convolutions_to_a_shortcut():
    network, x = randomised(networks.ResidualConv((2, 5, 6), 3, channels=(4, 3), activation=nn.Tanh)), randn(2, 5, 6)
    p, h = values(network), x.numpy()
    for block in ("layers.0", "layers.2"):
        branch = np.tanh(convolved(h, *parts(p, f"{block}.branch.0"), stride=2))
        branch = convolved(branch, *parts(p, f"{block}.branch.2"))
        h = np.tanh(convolved(h, *parts(p, f"{block}.shortcut.0"), stride=2) + branch)
    weight, bias = parts(p, "layers.5")
    assert_equal(network(x), weight @ h.ravel() + bias)


def test_a_transposed_residual_block_adds_to_a_shortcut_of_repeated_pixels():
    network = randomised(networks.ResidualConvTranspose(3, (2, 5, 6), channels=(4, 3), activation=nn.Tanh))
    z, p = randn(3), values(network)
    weight, bias = parts(p, "layers.1")
    h = np.tanh((weight @ z.numpy() + bias).reshape(4, 2, 2))
    for block, size in (("layers.4", (3, 3)), ("layers.6", (5, 6))):
        branch = np.tanh(transposed(h, *parts(p, f"{block}.branch.0"), size))
        branch = convolved(branch, *parts(p, f"{block}.branch.2"))
        shortcut = convolved(h, *parts(p, f"{block}.shortcut.0"))
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, h.shape[1:], strict=True))  # the nearest pixel
        h = np.tanh(shortcut[:, rows][:, :, columns] + branch)
    assert_equal(network(z), convolved(h, *parts(p, "layers.8")))


# Recurrent units


def gru(p, prefix, x, h):
    """One step, in the words of `Recurrent`."""
    a = p[f"{prefix}.weight_ih"] @ x + p[f"{prefix}.bias_ih"]
    b = p[f"{prefix}.weight_hh"] @ h + p[f"{prefix}.bias_hh"]
    (a_r, a_u, a_n), (b_r, b_u, b_n) = np.split(a, 3), np.split(b, 3)
    update = expit(a_u + b_u)
    return (1 - update) * np.tanh(a_n + expit(a_r + b_r) * b_n) + update * h


def test_a_recurrent_network_gives_a_linear_map_of_its_last_state():
    network, x = randomised(networks.Recurrent((2, 6), 3, hidden=4)), randn(2, 6)
    p, h = values(network), np.zeros(4)
    for step in x.numpy().T:
        h = gru(p, "layers.0.cell", step, h)
    weight, bias = parts(p, "layers.2")
    assert_equal(network(x), weight @ h + bias)


@pytest.mark.parametrize(("in_shape", "per_step"), [((5,), False), ((30,), True), ((6, 5), False)])
def test_a_transposed_recurrent_network_gives_a_linear_map_of_each_state(in_shape, per_step):
    network = randomised(networks.RecurrentTranspose(in_shape, (2, 6), hidden=4, per_step=per_step))
    z, p = randn(*in_shape), values(network)
    if per_step:
        prefix, output, steps, h = "layers.2", "layers.3", z.numpy().reshape(5, 6).T, np.zeros(4)
    else:
        prefix, output, steps = "layers.1", "layers.2", [z.numpy().ravel()] * 6
        h = np.tanh(p["layers.1.start.0.weight"] @ steps[0] + p["layers.1.start.0.bias"])
    states = []
    for step in steps:
        h = gru(p, f"{prefix}.cell", step, h)
        states.append(h)
    weight, bias = parts(p, output)
    assert_equal(network(z), weight[:, :, 0] @ np.stack(states, 1) + bias[:, None])


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_a_step_of_the_output_depends_on_the_steps_so_far(normalization):
    network = randomised(networks.RecurrentTranspose(18, (2, 6), per_step=True, normalization=normalization)).eval()
    z = randn(3, 6).requires_grad_()
    for t in range(6):
        (grad,) = torch.autograd.grad(network(z.flatten())[:, t].sum(), z)
        assert grad[:, : t + 1].all()
        assert not grad[:, t + 1 :].any()


def test_numbers_that_cannot_be_split_among_the_steps_are_refused():
    with pytest.raises(ValueError, match="7 numbers cannot be split among 6 steps"):
        networks.RecurrentTranspose(7, (2, 6), per_step=True)


# Normalization and dropout


def test_batch_normalization_is_by_the_mean_and_variance_of_all_rows():
    network, x = randomised(networks.MLP(5, 3, hidden=(4,), normalization="batch")), randn(6, 7, 5)
    p, rows = values(network), x.numpy().reshape(42, 5)
    assert "layers.1.bias" not in p  # it would be taken off again

    def expected(mean, variance):
        h = (rows @ p["layers.1.weight"].T - mean) / np.sqrt(variance + 1e-5)
        h = np.maximum(h * p["layers.2.weight"] + p["layers.2.bias"], 0)
        return (h @ p["layers.4.weight"].T + p["layers.4.bias"]).reshape(6, 7, 3)

    h = rows @ p["layers.1.weight"].T
    assert_equal(network(x), expected(h.mean(0), h.var(0)))
    # The running means are 0.9 of what they were, 0 and 1, and 0.1 of the batch's, the variance unbiased.
    assert_equal(network.eval()(x), expected(0.1 * h.mean(0), 0.9 + 0.1 * h.var(0, ddof=1)))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("MLP", (5, 3)),
        ("GatedMLP", (5, 3)),
        ("Conv", ((1, 1, 1), 3)),
        ("ConvTranspose", (3, (1, 1, 1))),
        ("ResidualConv", ((1, 1, 1), 3)),
        ("Recurrent", ((2, 3), 3)),
        ("RecurrentTranspose", (3, (2, 1))),
    ],
)
def test_one_value_for_each_channel_is_normalised_by_the_running_means_and_trains(name, shapes):
    network = randomised(getattr(networks, name)(*shapes, normalization="batch"))
    network(2 + randn(50, *network.in_shape))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = randn(1, *network.in_shape)
    y = network(x)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(y, network.eval()(x))


def test_layer_normalization_is_by_the_mean_and_variance_of_each_row():
    network, x = randomised(networks.MLP(5, 3, hidden=(4,), normalization="layer")), randn(7, 5)
    p = values(network)
    h = x.numpy() @ p["layers.1.weight"].T + p["layers.1.bias"]
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    h = np.maximum(h * p["layers.2.weight"] + p["layers.2.bias"], 0)
    assert_equal(network(x), h @ p["layers.4.weight"].T + p["layers.4.bias"])


def passes(name, kind, **options):
    """What enters and leaves each module of a kind as 100 data pass the network, and the network."""
    shapes = ((2, 8, 6), 3) if "Conv" in name else ((2, 6), 3)
    network = getattr(networks, name)(*(shapes[::-1] if "Transpose" in name else shapes), **options).double()
    seen = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, x, y: seen.append((x[0].detach(), y.detach())))
    network(1 + randn(100, *network.in_shape))
    assert seen
    return seen, network


over_layers = pytest.mark.parametrize("name", [n for n in networks.__all__ if n != "PerDatum"])


@over_layers
@pytest.mark.parametrize(
    ("normalization", "kind", "dims"), [("batch", BatchNorm, (0, 2)), ("layer", nn.GroupNorm, (1, 2))]
)
def test_channels_are_normalised_over_rows_and_pixels_or_over_those_of_each_row(name, normalization, kind, dims):
    for x, y in passes(name, kind, normalization=normalization)[0]:
        x, y = (t.reshape(*t.shape[:2], -1) for t in (x, y))  # scales start at 1, biases at 0
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
        torch.testing.assert_close(y, (x - mean) / (variance + 1e-5).sqrt(), rtol=1e-9, atol=1e-9)


@over_layers
def test_dropout_leaves_out_hidden_units_and_scales_up_the_others(name):
    """Each dropout gives x / (1 - p) or 0; of n units, the left out are binomial: two-sided, level 1e-6."""
    seen, network = passes(name, nn.Dropout, dropout=0.3)
    assert isinstance(network.layers[-1], nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)  # the output is whole
    for x, y in seen:
        x, y = x[x != 0], y[x != 0]  # a rectifier's zeros tell nothing
        kept = y != 0
        torch.testing.assert_close(y[kept], x[kept] / 0.7)
        deviation = (kept.double().mean() - 0.7) / (0.7 * 0.3 / len(x)) ** 0.5
        assert abs(deviation) < norm.isf(0.5e-6)
