"""A staged step is the plain one: the same losses and parameters from the same random state, whatever is trained."""

import itertools
import shutil
import threading
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import toys
from programs import SHAPE, make_data, make_vae
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import (
    M2,
    SVI,
    VAE,
    VQVAE,
    AdversarialAutoencoder,
    AdversarialVB,
    Autoencoder,
    ConditionalVAE,
    DeepMarkovModel,
    HierarchicalVAE,
    IncompleteVAE,
    LadderVAE,
    MixtureVAE,
    TwoLevelVAE,
    baselines,
    conditions,
    corruptions,
    encoders,
    evaluation,
    fit,
    gradients,
    likelihoods,
    models,
    networks,
    objectives,
    priors,
    schedules,
    staging,
)
from pyrovae.check import unvalidated
from pyrovae.data import Intensities, Levels
from pyrovae.exact import GaussianMixture

OWN = ("Bernoulli", "OneHotCategorical", "RelaxedBernoulli", "RelaxedOneHotCategorical")
compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@pytest.fixture
def uncompiled(monkeypatch):
    """The traced graph, operation by operation, and how many there are."""
    made = []
    monkeypatch.setattr(staging._Graph, "compile", lambda graph, *_: made.append(graph) or True)
    return made


def trained(make, compile, steps=12, batches=None, **options):
    """Losses and parameters after some steps in float64, of which the first is plain, the second traced."""
    vae, objective, *data = make()
    optim = torch.optim.Adam([*vae.parameters(), *getattr(objective, "parameters", list)()], lr=0.002)
    svi = SVI(vae.model, vae.guide, optim, objective, compile=compile, **options)
    pyro.set_rng_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the gradient was 0 in the first step")
        losses = [svi.step(*b) for _, b in zip(range(steps), itertools.cycle([(x,) for x in batches or ()] or [data]))]
    return torch.tensor(losses, dtype=torch.float64), vae.state_dict()


def assert_same(make, tolerance=1e-8, **options):
    """Staged and plain steps agree to a relative tolerance, and the parameters moved."""
    (plain, ends), (staged, found) = (trained(make, compile, **options) for compile in (False, True))
    torch.testing.assert_close(staged, plain, rtol=tolerance, atol=1e-9)
    torch.testing.assert_close(found, ends, rtol=tolerance, atol=1e-9)
    start = make()[0].state_dict()
    assert any(not torch.equal(start[name], value) for name, value in ends.items())


def toy(objective="ELBO", gradient=None, **names):
    def make():
        *parts, x = toys.parts(**names)
        target = toys.target_of(objective, gradient)[0] if isinstance(objective, str) else objective()
        return VAE(*parts).double(), target.double(), x.double()

    return make


def components():
    """Each component once, in a model that takes it."""
    for prior in priors.__all__:
        encoder = {"HypersphericalUniform": "PowerSpherical"}.get(prior, prior if prior in OWN else "DiagonalNormal")
        yield {"prior": prior, "encoder": encoder}
    for encoder in encoders.__all__:
        prior = {"PowerSpherical": "HypersphericalUniform"}.get(
            encoder, encoder if encoder in OWN else "StandardNormal"
        )
        if encoder != "DiagonalNormal" and not (encoder in OWN or encoder == "PowerSpherical"):
            yield {"prior": prior, "encoder": encoder}
    yield from ({"likelihood": name} for name in likelihoods.__all__)
    yield from ({"network": name} for name in networks.__all__)


def estimations():
    """Each bound with each estimator that it takes, of a continuous latent variable, or else of a discrete one."""
    for objective, gradient in itertools.product(objectives.__all__, gradients.__all__):
        for prior, encoder in (("StandardNormal", "DiagonalNormal"), ("Bernoulli", "Bernoulli")):
            chosen = {"objective": objective, "gradient": gradient, "prior": prior, "encoder": encoder}
            if toys.reason(**chosen) is None:
                yield chosen
                break


def named(chosen):
    return "-".join(chosen.values())


