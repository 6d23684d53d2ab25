"""A model run for some draws at a time: the same value and gradient, and memory for those draws alone."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete import Bits, Mixture
from objective_checks import assert_same, gradients_of, two_programs
from programs import SHAPE, make_data, make_vae
from pyro import poutine
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from two_sites import TwoSites

from pyrovae import SVI, VAE, chunks, encoders, likelihoods, networks, priors, runs
from pyrovae import gradients as G
from pyrovae import objectives as E
from pyrovae.parameters import ModuleParameters

K, CHUNK = 7, 3  # pieces of 3, 3 and 1
OPTIONS = {"MIWAE": {"groups": 2}, "PIWAE": {"groups": 2}}


def built(objective, gradient, chunk):
    pyro.set_rng_seed(0)  # for a discriminator, which is made when z is first seen
    options = {"num_particles": K, "gradient": getattr(G, gradient)(), **OPTIONS.get(objective, {})}
    return getattr(E, objective)(chunk=chunk, **options)


def accepted(objective, gradient):
    """Whether there is such a pair."""
    try:
        built(objective, gradient, None)
    except ValueError:
        return False
    return True


PAIRS = [
    pair for pair in itertools.product([name for name in E.__all__ if name != "TMC"], G.__all__) if accepted(*pair)
]


def programs():
    """Modules with their programs and data: one and two sites, continuous and discrete."""
    bits, mixed = Bits(scale=2.0), Mixture(continuous=True)
    return [
        *two_programs(),
        (bits, bits.model, bits.guide, torch.randn(5, 3).double()),
        (mixed, mixed.model, mixed.guide, torch.randn(5).double()),
    ]


def bound_of(objective, model, guide, x):
    pyro.set_rng_seed(7)
    return objective.bound(model, guide, x)


def assert_chunks_change_nothing(make, module, model, guide, x, chunk=CHUNK):
    whole, apart = (make(chunk=c) for c in (None, chunk))
    assert_same(gradients_of(whole, model, guide, x, module), gradients_of(apart, model, guide, x, module))
    bounds = [bound_of(objective, model, guide, x) for objective in (whole, apart)]
    assert torch.allclose(*bounds, rtol=1e-10, equal_nan=True)


def encoder_decoder(decode, prior=priors.StandardNormal):
    """A VAE in float64 with this decoder of two latent variables."""
    pyro.set_rng_seed(0)
    encode = networks.MLP(SHAPE, 4, hidden=(8,))
    return VAE(prior(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode)).double()


# Value and gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "gradient"), PAIRS)
def test_every_objective_and_estimator_has_the_same_value_and_gradient(objective, gradient):
    compared = 0
    for module, model, guide, x in programs():
        try:
            gradients_of(built(objective, gradient, None), model, guide, x, module)
        except ValueError:  # an estimator that is not for this program's sites
            continue
        if objective in ("InfoVAE", "WAE") and isinstance(module, TwoSites):
            with pytest.raises(ValueError, match=r"'z1' depends on other latent variables.*leave chunk out"):
                built(objective, gradient, CHUNK).loss(model, guide, x)
            continue
        assert_chunks_change_nothing(lambda chunk: built(objective, gradient, chunk), module, model, guide, x)
        compared += 1
    assert compared >= 1


@pytest.mark.parametrize("chunk", [1, 2, 6, 7, 100])
def test_pieces_of_any_size(chunk):
    for program in programs()[:2]:
        for gradient in (G.Pathwise, G.DReG):
            assert_chunks_change_nothing(lambda chunk, g=gradient: E.IWAE(K, g(), chunk=chunk), *program, chunk)


@pytest.mark.parametrize(
    "options", [{"analytic_kl": True}, {"free_bits": 0.1}, {"free_bits": 0.1, "analytic_kl": True}, {"capacity": 2.0}]
)
@pytest.mark.parametrize("prior", [priors.StandardNormal, priors.Normal])
def test_what_the_elbo_makes_of_the_prior_itself(options, prior):
    vae = encoder_decoder(networks.MLP(2, SHAPE, hidden=(8,)), prior)
    for chunk in (1, CHUNK):
        assert_chunks_change_nothing(
            lambda chunk: E.ELBO(K, chunk=chunk, **options), vae, vae.model, vae.guide, make_data(5).double(), chunk
        )


class Nested(nn.Module):
    """Pixels in a plate inside that of the data, which are a sample, each with its scale; w masked by what z is."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3).double())
        self.b = nn.Parameter(torch.tensor(-0.2).double())

    def data(self, x):
        return pyro.plate("data", 10, subsample=torch.arange(len(x)), dim=-2)

    def model(self, x):
        with self.data(x), poutine.scale(scale=torch.arange(1.0, 1 + len(x)).double()[:, None]):
            z = pyro.sample("z", dist.Normal(self.b, 1.0))
            with poutine.mask(mask=z > 0):
                w = pyro.sample("w", dist.Normal(self.b * z, 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("x", dist.Normal(z + w, self.a.exp()), obs=x)

    def guide(self, x):
        with self.data(x), poutine.scale(scale=torch.arange(1.0, 1 + len(x)).double()[:, None]):
            z = pyro.sample("z", dist.Normal(self.a * x[:, :1], 0.7))
            with poutine.mask(mask=z > 0):
                pyro.sample("w", dist.Normal(self.b * x[:, 1:2], 0.8))


@pytest.mark.parametrize(
    "make",
    [
        lambda **chunk: E.ELBO(K, G.STL(), max_plate_nesting=2, **chunk),
        lambda **chunk: E.IWAE(K, G.ScoreFunction(), max_plate_nesting=2, **chunk),
        lambda **chunk: E.PIWAE(K, 2, max_plate_nesting=2, **chunk),
    ],
)
def test_plates_masks_and_scales(make):
    program = Nested()
    assert_chunks_change_nothing(make, program, program.model, program.guide, torch.randn(5, 3).double())


# The backward pass ---------------------------------------------------------------------------------------------------


def test_what_is_drawn_inside_the_model_is_drawn_again(monkeypatch):
    vae, x = encoder_decoder(networks.MLP(2, SHAPE, hidden=(32,), dropout=0.5)), make_data(5).double()
    again = gradients_of(E.IWAE(K, chunk=CHUNK), vae.model, vae.guide, x, vae)
    after = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "checkpoint", lambda run, *values, use_reentrant: run(*values))
        kept = gradients_of(E.IWAE(K, chunk=CHUNK), vae.model, vae.guide, x, vae)
    assert_same(kept, again)
    assert torch.equal(torch.get_rng_state(), after)
    without = gradients_of(E.IWAE(K, chunk=CHUNK), vae.eval().model, vae.guide, x, vae)
    assert abs(without[0] - kept[0]) > 1e-3  # dropout matters


def test_the_backward_pass_runs_under_the_handlers_of_the_forward_pass():
    vae, x = make_vae().double(), make_data(5).double()
    parameters = [*vae.parameters()]
    seen, grads = [], []
    pyro.clear_param_store()
    for chunk in (None, CHUNK):
        pyro.set_rng_seed(7)
        with ModuleParameters(at_once=False):
            loss = E.IWAE(K, G.DReG(), chunk=chunk).differentiable_loss(vae.model, vae.guide, x)
        with poutine.trace(param_only=True) as outside:  # a handler that is none of the model's business
            grads += [torch.autograd.grad(loss, parameters, retain_graph=keep) for keep in (True, False)]
        seen += [name for name in outside.trace.nodes if name != "_INPUT"]
    assert not seen
    assert not [*pyro.get_param_store().keys()]  # where `pyro.module` puts parameters if no handler has them
    for other in grads[1:]:
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(grads[0], other, strict=True))


