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


def takes(name, argument):
    return argument in inspect.signature(getattr(networks, name)).parameters


# Arguments of a network beyond its shapes: one case for each entry, besides the defaults.
VARIANTS = {
    "MLP": [{"hidden": ()}],
    "Conv": [{"kernel_size": 5}],
    "ConvTranspose": [{"kernel_size": 5}],
    "GatedMLP": [{"hidden": ()}],
}
NORMAL = [{"normalization": "batch", "dropout": 0.3}, {"normalization": "layer"}]
VARIANTS = {
    name: [{}, *VARIANTS.get(name, []), *(NORMAL if takes(name, "normalization") else [])] for name in networks.__all__
}

VECTOR, MATRIX, IMAGE = (5,), (4, 3), (2, 7, 6)
IMAGES = [(1, 1, 1), (3, 1, 5), (2, 6, 1), (1, 8, 8), (2, 7, 9), (3, 28, 28), (1, 31, 17)]


def make(name, in_shape, out_shape, **arguments):
    return getattr(networks, name)(in_shape, out_shape, **arguments).double()


def accepts(name, in_shape, out_shape):
    try:
        with torch.device("meta"):  # without initialisation
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
CASES = [(*pair, variant) for pair in PAIRS for variant in VARIANTS[pair[0]]]
MAPS = [name for name in networks.__all__ if name != "PerDatum"]  # smooth functions of their input
SIZES = [
    (name, i, o, variant)
    for name in MAPS
    for image in IMAGES
    for i, o in ((image, 4), (4, image))
    if accepts(name, i, o)
    for variant in ({}, {"kernel_size": 5})
    if all(takes(name, argument) for argument in variant)
]
LARGE = [
    (name, i, o)
    for name in MAPS
    for i, o in ((300, 200), ((3, 28, 28), 200), (300, (3, 28, 28)), ((60, 9), 200), (300, (90, 9)))
    if accepts(name, i, o)
]

over_cases = pytest.mark.parametrize(("name", "in_shape", "out_shape", "variant"), CASES, ids=label)
over_pairs = pytest.mark.parametrize(("name", "in_shape", "out_shape"), PAIRS, ids=label)
over_large_bending = pytest.mark.parametrize(
    ("name", "in_shape", "out_shape"), [pair for pair in LARGE if takes(pair[0], "activation")], ids=label
)
over_large = pytest.mark.parametrize(("name", "in_shape", "out_shape"), LARGE, ids=label)
over_bending = pytest.mark.parametrize(
    ("name", "in_shape", "out_shape"), [pair for pair in PAIRS if takes(pair[0], "activation")], ids=label
)
over_networks = pytest.mark.parametrize("name", networks.__all__)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def inputs(network, *lead):
    """Random inputs; a table gets a random row for each of them."""
    x = randn(*lead, *network.in_shape)
    if hasattr(network, "hold"):
        network.hold(x.reshape(-1, *network.in_shape))
        nn.init.normal_(network.layers[-1].rows)
    return x


def used(name, in_shape, out_shape, variant):
    """A network in evaluation mode whose running means are no longer those of the start, and inputs of it."""
    network = make(name, in_shape, out_shape, **variant)
    x = inputs(network, 2, 3)
    network(3 * x + 1 if name in MAPS else x)
    return network.eval(), x


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
    kinds = {"Conv": IMAGE, "ResidualConv": IMAGE, "Recurrent": MATRIX}
    for name, kind in kinds.items():
        assert {(i, o) for n, i, o in PAIRS if n == name} == {(kind, o) for o in (VECTOR, MATRIX, IMAGE)}
        assert {(i, o) for n, i, o in PAIRS if n == f"{name}Transpose"} == {(i, kind) for i in (VECTOR, MATRIX, IMAGE)}


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), [p for p in ALL_PAIRS if p not in PAIRS], ids=label)
def test_refused_shape_is_named(name, in_shape, out_shape):
    with pytest.raises(ValueError, match=r"\(\d+,( \d+,?)*\)") as error:
        make(name, in_shape, out_shape)
    assert str(in_shape) in str(error.value) or str(out_shape) in str(error.value)