@pytest.mark.parametrize("chosen", [*components()], ids=named)
def test_every_component_is_staged(uncompiled, chosen):
    discrete = chosen.get("encoder") in ("Bernoulli", "OneHotCategorical")
    assert_same(toy(gradient="ScoreFunction" if discrete else None, **chosen))
    assert len(uncompiled) == 1


@pytest.mark.parametrize("chosen", [*estimations()], ids=named)
def test_every_objective_with_every_estimator_is_staged(uncompiled, chosen):
    assert_same(toy(**chosen))
    assert len(uncompiled) == 1


def test_that_is_all_there_is():
    used = {(c["objective"], c["gradient"]) for c in estimations()}
    assert {o for o, _ in used} == {*objectives.__all__}
    assert {g for _, g in used} == {*gradients.__all__}
    assert {type(family(kind)).__name__ for kind in (*FAMILY, *corruptions.__all__)} == {*models.__all__} - {"VAE"}


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_pyros_elbos_are_staged(uncompiled, elbo, num_particles):
    def make():
        return make_vae().double(), elbo(num_particles=num_particles), make_data().double()

    assert_same(make)
    assert len(uncompiled) == 1


FAMILY = {
    "conditional": objectives.IWAE(num_particles=3),
    "semi-supervised": objectives.ELBO(gradient=gradients.Enumerate()),
    "two levels": objectives.ELBO(gradient=gradients.STL()),
    "upwards": objectives.IWAE(num_particles=3),
    "ladder": objectives.IWAE(num_particles=3, gradient=gradients.DReG()),
    "mixture": objectives.ELBO(gradient=gradients.Enumerate()),
    "codes by averages": objectives.ELBO(),
    "codes by gradients": objectives.IWAE(num_particles=3),
    "adversarial": objectives.ELBO(num_particles=3),
    "adaptive contrast": objectives.ELBO(beta=0.5),
    "aggregated": objectives.ELBO(),
    "markov": objectives.IWAE(num_particles=3),
    "incomplete": objectives.IWAE(num_particles=3),
}


def family(kind):
    """A model of each kind, of data of five dimensions."""
    torch.manual_seed(0)

    def normal(given, size):
        return encoders.DiagonalNormal(networks.MLP(given, 2 * size, hidden=(6,)))

    likelihood = likelihoods.Normal(networks.MLP(3, 5, hidden=(6,)))
    if kind == "mixture":
        return MixtureVAE(priors.MixtureOfNormals(3, 4), likelihood, normal(5, 3))
    if kind == "incomplete":
        return IncompleteVAE(priors.StandardNormal(3), likelihood, normal(5, 3))
    if kind == "conditional":
        given = likelihoods.Normal(networks.MLP(3 + 2, 5, hidden=(6,)))
        return ConditionalVAE(normal(2, 3), given, normal(5 + 2, 3), conditions.OneHot(2))
    if kind == "semi-supervised":
        given = likelihoods.Normal(networks.MLP(3 + 2, 5, hidden=(6,)))
        return M2(priors.StandardNormal(3), given, normal(5 + 2, 3), networks.MLP(5, 2, hidden=(6,)))
    if kind == "two levels":
        given = likelihoods.Normal(networks.MLP(3 + 2, 5, hidden=(6,)))
        return TwoLevelVAE(priors.VampPrior(2, 3), normal(2, 3), given, normal(5, 2), normal(5 + 2, 3))
    if kind.startswith("codes"):
        codebook = networks.Codebook(7, (1, 3), decay=0.9 if "averages" in kind else None, restart=0.5)
        return VQVAE(networks.MLP(5, 3), codebook, likelihood, priors.AutoregressiveCodes(3, 7))
    if kind in ("adversarial", "adaptive contrast"):
        encoder = networks.Joined(networks.MLP(5, 6), networks.MLP(2 + 6, 3))
        discriminator = networks.Joined(networks.MLP(5, 6), networks.MLP(3 + 6, 1))
        reference = normal(5, 3) if kind == "adaptive contrast" else None
        return AdversarialVB(priors.StandardNormal(3), likelihood, encoder, discriminator, 2, reference)
    if kind == "aggregated":
        return AdversarialAutoencoder(priors.StandardNormal(3), likelihood, normal(5, 3), networks.MLP(3, 1))
    if kind == "markov":  # five steps of one number
        transition, likelihood = normal(3, 3), likelihoods.Normal(networks.MLP(3, 1, hidden=(6,)))
        reading = networks.BackwardRecurrent(1, 4), networks.Combiner(3, 4), normal(4, 3)
        return DeepMarkovModel(priors.StandardNormal(3), transition, likelihood, *reading, steps=5, product=True)
    layers = priors.StandardNormal(2), [normal(2, 3)], likelihood
    if kind == "upwards":
        return HierarchicalVAE(*layers, [normal(5, 3), normal(3, 2)])
    if kind == "ladder":
        return LadderVAE(*layers, [networks.MLP(5, 6), networks.MLP(6, 6)], [normal(6, 3), normal(6, 2)])
    return Autoencoder(networks.MLP(5, 3), likelihood, getattr(corruptions, kind)())