def test_every_way_to_take_a_step():
    ends, x = [], make_data(5).double()
    for chunk in (None, CHUNK):
        for svi, optim in (
            (pyro.infer.SVI, pyro.optim.Adam({"lr": 1e-2})),
            (SVI, pyro.optim.Adam({"lr": 1e-2})),
        ):
            vae = make_vae().double()
            steps = svi(vae.model, vae.guide, optim, E.IWAE(K, chunk=chunk))
            pyro.set_rng_seed(1)
            for _ in range(3):
                steps.step(x)
            ends.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert all(torch.allclose(end, ends[0], rtol=1e-9, atol=1e-12) for end in ends[1:])


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["IWAE", "ELBO"])
def test_the_model_runs_for_so_many_draws_and_keeps_nothing_of_them(objective):
    vae, x = make_vae(), make_data(5)
    draws, outputs, alive, encoded = [], [], [], []

    def decoded(network, inputs, output):
        alive.append(sum(not ref.expired() for ref in outputs))
        outputs.append(StorageWeakRef(output.untyped_storage()))
        draws.append(len(inputs[0]))

    vae.likelihood.network.register_forward_hook(decoded)
    vae.encoder.network.register_forward_hook(lambda *_: encoded.append(1))
    options = {"analytic_kl": True} if objective == "ELBO" else {}
    objective = getattr(E, objective)(K, chunk=CHUNK, **options)
    objective.loss_and_grads(vae.model, vae.guide, x)
    assert draws == [3, 3, 1, 1, 3, 3]  # and back
    assert alive == [0] * 6
    assert len(encoded) == 1
    draws.clear()
    objective.bound(vae.model, vae.guide, x)
    assert draws == [3, 3, 1]