@over_pairs
def test_shapes_are_stated_as_tuples(name, in_shape, out_shape):
    network = make(name, *(s[0] if len(s) == 1 else list(s) for s in (in_shape, out_shape)))
    assert (network.in_shape, network.out_shape) == (in_shape, out_shape)


@over_cases
def test_leading_dimensions_give_the_same_as_a_loop(name, in_shape, out_shape, variant):
    network, x = used(name, in_shape, out_shape, variant)
    one_by_one = torch.stack([network(row) for row in x.reshape(-1, *in_shape)])
    for lead in ((6,), (2, 3), (2, 1, 3)):
        y = network(x.reshape(*lead, *in_shape))
        torch.testing.assert_close(y, one_by_one.reshape(*lead, *out_shape), rtol=1e-10, atol=1e-12)
    assert network(x[0, 0]).shape == out_shape


@over_cases
def test_copies_and_loaded_states_give_the_same(name, in_shape, out_shape, variant):
    network, x = used(name, in_shape, out_shape, variant)
    other = make(name, in_shape, out_shape, **variant).eval()
    other.load_state_dict(network.state_dict())
    for twin in (copy.deepcopy(network), other):
        assert torch.equal(twin(x), network(x))
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in network.parameters()}


@over_cases
def test_single_precision_gives_the_same_up_to_rounding(name, in_shape, out_shape, variant):
    network, x = used(name, in_shape, out_shape, variant)
    y = network(x)
    single = copy.deepcopy(network).float()(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), y, rtol=1e-3, atol=1e-5)


@over_cases
def test_evaluation_is_of_each_row_alone_and_training_is_not_under_noise_or_batch_means(
    name, in_shape, out_shape, variant
):
    network, x = used(name, in_shape, out_shape, variant)
    y = network(x)
    assert torch.equal(network(x), y)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert torch.equal(network.train()(x), y) == ("dropout" not in variant)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    batch = variant.get("normalization") == "batch"
    assert {key.split(".")[-1] for key in changed} == (
        {"running_mean", "running_var", "num_batches_tracked"} if batch else set()
    )


@over_pairs
def test_expanded_and_transposed_inputs_give_the_same_as_copies(name, in_shape, out_shape):
    network = make(name, in_shape, out_shape)
    x = inputs(network, 4, 3).transpose(0, 1)
    assert torch.equal(network(x), network(x.contiguous()))
    x = inputs(network, 4).expand(3, 4, *in_shape)
    assert torch.equal(network(x), network(x.clone()))


@over_cases
def test_no_data_give_no_output(name, in_shape, out_shape, variant):
    network = make(name, in_shape, out_shape, **variant)
    inputs(network, 1)
    assert network(torch.zeros(2, 0, *in_shape).double()).shape == (2, 0, *out_shape)


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
    smooth = {"activation": nn.Softplus} if takes(name, "activation") else {}
    network = make(name, in_shape, out_shape, **smooth, **variant)
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
    y = network(inputs(network, 16))
    (y * randn(*y.shape)).sum().backward()
    assert list(network.parameters())
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_networks
def test_extreme_inputs_give_finite_outputs_and_gradients_in_single_precision(name):
    for variant in VARIANTS[name]:
        network = make(name, *first_pair(name), **variant).float()
        x = 1e4 * randn(16, *network.in_shape).float()
        y = network(x if name in MAPS else inputs(network, 16))
        y.square().sum().backward()
        assert y.isfinite().all()
        assert all(p.grad.isfinite().all() for p in network.parameters())


@over_bending
def test_activation_is_what_makes_the_network_bend(name, in_shape, out_shape):
    a, b = randn(2, *in_shape)
    for activation, affine in ((nn.Identity, True), (nn.Tanh, False)):
        network = make(name, in_shape, out_shape, activation=activation)
        middle = (network(a) + network(b)) / 2
        assert torch.allclose(network((a + b) / 2), middle, rtol=1e-9, atol=1e-11) is affine


@pytest.mark.parametrize("name", [name for name in networks.__all__ if takes(name, "activation")])
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


@over_large_bending
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.ELU])
def test_weights_after_rectifiers_have_the_variance_of_he(name, in_shape, out_shape, activation):
    network = make(name, in_shape, out_shape, activation=activation)
    for layer in weighted(network)[:-1]:
        assert_variance(layer.weight, he(layer), layer)