def family_data(kind):
    x = torch.linspace(-1, 1, 40).reshape(8, *((5, 1) if kind == "markov" else (5,))).double()
    given = {"conditional": torch.arange(8) % 2, "semi-supervised": torch.arange(8) % 3 - 1, "incomplete": x > 0}
    return (x, given[kind]) if kind in given else (x,)


@pytest.mark.parametrize("kind", [*FAMILY, *corruptions.__all__])
def test_every_model_of_the_family_is_staged(uncompiled, kind):
    objective = FAMILY.get(kind, objectives.ELBO())
    # Codes start anew once they have not been used for a while.
    assert_same(lambda: (family(kind).double(), objective, *family_data(kind)), steps=50 if "codes" in kind else 12)
    assert len(uncompiled) == 1


def test_a_mixture_of_which_all_is_known_is_staged(uncompiled):
    model = GaussianMixture()
    x, objective = model.sample(8, seed=1), objectives.ELBO(num_particles=1, gradient=gradients.Enumerate())
    assert_same(lambda: (GaussianMixture().vae, objective, x))
    assert len(uncompiled) == 1


def test_pyros_elbo_of_a_discrete_guide_is_staged(uncompiled):
    def make():
        *parts, x = toys.parts(prior="Bernoulli", encoder="Bernoulli")
        return VAE(*parts).double(), Trace_ELBO(), x.double()

    assert_same(make)
    assert len(uncompiled) == 1


# What changes from step to step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        lambda: objectives.ELBO(beta=schedules.Linear(steps=20)),
        lambda: objectives.ELBO(capacity=schedules.Cyclical(steps=20, cycles=2, end=3.0), analytic_kl=True),
        lambda: objectives.ELBO(beta=schedules.Linear(steps=20), gradient=gradients.STL(), num_particles=2),
        lambda: objectives.ELBO(free_bits=0.2),
        lambda: objectives.IWAE(4, gradients.ScoreFunction(baselines.MovingAverage())),
        lambda: objectives.ELBO(4, gradients.ScoreFunction(baselines.Learned(networks.MLP(SHAPE, 1, hidden=(4,))))),
    ],
)
def test_schedules_and_baselines_go_on(uncompiled, objective):
    assert_same(lambda: (make_vae().double(), objective().double(), make_data().double()), steps=25)
    assert len(uncompiled) == 1


def test_a_weight_that_is_set_anew_counts(uncompiled):
    def losses(compile):
        vae, x = make_vae().double(), make_data().double()
        objective = objectives.ELBO()
        svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), objective, compile=compile)
        pyro.set_rng_seed(1)
        found = []
        for beta in (1.0, 1.0, 0.5, 0.0, schedules.Linear(8)):
            objective.beta = beta
            found.append(svi.step(x))
        return found

    assert losses(True) == pytest.approx(losses(False), rel=1e-9)
    assert len(uncompiled) == 1


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_buffers_and_dropout_go_on(uncompiled, normalization):
    def make():
        torch.manual_seed(0)
        hidden = {"hidden": (8,), "normalization": normalization, "dropout": 0.2}
        decode, encode = networks.MLP(2, SHAPE, **hidden), networks.MLP(SHAPE, 4, **hidden)
        vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode))
        return vae.double(), objectives.IWAE(3), make_data().double()

    assert_same(make)


