"""Laws of every network: a map from (..., *in_shape) to (..., *out_shape)."""

import copy
import inspect
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from pyrovae import networks

# Arguments of a network beyond its shapes: one case for each entry, the defaults for a network that is not listed.
VARIANTS = {"MLP": [{}, {"hidden": ()}], "Conv": [{}, {"kernel_size": 5}], "ConvTranspose": [{}, {"kernel_size": 5}]}

VECTOR, MATRIX, IMAGE = (5,), (2, 3), (2, 7, 6)
IMAGES = [(1, 1, 1), (3, 1, 5), (2, 6, 1), (1, 8, 8), (2, 7, 9), (3, 28, 28), (1, 31, 17)]


def make(name, in_shape, out_shape, **arguments):
    return getattr(networks, name)(in_shape, out_shape, **arguments).double()


def accepts(name, in_shape, out_shape):
    try:
        make(name, in_shape, out_shape)
    except ValueError:
        return False
    return True


def label(value):
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return ",".join(f"{k}={v}" for k, v in value.items()) or "default" if isinstance(value, dict) else None


# Every pair of shapes, and of image sizes, that a network's constructor takes.
ALL_PAIRS = list(product(networks.__all__, (VECTOR, MATRIX, IMAGE), (VECTOR, MATRIX, IMAGE)))
PAIRS = [pair for pair in ALL_PAIRS if accepts(*pair)]
CASES = [(*pair, variant) for pair in PAIRS for variant in VARIANTS.get(pair[0], [{}])]
SIZES = [
    (name, i, o, variant)
    for name in networks.__all__
    for image in IMAGES
    for i, o in ((image, 4), (4, image))
    if accepts(name, i, o)
    for variant in VARIANTS.get(name, [{}])
]
LARGE = [
    (name, i, o)
    for name in networks.__all__
    for i, o in ((300, 200), ((3, 28, 28), 200), (300, (3, 28, 28)))
    if accepts(name, i, o)
]

over_cases = pytest.mark.parametrize(("name", "in_shape", "out_shape", "variant"), CASES, ids=label)
over_pairs = pytest.mark.parametrize(("name", "in_shape", "out_shape"), PAIRS, ids=label)
over_large = pytest.mark.parametrize(("name", "in_shape", "out_shape"), LARGE, ids=label)
over_networks = pytest.mark.parametrize("name", networks.__all__)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def weighted(network):
    """The layers that have a matrix or kernels for weight, in order; the last one is the output's."""
    return [m for m in network.modules() if getattr(m, "weight", None) is not None and m.weight.dim() > 1]


def first_pair(name):
    return next((i, o) for n, i, o in PAIRS if n == name)


# Shapes


@over_networks
def test_some_shapes_are_taken(name):
    assert any(n == name for n, _, _ in PAIRS)


def test_mlp_takes_all_shapes_and_the_convolutional_pair_all_images():
    taken = {(i, o) for n, i, o in PAIRS if n == "MLP"}
    assert taken == set(product((VECTOR, MATRIX, IMAGE), repeat=2))
    assert {(i, o) for n, i, o in PAIRS if n == "Conv"} == {(IMAGE, o) for o in (VECTOR, MATRIX, IMAGE)}
    assert {(i, o) for n, i, o in PAIRS if n == "ConvTranspose"} == {(i, IMAGE) for i in (VECTOR, MATRIX, IMAGE)}


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), [p for p in ALL_PAIRS if p not in PAIRS], ids=label)
def test_refused_shape_is_named(name, in_shape, out_shape):
    with pytest.raises(ValueError, match=r"\(\d+,( \d+)?\)") as error:
        make(name, in_shape, out_shape)
    assert str(in_shape) in str(error.value) or str(out_shape) in str(error.value)


@over_pairs
def test_shapes_are_stated_as_tuples(name, in_shape, out_shape):
    network = make(name, *(s[0] if len(s) == 1 else list(s) for s in (in_shape, out_shape)))
    assert (network.in_shape, network.out_shape) == (in_shape, out_shape)


@over_cases
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_leading_dimensions_give_the_same_as_a_loop(name, in_shape, out_shape, variant, lead):
    network, x = make(name, in_shape, out_shape, **variant), randn(*lead, *in_shape)
    one_by_one = [network(row) for row in x.reshape(-1, *in_shape).unbind()]
    assert one_by_one[0].shape == out_shape
    torch.testing.assert_close(network(x), torch.stack(one_by_one).reshape(*lead, *out_shape), rtol=1e-10, atol=1e-12)


