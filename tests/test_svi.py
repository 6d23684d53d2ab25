import copy

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from programs import make_data, make_vae, parameters, same, train_by_pyro, train_by_svi
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import SVI, VAE, encoders, likelihoods, networks, objectives, priors


def make_svi(vae, optim=None, loss=None, **options):
    optim = optim or torch.optim.Adam(vae.parameters(), lr=1e-2)
    return SVI(vae.model, vae.guide, optim, loss or objectives.ELBO(), **options)


# A drop-in for Pyro's ------------------------------------------------------------------------------------------------


def test_it_is_a_pyro_svi():
    assert isinstance(make_svi(make_vae()), pyro.infer.SVI)


@pytest.mark.parametrize(
    "optim",
    [
        lambda: pyro.optim.Adam({"lr": 1e-2}),
        lambda: pyro.optim.Adam({"lr": 1e-2}, {"clip_norm": 0.5}),
        lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.1, "lrd": 0.9}),
        lambda: pyro.optim.Adam(lambda name: {"lr": 1e-2 if "encoder" in name else 1e-3}),
        lambda: pyro.optim.SGD(lambda module, name: {"lr": 1e-4 if "bias" in name else 1e-3}),
    ],
)
def test_pyro_optimisers_do_what_they_do_in_pyro(optim):
    x, ours, theirs = make_data(), make_vae(), make_vae()
    svi = pyro.infer.SVI(theirs.model, theirs.guide, optim(), Trace_ELBO())
    pyro.set_rng_seed(1)
    expected = [svi.step(x) for _ in range(5)]
    assert train_by_svi(ours, x, steps=5, optim=optim()) == expected
    assert same(parameters(ours), parameters(theirs))


def test_pyro_schedulers_do_what_they_do_in_pyro():
    x, vaes, ends = make_data(), (make_vae(), make_vae()), []
    for vae, kind in zip(vaes, (SVI, pyro.infer.SVI), strict=True):
        options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "gamma": 0.1}
        scheduler = pyro.optim.ExponentialLR(options)
        svi = kind(vae.model, vae.guide, scheduler, Trace_ELBO())
        pyro.set_rng_seed(1)
        for _ in range(3):
            svi.step(x)
            scheduler.step()
        ends.append(parameters(vae))
    assert same(*ends)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_pyro_optimisers_state_can_be_saved_and_loaded(tmp_path, scheduled):
    def make():
        options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "gamma": 0.5}
        return pyro.optim.ExponentialLR(options) if scheduled else pyro.optim.Adam({"lr": 1e-2})

    def run(svi, optim, steps):
        for _ in range(steps):
            svi.step(make_data())
            if scheduled:
                optim.step()

    whole, parts, optim = make_vae(), make_vae(), make()
    pyro.set_rng_seed(1)
    run(make_svi(whole, optim), optim, 6)
    pyro.set_rng_seed(1)
    optim = make()
    run(make_svi(parts, optim), optim, 3)
    optim.save(tmp_path / "optim.pt")
    optim = make()
    optim.load(tmp_path / "optim.pt")
    run(make_svi(parts, optim), optim, 3)
    assert same(parameters(parts), parameters(whole))


def test_a_state_that_pyros_svi_saved_is_refused_each_time(tmp_path):
    vae, optim = make_vae(), pyro.optim.Adam({"lr": 1e-2})
    pyro.infer.SVI(vae.model, vae.guide, optim, Trace_ELBO()).step(make_data())
    optim.save(tmp_path / "optim.pt")
    optim = pyro.optim.Adam({"lr": 1e-2})
    optim.load(tmp_path / "optim.pt")
    svi = make_svi(vae, optim)
    for _ in range(2):
        with pytest.raises(ValueError, match="one for each parameter"):
            svi.step(make_data())


def test_a_loss_that_is_nan_is_warned_of():
    vae = make_vae()
    svi = make_svi(vae)
    svi.step(make_data())
    with torch.no_grad():
        vae.likelihood.network.layers[1].bias[0] = float("nan")
    with pytest.warns(UserWarning, match="loss is NaN"):
        svi.step(make_data())


def test_a_refused_step_is_refused_again():
    svi = SVI(likelihood_of(), one_site("y"), pyro.optim.Adam({}), Trace_ELBO())
    for _ in range(2):
        with pytest.raises(ValueError, match="'z' is in the model but not in the guide"):
            svi.step(make_data())