def test_training_and_evaluation_mode_are_each_traced_once(uncompiled):
    def losses(compile):
        torch.manual_seed(0)
        decode, encode = networks.MLP(2, SHAPE, dropout=0.5), networks.MLP(SHAPE, 4)
        vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode)).double()
        svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), objectives.ELBO(), compile=compile)
        pyro.set_rng_seed(1)
        return [svi.step(make_data().double()) for mode in (1, 1, 1, 0, 0, 1, 0) if vae.train(mode == 1)]

    assert losses(True) == pytest.approx(losses(False), rel=1e-9)
    assert len(uncompiled) == 2


def test_a_frozen_parameter_stays_and_thawed_moves(uncompiled):
    vae, x = make_vae(), make_data()
    svi = SVI(vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=1e-2), objectives.ELBO(), compile=True)
    moved = []
    for frozen in (False, False, True, True, False):
        vae.encoder.requires_grad_(not frozen)
        before = [p.detach().clone() for p in vae.encoder.parameters()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*because requires_grad=False")
            svi.step(x)
        moved.append(any(not torch.equal(p, was) for p, was in zip(vae.encoder.parameters(), before, strict=True)))
    assert moved == [True, True, False, False, True]


def swap(vae, svi):
    vae.likelihood.network = networks.MLP(3, SHAPE, hidden=(16,))
    vae.likelihood.network.load_state_dict(make_vae(seed=5).likelihood.network.state_dict())


def thin(vae, svi):
    vae.encoder.network.layers[2].p = 0.9


def tighten(vae, svi):
    svi.clip_norm = 1e-3


def more(vae, svi):
    svi.objective.num_particles = 4


def lists(vae, svi):
    svi.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


@pytest.mark.parametrize("change", [swap, thin, tighten, more, lists])
def test_what_is_set_between_steps_counts(uncompiled, change):
    def losses(compile):
        torch.manual_seed(0)
        vae, x = make_vae(), make_data().double()
        vae.encoder.network.layers.insert(2, nn.Dropout(0.1))
        optim = torch.optim.SGD(vae.double().parameters(), lr=1e-3)
        svi = SVI(vae.model, vae.guide, optim, objectives.IWAE(2), clip_norm=1.0, compile=compile)
        pyro.set_rng_seed(1)
        first = [svi.step(x) for _ in range(3)]
        change(vae, svi)
        vae.double()
        return first + [svi.step(x) for _ in range(3)]

    assert losses(True) == pytest.approx(losses(False), rel=1e-9)
    assert len(uncompiled) == 2


def test_tensors_that_scale_sites_are_not_taken_for_equal(uncompiled):
    half, double = (torch.tensor(v, dtype=torch.float64) for v in (0.5, 2.0))

    def model(x):
        w = pyro.param("w", torch.ones(3, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=half):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            with pyro.poutine.scale(scale=double):
                pyro.sample("x", dist.Normal(w * z, 1.0).to_event(1), obs=x)

    def guide(x):
        a = pyro.param("a", torch.zeros(3, dtype=torch.float64))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=half):
            pyro.sample("z", dist.Normal(a * x, 0.5).to_event(1))

    found = []
    for compile in (False, True):
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objectives.ELBO(), compile=compile)
        pyro.set_rng_seed(1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the step cannot be compiled")
            found.append([svi.step(torch.ones(10, 3, dtype=torch.float64)) for _ in range(6)])
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_parameters_with_gaps_in_memory_are_not_fused():
    def end(**options):
        weight = nn.Parameter(torch.arange(20.0).reshape(4, 5)[:, :3])

        def model(x):
            pyro.module("weight", nn.ParameterList([weight]))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(weight.sum(0), 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x: None, torch.optim.Adam([weight], lr=0.1, **options), Trace_ELBO())
        for _ in range(5):
            svi.step(torch.zeros(6, 3))
        return weight.detach().clone()

    assert torch.equal(end(), end(fused=False))


def test_batches_of_a_new_shape_are_traced_once(uncompiled):
    x = make_data().double()
    batches = [x, x[:7], x[3:], x[:7] * 0, x]
    assert_same(lambda: (make_vae().double(), objectives.ELBO(), x), batches=batches, steps=12)
    assert len(uncompiled) == len({len(b) for b in batches})


def test_schedulers_and_clipping_go_on(uncompiled):
    def ends(compile):
        vae, x = make_vae(), make_data()
        optim = torch.optim.Adam(vae.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optim, max_lr=1e-2, total_steps=20)
        svi = SVI(vae.model, vae.guide, optim, objectives.ELBO(), clip_norm=0.5, compile=compile)
        pyro.set_rng_seed(1)
        for _ in range(20):
            svi.step(x)
            scheduler.step()
        return vae.state_dict()

    torch.testing.assert_close(ends(True), ends(False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "optim",
    [lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.1, "lrd": 0.9}), lambda: pyro.optim.SGD({"lr": 1e-3})],
)
def test_pyros_optimisers_go_on(uncompiled, optim):
    ends = []
    for compile in (False, True):
        vae, x = make_vae().double(), make_data().double()
        svi = SVI(vae.model, vae.guide, optim(), Trace_ELBO(), compile=compile)
        pyro.set_rng_seed(1)
        ends.append(([svi.step(x) for _ in range(10)], vae.state_dict()))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-9)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [Intensities, lambda x: Levels((x * 4).round() / 4, 5)])
