"""Whatever a component is given: it works, or says in one sentence what is wrong, at once."""

import inspect
import math
from functools import partial

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrovae import (
    VAE,
    arguments,
    baselines,
    conditions,
    corruptions,
    encoders,
    exact,
    gradients,
    likelihoods,
    models,
    networks,
    objectives,
    priors,
    schedules,
)
from pyrovae.networks import MLP
from pyrovae.networks.codebook import Codebook

CHEAP = settings(derandomize=True, max_examples=30, deadline=None, database=None)
WHOLE = (-1, 2.5, math.nan, math.inf, "3", True, 2**70)
NUMBER = (math.nan, math.inf, 1e300, 1e-300, "x", True)
NUMBERS = ((-1,), (0,), (2.5,), ("a",), "ab", 5)
SHAPE = (0, -1, (), (0,), (2, -1), 2.5, "x", (2.5,), None)
PART = ("x", 3, priors.StandardNormal)
decode, encode = partial(MLP, 2, hidden=(8,)), partial(MLP, 5, hidden=(8,))


def fits(kind, name):
    """Arguments with which a component works, its own defaults apart."""
    options = dict(toys.SMALL.get(f"{kind.__name__.removeprefix('pyrovae.')}.{name}", {}))
    if kind is priors:
        return {"latent_dim": 2} | options
    if kind is likelihoods:
        return {"network": lambda n: decode((n(1), 2, 2))} | options
    if kind is encoders:
        return {"network": lambda n: encode(n(2))} | options
    if kind is networks:
        role, shape = toys.roles(name)[0]
        takes, gives = {"decoder": (toys.D, shape), "encoder": (shape, 2 * toys.D)}[role]
        return {"in_shape": takes, "out_shape": gives} | options
    if kind is schedules:
        return {"steps": 10}
    return {"network": MLP(5, 1)} if name == "Learned" else options


def bad_values(argument, annotation):
    """Values that make no sense for any argument of this type, and name; None where there is nothing to refuse."""
    text = str(annotation)
    if argument == "seed":
        return (2.5, "3")
    if annotation is int or text == "int | None":
        return WHOLE
    if annotation is float or text.startswith("float |"):
        return NUMBER
    if text == "int | tuple[int, ...]":
        return SHAPE
    if "Sequence[int]" in text:
        return NUMBERS
    return PART if argument in ("network", "discriminator", "corruption") else ()


KINDS = (priors, likelihoods, encoders, networks, objectives, gradients, baselines, schedules, corruptions, exact)
CASES = [
    (kind, name, argument.name)
    for kind in KINDS
    for name in kind.__all__
    if inspect.isclass(getattr(kind, name)) and name != "GridPosterior"  # a result, which nobody makes
    for argument in inspect.signature(getattr(kind, name)).parameters.values()
    if bad_values(argument.name, argument.annotation)
]