def kept_bytes(objective, width):
    """What a forward pass keeps for the backward pass."""
    vae, sizes = encoder_decoder(networks.MLP(2, SHAPE, hidden=(width,))), []
    x = make_data(5).double()

    def keep(t):
        sizes.append(t.nbytes)
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        objective.differentiable_loss(vae.model, vae.guide, x)
    return sum(sizes)


@pytest.mark.parametrize("gradient", [G.Pathwise, G.DReG])
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_decoder(gradient):
    whole, apart = (E.IWAE(20, gradient(), chunk=chunk) for chunk in (None, 4))
    assert kept_bytes(apart, 8) == kept_bytes(apart, 800)
    assert kept_bytes(whole, 800) > kept_bytes(whole, 8) + 20 * 5 * 800 * 8
    assert kept_bytes(apart, 8) < kept_bytes(whole, 8)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_modules_that_are_not_the_same_in_the_next_run_are_refused():
    x = make_data(5).double()
    batch = encoder_decoder(networks.MLP(2, SHAPE, hidden=(8,), normalization="batch"))
    spectral = encoder_decoder(networks.MLP(2, SHAPE, hidden=(8,)))
    nn.utils.parametrizations.spectral_norm(spectral.likelihood.network.layers[-1])
    for vae, message in ((batch, "BatchNorm normalises by all draws"), (spectral, "SpectralNorm changes its buffers")):
        with pytest.raises(ValueError, match=f"{message}.*leave chunk out"):
            E.IWAE(K, chunk=CHUNK).loss(vae.model, vae.guide, x)
        vae.eval()
        assert_chunks_change_nothing(lambda chunk: E.IWAE(K, chunk=chunk), vae, vae.model, vae.guide, x)
        assert not torch.nn.modules.module._global_forward_pre_hooks
    free = encoder_decoder(nn.Sequential(networks.MLP(2, 8, hidden=()), nn.BatchNorm1d(8, track_running_stats=False)))
    with pytest.raises(ValueError, match="BatchNorm1d normalises"):
        E.IWAE(K, chunk=CHUNK).loss(free.eval().model, free.guide, x)


@pytest.mark.parametrize("chunk", [1, CHUNK])
@pytest.mark.parametrize("options", [{"analytic_kl": True}, {"free_bits": 0.1}])
def test_a_divergence_from_a_prior_that_depends_on_other_draws_is_refused(options, chunk):
    two, x = two_programs()[1][0], torch.randn(6).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(two.u * x, 1.0))
            pyro.sample("z1", dist.Normal(two.h * z2, 1.0))

    assert torch.isfinite(E.ELBO(K, **options).differentiable_loss(two.model, guide, x))
    with pytest.raises(ValueError, match=r"distribution of 'z1' depends on other latent variables.*leave chunk out"):
        E.ELBO(K, chunk=chunk, **options).differentiable_loss(two.model, guide, x)


def test_a_divergence_from_a_prior_that_depends_on_enumerated_values_is_had_without_chunks():
    mixed = Mixture()
    once, often = (
        E.ELBO(k, G.Enumerate(), analytic_kl=True).bound(mixed.model, mixed.guide, torch.ones(2).double())
        for k in (1, K)
    )
    assert torch.allclose(once, often, rtol=1e-10)


def test_combinations_of_draws_and_no_number_of_draws_are_refused():
    with pytest.raises(ValueError, match=r"combinations of draws.*leave chunk out"):
        E.TMC(K, chunk=CHUNK)
    for chunk in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"chunk must be a whole number of at least 1, not {chunk}"):
            E.IWAE(K, chunk=chunk)


def test_a_step_is_not_compiled():
    x, ends = make_data(5).double(), []
    for compile in (False, True):
        vae = make_vae().double()
        optim = torch.optim.Adam(vae.parameters())
        svi = SVI(vae.model, vae.guide, optim, E.IWAE(K, chunk=CHUNK), compile=compile)
        pyro.set_rng_seed(1)
        if compile:
            with pytest.warns(UserWarning, match="cannot be compiled and runs as it is: chunk has the model run again"):
                svi.step(x)
        else:
            svi.step(x)
        svi.step(x)
        ends.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*ends)


# Command line --------------------------------------------------------------------------------------------------------


def test_chunk_is_an_option():
    options = ["--data", "digits", "--objective", "IWAE", "--objective.chunk", "5"]
    chosen = runs.parser().parse_args(options)
    assert chosen.objective.init_args.chunk == 5