def test_data_that_stand_for_their_draws_are_drawn_in_each_step(uncompiled, kind):
    def make():
        vae = make_vae() if kind is Intensities else make_vae(likelihood=likelihoods.ContinuousBernoulli)
        grey = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return vae.double(), objectives.ELBO(), kind(grey)

    found = [trained(make, compile, generator=torch.Generator().manual_seed(3)) for compile in (False, True)]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=0.0)
    again = trained(make, True, generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(again[0], found[1][0])
    assert len(uncompiled) == 2


def test_programs_of_ones_own_are_staged(uncompiled):
    """Parameters of Pyro's store, a constrained one among them, a closed-over tensor, and arguments by name."""
    centre = torch.zeros(3, dtype=torch.float64)

    def model(x, *, shift, times):
        sd = pyro.param("sd", torch.tensor(2.0, dtype=torch.float64), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(centre, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(times * z + shift["by"], sd).to_event(1), obs=x)

    def guide(x, *, shift, times):
        loc = pyro.param("loc", torch.zeros(20, 3, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    ends = []
    for compile in (False, True):
        pyro.clear_param_store()
        centre.zero_()
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objectives.ELBO(), compile=compile)
        pyro.set_rng_seed(1)
        losses = []
        for t in range(12):
            centre.add_(0.1)
            losses.append(svi.step(x, shift={"by": torch.full((3,), 0.1 * t, dtype=torch.float64)}, times=1 + t // 6))
        ends.append((losses, pyro.param("sd").item()))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-9)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-9)
    assert len(uncompiled) == 2  # as `times` is a number


# What cannot be staged ------------------------------------------------------------------------------------------------


def falls_back(make, match, **options):
    plain = trained(make, False, steps=8, **options)
    with pytest.warns(UserWarning, match=match) as warned:
        found = trained(make, True, steps=8, **options)
    assert len(warned) == 1
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[1], plain[1], rtol=0.0, atol=0.0)


def test_a_step_that_looks_at_values_runs_as_it_is(uncompiled):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = networks.MLP(3, SHAPE, hidden=(8,), normalization="batch", dropout=0.1)

        def forward(self, z):
            logits = self.network(z)
            return logits if logits.sum() > 0 else 2 * logits  # after buffers and random numbers have moved

    def make():
        torch.manual_seed(0)
        vae = make_vae()
        vae.likelihood.network = Branching()
        return vae, objectives.ELBO(), make_data()

    falls_back(make, r"the step cannot be compiled and runs as it is: what it does depends on the values of a tensor")
    assert uncompiled == []


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (lambda network, seen: network.register_forward_hook(lambda *_: seen.append(1)), "the module MLP has a hook"),
        (
            lambda network, seen: [*network.parameters()][1].register_hook(lambda _: seen.append(1)),
            r"a parameter of shape \(16,\) has a hook",
        ),
    ],
)
def test_a_hook_is_run_in_each_step(uncompiled, hook, why):
    seen = []

    def make():
        vae = make_vae()
        hook(vae.encoder.network, seen)
        return vae, objectives.ELBO(), make_data()

    falls_back(make, why)
    assert len(seen) >= 2 * 8