def test_there_is_one_optimiser_over_all_parameters():
    vae = make_vae()
    svi = make_svi(vae, pyro.optim.Adam({"lr": 1e-2}))
    svi.step(make_data())
    (group,) = svi.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in vae.parameters()}


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (Trace_ELBO, {"num_particles": 2}),
        (TraceMeanField_ELBO, {}),
        (TraceEnum_ELBO, {"max_plate_nesting": 1, "strict_enumeration_warning": False}),
        (TraceGraph_ELBO, {}),
        (RenyiELBO, {"alpha": 0.5, "num_particles": 3}),
        (ReweightedWakeSleep, {"num_particles": 2}),
    ],
)
def test_any_elbo_of_pyro_takes_the_step_it_takes_in_pyro(loss, options):
    x, ours, theirs = make_data(), make_vae(), make_vae()
    optim = pyro.optim.Adam({"lr": 1e-2, "fused": True})
    svi = pyro.infer.SVI(theirs.model, theirs.guide, optim, loss(**options))
    pyro.set_rng_seed(1)
    expected = [svi.step(x) for _ in range(3)]
    assert train_by_svi(ours, x, steps=3, loss=loss(**options)) == expected
    assert same(parameters(ours), parameters(theirs))


def test_a_loss_may_be_a_function():
    x, vae = make_data(), make_vae()
    elbo = Trace_ELBO()
    losses = train_by_svi(vae, x, loss=elbo.differentiable_loss)
    assert losses == pytest.approx(train_by_pyro(make_vae(), x), rel=1e-6)


def test_our_objective_serves_pyros_svi():
    x, vae = make_data(), make_vae()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objectives.ELBO())
    pyro.set_rng_seed(1)
    losses = [svi.step(x) for _ in range(20)]
    assert losses == pytest.approx(train_by_pyro(make_vae(), x), rel=1e-5)


def test_evaluate_loss_takes_no_step_and_leaves_the_store_alone():
    x, vae = make_data(), make_vae()
    svi, before = make_svi(vae), parameters(vae)
    assert svi.evaluate_loss(x) == pytest.approx(svi.evaluate_loss(x), rel=0.2)
    assert same(parameters(vae), before)
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("loss", [objectives.ELBO(), Trace_ELBO(), RenyiELBO(num_particles=2)])
def test_evaluate_loss_leaves_running_means_alone(loss):
    vae = make_vae()
    vae.encoder = encoders.DiagonalNormal(networks.MLP((1, 4, 4), 6, normalization="batch"))
    before = {name: value.clone() for name, value in vae.named_buffers()}
    svi = make_svi(vae, loss=loss)
    svi.evaluate_loss(make_data())
    assert same(dict(vae.named_buffers()), before)
    svi.step(make_data())
    assert not same(dict(vae.named_buffers()), before)


def test_programs_with_params_and_autoguides_train_as_in_pyro():
    """z ~ N(0, 1), x | z ~ N(z, 1): p(z | x) = N(sum x / (n + 1), 1 / (n + 1))."""
    x = torch.tensor([1.0, 2.0, 4.5])

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("z", dist.Normal(loc, scale))

    svi = SVI(
        model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO(num_particles=8, vectorize_particles=True)
    )
    for _ in range(600):
        svi.step(x)
    assert pyro.param("loc").item() == pytest.approx(7.5 / 4, abs=0.1)
    assert pyro.param("scale").item() == pytest.approx(0.5, abs=0.1)
    auto = AutoNormal(model)
    svi = SVI(
        model, auto, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO(num_particles=8, vectorize_particles=True)
    )
    for _ in range(600):
        svi.step(x)
    assert auto.median()["z"].item() == pytest.approx(7.5 / 4, abs=0.1)


def test_a_param_first_met_in_the_check_is_drawn_as_in_pyro():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("a", lambda: torch.randn(())), 1.0), obs=x)

    ends = []
    for kind in (SVI, pyro.infer.SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        svi = kind(model, lambda x: None, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        svi.step(torch.ones(4))
        ends.append(pyro.param("a").item())
    assert ends[0] == ends[1]


def test_pytorchs_own_validation_is_left_as_it_was():
    was = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(False)
        train_by_svi(make_vae(), make_data(), steps=2)
        assert not torch.distributions.Distribution._validate_args
    finally:
        torch.distributions.Distribution.set_default_validate_args(was)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_optimisers_that_cannot_take_such_steps_are_refused(kind):
    vae = make_vae()
    with pytest.raises(ValueError, match=kind.__name__):
        make_svi(vae, kind(vae.parameters()))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0])