@over_pairs
def test_expanded_and_transposed_inputs_give_the_same_as_copies(name, in_shape, out_shape):
    network, x = make(name, in_shape, out_shape), randn(4, 3, *in_shape).transpose(0, 1)
    assert torch.equal(network(x), network(x.contiguous()))
    x = randn(4, *in_shape).expand(3, 4, *in_shape)
    assert torch.equal(network(x), network(x.clone()))


@over_pairs
def test_no_data_give_no_output(name, in_shape, out_shape):
    assert make(name, in_shape, out_shape)(torch.zeros(2, 0, *in_shape).double()).shape == (2, 0, *out_shape)


@over_pairs
def test_wrong_input_shape_is_refused_with_both_shapes(name, in_shape, out_shape):
    network = make(name, in_shape, out_shape)
    last_is_wrong = (3, *in_shape[:-1], in_shape[-1] + 1)
    first_is_wrong = (3, in_shape[0] + 1, *in_shape[1:])
    flat_in_another_way = (3, *in_shape[:-2], int(np.prod(in_shape[-2:])) * 2)
    for shape in (last_is_wrong, first_is_wrong, flat_in_another_way, in_shape[1:]):
        with pytest.raises(ValueError, match=name) as error:
            network(torch.zeros(shape).double())
        assert str(in_shape) in str(error.value)
        assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize(("name", "in_shape", "out_shape", "variant"), SIZES, ids=label)
def test_every_pixel_counts_at_every_image_size(name, in_shape, out_shape, variant):
    network = make(name, in_shape, out_shape, activation=nn.Softplus, **variant)
    x = randn(2, *network.in_shape).requires_grad_()
    y = network(x)
    assert y.shape == (2, *network.out_shape)
    assert (y[0] != y[1]).all()  # every output depends on the input
    (y * randn(*y.shape)).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).all()  # every input changes the output


# Gradients and activation


@over_cases
def test_every_parameter_gets_a_finite_gradient(name, in_shape, out_shape, variant):
    network = make(name, in_shape, out_shape, **variant)
    y = network(randn(16, *in_shape))
    (y * randn(*y.shape)).sum().backward()
    assert list(network.parameters())
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_pairs
def test_activation_is_what_makes_the_network_bend(name, in_shape, out_shape):
    a, b = randn(2, *in_shape)
    for activation, affine in ((nn.Identity, True), (nn.Tanh, False)):
        network = make(name, in_shape, out_shape, activation=activation)
        middle = (network(a) + network(b)) / 2
        assert torch.allclose(network((a + b) / 2), middle, rtol=1e-9, atol=1e-11) is affine


@over_networks
def test_activation_with_parameters_of_its_own_is_taken(name):
    in_shape, out_shape = first_pair(name)
    network = make(name, in_shape, out_shape, activation=nn.PReLU)
    slopes = [m.weight for m in network.modules() if isinstance(m, nn.PReLU)]
    assert slopes
    assert all((slope == 0.25).all() for slope in slopes)  # PReLU's own start
    assert network(randn(3, *in_shape)).shape == (3, *out_shape)


# Initialisation


def inputs_per_output(layer):
    """How many inputs an output of the layer adds up, away from an image's border, on average."""
    layer = copy.deepcopy(layer)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.Linear):
        return layer(torch.ones(layer.in_features).double()).mean().item()
    return layer(torch.ones(1, layer.in_channels, 32, 32).double())[..., 4:12, 4:12].mean().item()


def he(layer):
    return 2 / inputs_per_output(layer)


def xavier(layer):
    a, b, *kernel = layer.weight.shape
    return 2 / ((a + b) * np.prod(kernel))


def assert_variance(weight, expected, key):
    """The mean square of the weights is the expected variance: a two-sided z-test at level 1e-4."""
    square = weight.detach().flatten().numpy() ** 2
    z = (square.mean() - expected) / (square.std() / len(square) ** 0.5)
    assert abs(z) < norm.isf(0.5e-4), f"{key}: variance {square.mean():.4g}, expected {expected:.4g}"


@over_large
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.ELU])
def test_weights_after_rectifiers_have_the_variance_of_he(name, in_shape, out_shape, activation):
    network = make(name, in_shape, out_shape, activation=activation)
    for layer in weighted(network)[:-1]:
        assert_variance(layer.weight, he(layer), layer)