def test_what_another_thread_calls_is_none_of_its_parts(uncompiled):
    layer, hooked, seen = nn.Linear(2, 2), nn.Linear(2, 2), []
    hooked.register_forward_hook(lambda *_: seen.append(1))

    def f(x):
        thread = threading.Thread(target=hooked, args=(torch.ones(1, 2),))
        thread.start()
        thread.join()
        return [layer(x)]

    staged, x = staging.Staged(f), torch.ones(1, 2)
    for _ in range(3):
        assert torch.equal(staged(x)[0], layer(x))
    assert len(uncompiled) == 1
    assert len(seen) == 2  # as it is, and traced; the graph is of tensors alone


def test_a_hook_that_comes_later_is_run(uncompiled):
    vae, x, seen = make_vae(), make_data(), []
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), objectives.ELBO(), compile=True)
    for _ in range(3):
        svi.step(x)
    vae.encoder.network.register_forward_hook(lambda *_: seen.append(1))
    with pytest.warns(UserWarning, match="has a hook"):
        svi.step(x)
    svi.step(x)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (lambda module, z: z * float(len(z.tolist()[0]) > 1), "which it reads by tolist"),
        (lambda module, z: z * float(z.detach().numpy().mean() > 0), "which it reads by numpy"),
        (
            lambda module, z: (torch.random.manual_seed(3), z + 0.1 * torch.randn_like(z))[1],
            "sets the state of the random",
        ),
        (lambda module, z: (setattr(module, "calls", module.calls + 1), z)[1], "sets its 'calls' anew"),
    ],
)
def test_what_no_graph_can_tell_is_refused(uncompiled, does, why):
    class Peculiar(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.calls = networks.MLP(3, SHAPE, hidden=(8,)), 0

        def forward(self, z):
            return self.network(does(self, z))

    def make():
        torch.manual_seed(0)
        vae = make_vae()
        vae.likelihood.network = Peculiar()
        return vae, objectives.ELBO(), make_data()

    falls_back(make, why)
    assert uncompiled == []


def test_numbers_that_change_in_each_step_are_told_to_be_passed_as_tensors(uncompiled, monkeypatch):
    monkeypatch.setattr(staging, "_MOST", 3)
    times, x = staging.Staged(lambda x, by: [x * by], "f"), torch.ones(2)
    with pytest.warns(UserWarning, match="f cannot be compiled and runs as it is: it was traced 3 times") as warned:
        found = [times(x, float(by))[0].tolist() for by in (1, 2, 3, 4, 5) for _ in range(3)]
    assert found == [[by, by] for by in (1, 2, 3, 4, 5) for _ in range(3)]
    assert len(warned) == 1
    assert len(uncompiled) == 3


def test_an_elbo_that_reads_its_loss_runs_as_it_is(uncompiled):
    falls_back(lambda: (make_vae(), RenyiELBO(alpha=0.5, num_particles=3), make_data()), "RenyiELBO reads its loss")


def test_a_handler_around_the_step_takes_part(uncompiled):
    vae, x = make_vae(), make_data()
    svi = SVI(vae.model, vae.guide, torch.optim.SGD(vae.parameters(), lr=0.0), objectives.ELBO(), compile=True)
    for _ in range(3):
        whole = svi.evaluate_loss(x)
        svi.step(x)
    pyro.set_rng_seed(1)
    whole = svi.step(x)
    pyro.set_rng_seed(1)
    with pyro.poutine.scale(scale=0.5):
        assert svi.step(x) == pytest.approx(whole / 2, rel=1e-6)


def test_without_a_compiler_the_graph_runs_operation_by_operation():
    def make():
        return make_vae(), objectives.ELBO(), make_data()

    plain = trained(make, False, steps=5)
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.warns(UserWarning, match="the step is traced, but its graph is not compiled, which") as warned:
        found = trained(make, True, steps=5)
    assert len(warned) == 1
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


# Compiled -------------------------------------------------------------------------------------------------------------


def test_fit_is_the_same_and_goes_on_after_a_stop(uncompiled, tmp_path):
    x = Intensities(torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0)))
    options = {"batch_size": 20, "progress": False, "objective": objectives.ELBO(2, beta=schedules.Linear(5))}

    def history(epochs, **more):
        vae = make_vae()
        return fit(vae, x, torch.bernoulli(x), epochs=epochs, **options, **more), vae.state_dict()

    (plain, ends), (staged, found) = history(4), history(4, compile=True)
    for column in ("objective", "elbo", "reconstruction", "kl", "valid_elbo"):
        assert staged[column] == pytest.approx(plain[column], rel=1e-5)
    torch.testing.assert_close(found, ends, rtol=1e-5, atol=1e-6)
    history(2, compile=True, folder=tmp_path)
    resumed, again = history(4, compile=True, folder=tmp_path, resume=True)
    assert resumed["elbo"] == staged["elbo"]
    assert all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize("objective", [objectives.ELBO(gradient=gradients.Concrete()), Trace_ELBO()])