def test_a_norm_that_would_turn_the_step_round_is_refused(clip_norm):
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        make_svi(make_vae(), clip_norm=clip_norm)


def test_something_else_than_an_optimiser_is_refused():
    vae = make_vae()
    with pytest.raises(ValueError, match=r"torch.optim or pyro.optim optimiser, not float"):
        SVI(vae.model, vae.guide, 1e-3, Trace_ELBO())


# The step ------------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_over_all_parameters_together():
    x, vae = make_data(), make_vae()
    start = parameters(vae)
    svi = make_svi(vae, torch.optim.SGD(vae.parameters(), lr=1.0), clip_norm=0.1)
    svi.step(x)
    moved = torch.cat([(value - start[name]).flatten() for name, value in parameters(vae).items()])
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)


class Reads(TorchDispatchMode):
    """Counts what makes a host wait for a device: numbers read from tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_back_from_the_device_once():
    x, vae = make_data(), make_vae()
    svi = make_svi(vae, torch.optim.SGD(vae.parameters(), lr=1e-3), clip_norm=1.0)
    with Reads() as first:
        svi.step(x)
    assert first.count > 10  # it checks and validates
    with Reads() as reads:
        svi.step(x)
    assert reads.count == 1
    with Reads() as reads:
        svi.update(x)
    assert reads.count == 0


def test_validation_is_on_in_the_first_step_alone_and_then_as_it_was():
    x, vae, seen = make_data(), make_vae(), []
    vae.likelihood.register_forward_hook(lambda *_: seen.append(dist.is_validation_enabled()))
    svi = make_svi(vae)
    svi.step(x)
    assert seen[-1]
    svi.step(x)
    assert not seen[-1]
    assert dist.is_validation_enabled()
    assert pyro.infer.is_validation_enabled()


def test_a_batch_of_another_size_may_follow():
    x, vae = make_data(), make_vae()
    svi = make_svi(vae)
    assert svi.step(x) > svi.step(x[:5]) > 0


# Guards --------------------------------------------------------------------------------------------------------------


def step(model, guide, parameters, loss=None):
    SVI(model, guide, torch.optim.Adam(parameters, lr=1e-2), loss or Trace_ELBO()).step(make_data())


def test_a_network_that_is_cut_off_is_named():
    vae = make_vae()

    def guide(x):
        pyro.module("vae", vae)
        with torch.no_grad():
            q = vae.encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    with pytest.raises(ValueError, match=r"'vae.encoder.network.layers.1.weight' is not trained: .*detach"):
        step(vae.model, guide, vae.parameters())


def test_a_parameter_that_the_optimiser_does_not_hold_is_named():
    vae = make_vae()
    with pytest.raises(ValueError, match=r"'VAE\d+.encoder.*optimiser does not hold it"):
        step(vae.model, vae.guide, vae.likelihood.parameters())
    vae = make_vae()
    optim = torch.optim.Adam(vae.parameters())
    vae.load_state_dict({name: value.clone() for name, value in vae.state_dict().items()}, assign=True)
    with pytest.raises(ValueError, match="optimiser does not hold it"):
        make_svi(vae, optim).step(make_data())


def test_a_parameter_that_the_programs_do_not_use_is_told():
    vae, other = make_vae(), nn.Linear(3, 7)
    with pytest.raises(ValueError, match=r"shape \(7, 3\) that the optimiser holds received no gradient"):
        step(vae.model, vae.guide, [*vae.parameters(), *other.parameters()])


def test_a_parameter_on_which_no_density_depends_is_told():
    def model(x):
        pyro.param("mine", torch.ones(2))
        with pyro.plate("data of z", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.flatten(1)[:, :3])

    with pytest.raises(ValueError, match="parameter 'mine' is not trained: it is not used by the model or the guide"):
        SVI(model, one_site(), pyro.optim.Adam({}), Trace_ELBO()).step(make_data())


def test_a_network_without_pyro_module_is_told():
    vae = make_vae()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", vae.likelihood(pyro.sample("z", vae.prior())), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", vae.encoder(x))

    with pytest.raises(ValueError, match=r"pyro\.module"):
        SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).step(make_data())
    step(model, guide, vae.parameters(), objectives.ELBO())  # a torch optimiser knows its parameters


def test_a_parameter_that_does_not_move_is_named():
    vae = make_vae()
    with pytest.raises(ValueError, match=r"has a gradient but did not move: is its learning rate \(1e-30\)"):
        make_svi(vae, torch.optim.Adam(vae.parameters(), lr=1e-30)).step(make_data())
    make_svi(vae, torch.optim.Adam(vae.parameters(), lr=0.0)).step(make_data())  # a warm-up may begin at 0


@pytest.mark.filterwarnings("ignore:.*not registered in the param store")  # Pyro says so
def test_frozen_parameters_are_left_alone():
    vae = make_vae()
    vae.encoder.requires_grad_(False)
    before = parameters(vae)
    make_svi(vae, torch.optim.Adam(vae.parameters(), lr=1e-2)).step(make_data())
    after = parameters(vae)
    assert all(torch.equal(after[name], before[name]) == ("encoder" in name) for name in before)


def test_a_dead_unit_is_warned_of():
    vae = make_vae()
    with torch.no_grad():
        vae.likelihood.network.layers[1].bias.fill_(-100.0)  # its rectifiers never open
    with pytest.warns(UserWarning, match=r"the gradient was 0 in the first step for .*layers.1.weight"):
        make_svi(vae).step(make_data())


def one_site(name="z", event=3, batch=True):
    def program(x):
        with pyro.plate(f"data of {name}", len(x)):
            normal = dist.Normal(torch.zeros(len(x), event), torch.ones(event))
            pyro.sample(name, normal.to_event(1) if batch else normal)

    return program


def both(*programs):
    return lambda x: [program(x) for program in programs]


def likelihood_of(name="z", event=3, declared=3):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample(name, dist.Normal(torch.zeros(event), torch.ones(event)).to_event(1))
            logits = (z @ torch.ones(event, 16)).view(-1, 1, 4, 4)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(declared), obs=x)

    return program


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (likelihood_of(), one_site("y"), "'z' is in the model but not in the guide"),
        (likelihood_of(), one_site("x"), "'z' is in the model but not in the guide"),
        (likelihood_of(), both(one_site(), one_site("x")), "'x' is observed in the model but sampled in the guide"),
        (likelihood_of(), one_site(event=2), r"'z' has event shape \(3,\) in the model but \(2,\) in the guide"),
        (likelihood_of(), one_site(batch=False), r"at site z dim -1, 24 vs 3: declare .* by .to_event"),
        (likelihood_of(declared=2), one_site(), r"'x' has log-densities of shape \(24, 24\).* plates .* \(24,\)"),
    ],
)
def test_programs_that_do_not_fit_are_refused_with_both_shapes(model, guide, message):
    with pytest.raises(ValueError, match=message):
        SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).step(make_data())


def test_a_site_that_only_the_guide_has_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            for name in ("z", "extra"):
                pyro.sample(name, dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))

    with pytest.raises(ValueError, match="'extra' is in the guide but not in the model"):
        SVI(likelihood_of(), guide, pyro.optim.Adam({}), Trace_ELBO()).step(make_data())


def test_checking_leaves_random_state_and_buffers_alone():
    decode = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16), nn.Unflatten(-1, (1, 4, 4)))
    x = make_data()
    counts = []
    for kind in (SVI, pyro.infer.SVI):
        pyro.set_rng_seed(0)
        decoder = copy.deepcopy(decode)
        vae = VAE(
            priors.StandardNormal(2),
            likelihoods.Bernoulli(decoder),
            encoders.DiagonalNormal(networks.MLP((1, 4, 4), 4)),
        )
        svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        losses = [svi.step(x) for _ in range(3)]
        counts.append((losses, decoder[1].num_batches_tracked.item(), decoder[1].running_mean))
    assert counts[0][0] == counts[1][0]
    assert counts[0][1] == counts[1][1] == 3
    assert torch.equal(counts[0][2], counts[1][2])