@over_large
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Identity])
def test_weights_after_the_others_have_the_variance_of_xavier(name, in_shape, out_shape, activation):
    network = make(name, in_shape, out_shape, activation=activation)
    for layer in weighted(network)[:-1]:
        assert_variance(layer.weight, xavier(layer), layer)


@over_large
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_output_weights_have_a_tenth_of_the_deviation_of_xavier(name, in_shape, out_shape, activation):
    output = weighted(make(name, in_shape, out_shape, activation=activation))[-1]
    assert_variance(output.weight, 0.1**2 * xavier(output), output)


@over_cases
def test_weights_have_mean_zero_and_biases_are_zero(name, in_shape, out_shape, variant):
    network = make(name, in_shape, out_shape, **variant)
    weights = torch.cat([(layer.weight / layer.weight.std()).flatten() for layer in weighted(network)]).detach()
    assert abs(weights.mean()) * len(weights) ** 0.5 < norm.isf(0.5e-4)  # two-sided, level 1e-4
    assert not any(layer.bias.any() for layer in weighted(network))


@over_cases
def test_initializer_fills_every_weight(name, in_shape, out_shape, variant):
    initializer = partial(nn.init.constant_, val=0.25)
    network = make(name, in_shape, out_shape, initializer=initializer, **variant)
    assert all((layer.weight == 0.25).all() for layer in weighted(network))
    assert not any(layer.bias.any() for layer in weighted(network))


# Output bias


def set_bias_alone(network, value):
    """Set the output's bias and the output's weights to 0, and give the output, which hangs on the bias alone."""
    network.set_output_bias(value)
    nn.init.zeros_(weighted(network)[-1].weight)
    return network(randn(2, *network.in_shape)).detach()


@pytest.mark.parametrize(("in_shape", "out_shape"), [(i, o) for n, i, o in PAIRS if n == "MLP"], ids=label)
def test_mlp_output_bias_is_set_element_by_element(in_shape, out_shape):
    value = randn(*out_shape)
    assert torch.equal(set_bias_alone(make("MLP", in_shape, out_shape), value), value.expand(2, *out_shape))


@over_cases
def test_output_bias_meets_the_mean_of_each_channel(name, in_shape, out_shape, variant):
    value = randn(*out_shape)
    output = set_bias_alone(make(name, in_shape, out_shape, **variant), value)
    assert output[0].numpy().reshape(len(value), -1).mean(1) == pytest.approx(
        value.numpy().reshape(len(value), -1).mean(1), rel=1e-12, abs=1e-14
    )


@over_cases
def test_output_bias_meets_a_value_that_each_channel_shares(name, in_shape, out_shape, variant):
    value = randn(out_shape[0], *[1] * (len(out_shape) - 1))
    output = set_bias_alone(make(name, in_shape, out_shape, **variant), value)
    torch.testing.assert_close(output, value.expand(2, *out_shape), rtol=1e-14, atol=0)


@over_pairs
def test_output_bias_stays_trainable(name, in_shape, out_shape):
    network = make(name, in_shape, out_shape)
    set_bias_alone(network, randn(*out_shape))
    network(randn(2, *in_shape)).sum().backward()
    bias = weighted(network)[-1].bias
    assert bias.is_leaf
    assert bias.grad.all()


# Bad arguments

BAD = {
    "in_shape": [0, (), (3, -1, 4), (0, 8, 8)],
    "out_shape": [0, (), (3, -1, 4), (0, 8, 8)],
    "hidden": [0, -1],
    "channels": [(), (4, 0), (-4, 4)],
    "kernel_size": [4, 0, -3, 1],  # stride 2 skips pixels where the kernel is 1 wide
}
BAD_CASES = [
    (name, argument, value)
    for name in networks.__all__
    for argument in inspect.signature(getattr(networks, name)).parameters
    for value in BAD.get(argument, [])
]


@pytest.mark.parametrize(("name", "argument", "value"), BAD_CASES, ids=str)
def test_bad_arguments_are_refused_by_name(name, argument, value):
    default = inspect.signature(getattr(networks, name)).parameters[argument].default
    if isinstance(default, tuple) and isinstance(value, int):
        value = (4, value)
    arguments = dict(zip(("in_shape", "out_shape"), first_pair(name), strict=True))
    with pytest.raises(ValueError, match=argument.removeprefix("in_").removeprefix("out_")):
        make(name, **{**arguments, argument: value})