def test_fit_tells_the_elbo_of_a_staged_step(uncompiled, objective):
    rows = []
    for compile in (False, True):
        *parts, x = toys.parts(prior="Bernoulli", encoder="Bernoulli")
        vae = VAE(*parts)
        rows.append(fit(vae, x, epochs=3, batch_size=16, objective=objective, progress=False, compile=compile))
    for column in ("objective", "elbo", "reconstruction", "kl"):
        assert rows[1][column] == pytest.approx(rows[0][column], rel=1e-5)


def test_evaluation_is_the_same(uncompiled, monkeypatch):
    vae, x = make_vae(), make_data(50)
    monkeypatch.setattr(evaluation, "_CHUNK", 64 * 16 * 8)  # 64 draws for each of 8 data at a time
    for found in (evaluation.scores, evaluation.log_likelihood):
        plain, staged = (found(vae, x, num_samples=150, seed=2, compile=compile) for compile in (False, True))
        torch.testing.assert_close(staged, plain, rtol=1e-5, atol=1e-5)
    assert len(uncompiled) == 2  # one for each, whatever is left of data and draws


@compiler
@pytest.mark.parametrize(
    "make",
    [
        lambda: (make_vae().double(), objectives.IWAE(3, gradients.DReG()), make_data().double()),
        toy(gradient="ScoreFunction", prior="Bernoulli", encoder="Bernoulli"),
        toy(objective="RWS", gradient="Sleep", prior="MixtureOfNormals"),
        toy(lambda: objectives.BetaTCVAE(stratified=True, num_data=100)),
        toy(lambda: objectives.FactorVAE(toys.K, discriminator=networks.MLP(toys.D, 1, hidden=()))),
        toy(objective="WAE"),
    ],
)
def test_compiled_steps_are_the_plain_ones(make, monkeypatch):
    monkeypatch.setenv("CI", "1")  # where the compiler is stricter about what it could decompose
    # For what lies between two products of matrices the C++ compiler runs for 2 s; the first case has hidden layers.
    monkeypatch.setitem(toys.SMALL, "networks.MLP", {"hidden": ()})
    assert_same(make)


# Validation -----------------------------------------------------------------------------------------------------------


def test_validation_comes_back_when_no_thread_is_without_it():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with unvalidated():
            inside.set()
            leave.wait(10)

    with pyro.validation_enabled(True):
        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait(10)
        with unvalidated():
            assert not dist.is_validation_enabled()
        assert not dist.is_validation_enabled()  # the other thread is still within
        leave.set()
        thread.join()
        assert dist.is_validation_enabled()
        assert pyro.infer.is_validation_enabled()