@over_large_bending
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Identity])
def test_weights_after_the_others_have_the_variance_of_xavier(name, in_shape, out_shape, activation):
    network = make(name, in_shape, out_shape, activation=activation)
    for layer in weighted(network)[:-1]:
        assert_variance(layer.weight, xavier(layer), layer)


@over_large
def test_output_weights_have_a_tenth_of_the_deviation_of_xavier(name, in_shape, out_shape):
    output = weighted(make(name, in_shape, out_shape))[-1]
    assert_variance(output.weight, 0.1**2 * xavier(output), output)


def test_gated_layers_start_by_he():
    for layer in weighted(make("GatedMLP", 300, 200))[:-1]:
        assert_variance(layer.weight, he(layer), layer)


@pytest.mark.parametrize(("name", "shapes"), [("Recurrent", ((60, 9), 5)), ("RecurrentTranspose", (90, (5, 9)))])
def test_gates_start_by_xavier_and_orthogonal(name, shapes):
    (cell,) = [m for m in make(name, *shapes).modules() if isinstance(m, nn.GRUCell)]
    for gate in range(3):
        part = slice(gate * cell.hidden_size, (gate + 1) * cell.hidden_size)
        square = cell.weight_hh[part]
        torch.testing.assert_close(square @ square.T, torch.eye(cell.hidden_size).double(), rtol=0, atol=1e-5)
        assert_variance(cell.weight_ih[part], 2 / (cell.input_size + cell.hidden_size), gate)
    assert not cell.bias_ih.any()
    assert not cell.bias_hh.any()


over_weighted = pytest.mark.parametrize(
    ("name", "in_shape", "out_shape", "variant"), [case for case in CASES if case[0] in MAPS], ids=label
)


@over_weighted
def test_weights_have_mean_zero_and_biases_are_zero(name, in_shape, out_shape, variant):
    network = make(name, in_shape, out_shape, **variant)
    weights = torch.cat([(layer.weight / layer.weight.std()).flatten() for layer in weighted(network)]).detach()
    assert abs(weights.mean()) * len(weights) ** 0.5 < norm.isf(0.5e-4)  # two-sided, level 1e-4
    assert not any(layer.bias.any() for layer in weighted(network) if layer.bias is not None)


@over_weighted
def test_initializer_fills_every_weight(name, in_shape, out_shape, variant):
    initializer = partial(nn.init.constant_, val=0.25)
    network = make(name, in_shape, out_shape, initializer=initializer, **variant)
    assert all((p == 0.25).all() for p in network.parameters() if p.dim() > 1)
    assert not any(layer.bias.any() for layer in weighted(network) if layer.bias is not None)


# Output bias


def set_bias_alone(network, value):
    """Set the output's bias and the output's weights to 0, and give the output, which hangs on the bias alone."""
    x = inputs(network, 2)
    network.set_output_bias(value)
    for layer in weighted(network)[-1:]:
        nn.init.zeros_(layer.weight)
    return network(x).detach()


@over_pairs
def test_output_bias_is_set_element_by_element_unless_a_channel_shares_one(name, in_shape, out_shape):
    network, value = make(name, in_shape, out_shape), randn(*out_shape)
    equal = torch.equal(set_bias_alone(network, value), value.expand(2, *out_shape))
    assert equal is not network.one_bias_per_channel
    assert network.one_bias_per_channel == ("Transpose" in name)


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


@pytest.mark.parametrize(("name", "in_shape", "out_shape"), [pair for pair in PAIRS if pair[0] in MAPS], ids=label)
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
    "normalization": ["group"],
    "activation": [nn.Module, nn.Bilinear],
    "dropout": [-0.1, 1.0, float("nan")],
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


def test_an_activation_may_be_for_so_many_channels():
    network = networks.MLP(3, 2, hidden=(8,), activation=partial(nn.PReLU, 8))
    first, second = weighted(network)
    x = torch.randn(5, 3)
    hidden = first(x)
    torch.testing.assert_close(network(x), second(torch.where(hidden > 0, hidden, 0.25 * hidden)))