def refusal(make, *args, **kwargs):
    """What is said of arguments, in one sentence; anything but a refusal fails."""
    with pytest.raises((ValueError, TypeError)) as caught:
        make(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


@pytest.mark.parametrize(("kind", "name", "argument"), CASES, ids=[f"{k.__name__[8:]}.{n}-{a}" for k, n, a in CASES])
def test_what_makes_no_sense_is_refused_by_the_constructor(kind, name, argument):
    make, good = getattr(kind, name), fits(kind, name)
    make(**good)
    for value in bad_values(argument, inspect.signature(make).parameters[argument].annotation):
        refusal(make, **good | {argument: value})


def parts_of_models():
    normal, q, d = priors.StandardNormal(2), encoders.DiagonalNormal(encode(4)), likelihoods.Normal(decode(5))
    yield models.VAE, {"prior": normal, "likelihood": d, "encoder": q}
    yield models.IncompleteVAE, {"prior": normal, "likelihood": d, "encoder": q}
    yield models.Autoencoder, {"network": encode(2), "likelihood": d, "corruption": None}
    yield (
        models.AdversarialAutoencoder,
        {"prior": normal, "likelihood": d, "encoder": encoders.Delta(encode(2)), "discriminator": decode(1)},
    )
    yield models.MixtureVAE, {"prior": priors.MixtureOfNormals(2), "likelihood": d, "encoder": q}
    likelihood, encoder = likelihoods.Normal(MLP(5, 5)), encoders.DiagonalNormal(MLP(8, 4))
    of_two = {"prior": normal, "likelihood": likelihood, "encoder": encoder}
    yield models.M2, of_two | {"classifier": MLP(5, 3), "alpha": 1.0}
    yield models.ConditionalVAE, of_two | {"condition": conditions.OneHot(3)}
    yield models.HierarchicalVAE, {"prior": normal, "decoders": [], "likelihood": d, "encoders": [q]}
    codebook = {"codebook": Codebook(3, (2, 3)), "likelihood": likelihoods.Normal(MLP(6, 5))}
    yield models.VQVAE, {"network": MLP(5, 6), **codebook, "commitment": 0.25}


@pytest.mark.parametrize(("make", "good"), [*parts_of_models()], ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_part_of_a_model_is_refused_by_its_name(make, good):
    make(**good)
    for name in good:
        for value in ("x", 3, priors.StandardNormal, torch.zeros(2)):
            if name in ("decoders", "encoders", "alpha", "commitment"):
                if not isinstance(value, int):
                    refusal(make, **good | {name: value})
            else:
                assert name in refusal(make, **good | {name: value})


FLOATS = [
    (kind, name, argument)
    for kind, name, argument in CASES
    if kind in (priors, likelihoods, encoders, corruptions)
    and bad_values(argument, inspect.signature(getattr(kind, name)).parameters[argument].annotation) is NUMBER
    and name != "SemiAmortized"  # it has a density only in a model
]


@pytest.mark.parametrize(("kind", "name", "argument"), FLOATS, ids=[f"{k.__name__[8:]}.{n}-{a}" for k, n, a in FLOATS])
@CHEAP
@given(value=st.floats() | st.floats(0, 100))
def test_a_number_that_is_accepted_works(kind, name, argument, value):
    """Draws are finite, and so is their density."""
    torch.manual_seed(0)
    make = partial(getattr(kind, name), **fits(kind, name) | {argument: value})
    try:
        part = make()
    except ValueError:
        refusal(make)
        return
    if kind is corruptions:
        assert part(torch.ones(3)).isfinite().all()
        return
    p = part() if kind is priors else part(torch.rand(3, 2 if kind is likelihoods else 5))
    x = p.sample()
    assert x.isfinite().all()
    assert p.log_prob(x).isfinite().all()


@CHEAP
@given(value=st.integers() | st.floats() | st.text("ab1.-") | st.none() | st.booleans() | st.lists(st.integers()))
def test_whole_numbers_and_numbers_are_told_from_all_else(value):
    plain = isinstance(value, int) and not isinstance(value, bool)
    if plain and 1 <= value < 2**31:
        assert arguments.whole("a", value) == value
    else:
        assert "a " in refusal(arguments.whole, "a", value)
    plain = plain or isinstance(value, float)
    if plain and math.isfinite(value) and 1e-30 <= value < 7:
        assert arguments.number("a", value, above=0, below=7) == value
    else:
        assert "a " in refusal(arguments.number, "a", value, above=0, below=7)


def test_bounds_are_within_or_without_as_they_say():
    assert arguments.number("a", 0, least=0, most=1) == 0
    assert arguments.number("a", 1.0, least=0, most=1) == 1
    for bounds in ({"above": 0}, {"below": 0}, {"least": 1}, {"most": -1}):
        assert "not 0" in refusal(arguments.number, "a", 0, **bounds)


def test_a_network_is_built_by_a_function_that_gives_one():
    message = refusal(likelihoods.Bernoulli, lambda n: 3)
    assert message == "a function that builds a network gives a module, not 3"
    assert "MLP(...)" in refusal(likelihoods.Bernoulli, MLP)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tensors_of_components_are_finite(bad):
    x = torch.tensor([[0.0, bad]])
    for make in (
        partial(priors.VampPrior, 2, pseudo_inputs=x),
        partial(priors.GaussianProcess, 2, index=x[0]),
        partial(networks.PerDatum, 2, 3, data=x),
    ):
        assert "NaN or infinity" in refusal(make)


def test_tensors_of_components_are_tensors():
    x = [[0.0, 1.0]]
    for make in (partial(priors.VampPrior, 2, pseudo_inputs=x), partial(networks.PerDatum, 2, 3, data=x)):
        assert "must be a tensor, not [[0.0, 1.0]]" in refusal(make)


def test_what_is_refused_leaves_the_parts_as_they_were():
    prior, likelihood = priors.VampPrior(2, components=3), likelihoods.Normal(decode(5))
    refusal(VAE, prior, likelihood, "x")
    assert VAE(prior, likelihood, encoders.DiagonalNormal(encode(4))).prior is prior
