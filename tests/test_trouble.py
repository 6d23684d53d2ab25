"""A step whose loss or gradient is not finite: it is found, told, and not taken."""

import io
import itertools
import math
import shutil
import signal
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import in_step, make_data, make_vae, parameters, same
from pyro.infer import Trace_ELBO
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from pyrovae import fit, objectives, staging, watch
from pyrovae.checkpoint import read, signed
from pyrovae.interruption import Interrupted
from pyrovae.trouble import Sites

quiet = partial(fit, progress=False, batch_size=10)
BAD = 7  # the datum at which all goes wrong


class Broken(torch.autograd.Function):
    """x, with a gradient that is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class Trap(nn.Module):
    """A network that goes wrong at images that are all white."""

    def __init__(self, network, kind):
        super().__init__()
        self.network, self.kind = network, kind
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        y, white = self.network(x), x.flatten(1).mean(1) == 1
        self.seen.add_(float(self.training))
        if torch.is_grad_enabled() and (self.kind == "gradient" or (self.kind == "late" and self.seen > 10)):
            white |= self.kind == "late"
            y = y.index_put((white,), Broken.apply(y[white]))
        return y.masked_fill(white[:, None], math.nan) if self.kind == "loss" else y


def make(kind):
    vae, x = make_vae(), make_data(40)
    x[BAD] = 1.0
    if kind is not None:
        vae.encoder.network = Trap(vae.encoder.network, kind)
    return vae, x


def unchecked(vae):  # as data are checked before the training
    vae.check = lambda *data, name="x": None
    return vae


def state_before(step):
    """Parameters and buffers after all steps before one, where nothing goes wrong."""
    vae, x = make("nothing")
    in_step(vae, step - 1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        quiet(unchecked(vae), x)
    return vae.state_dict()


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("loss", r"the loss is nan .*: at site 'z' \(Normal\) loc is 10% NaN, else from .* to .*, and scale 10% NaN"),
        ("gradient", r"the loss is finite, but not its gradient .*the gradient by encoder.network.* more is .*% NaN"),
    ],
)
def test_the_first_step_that_is_not_finite_is_told_and_not_taken(tmp_path, monkeypatch, kind, words, every):
    monkeypatch.setattr(watch, "_EVERY", every)
    vae, x = make(kind)
    with pytest.raises(FloatingPointError, match=words) as caught:
        quiet(unchecked(vae), x, epochs=3, folder=tmp_path)
    assert "smaller learning rate" in str(caught.value)
    state = read(tmp_path / "trouble.pt")
    told = state["values"]["trouble"]
    assert f"in step {told['step']}, batch {told['step']} of epoch 1, of data" in str(caught.value)
    assert BAD in told["indices"]
    assert torch.equal(told["batch"][0], x[told["indices"]])
    assert told["step"] > 1  # or this would show little
    assert same(vae.state_dict(), state_before(told["step"]))
    assert read(tmp_path / "checkpoint.pt")["values"]["history"] == []
    # What is kept is a checkpoint from which the same comes again.
    shutil.copyfile(tmp_path / "trouble.pt", tmp_path / "checkpoint.pt")
    other, _ = make(kind)
    with pytest.raises(FloatingPointError) as again:
        quiet(unchecked(other), x, epochs=3, folder=tmp_path, resume=True)
    assert str(again.value).partition(" in step ")[2] == str(caught.value).partition(" in step ")[2]
    assert same(parameters(other), parameters(vae))


def test_so_many_batches_are_skipped_and_no_more(tmp_path):
    vae, x = make("gradient")
    with pytest.warns(UserWarning, match=r"not its gradient in batch \d of epoch \d: it is skipped, \d of at most 3"):
        history = quiet(unchecked(vae), x, epochs=2, max_skips=3, folder=tmp_path)
    assert history["skipped"] == [1, 1]
    assert all(p.isfinite().all() for p in vae.parameters())
    assert history["elbo"][0] > -14  # a mean over the data of the other batches
    with (
        pytest.warns(UserWarning, match="3 of at most 3"),
        pytest.raises(FloatingPointError, match="of epoch 4, of da"),
    ):
        quiet(unchecked(make("gradient")[0]), x, epochs=5, max_skips=3, folder=tmp_path, resume=True)


@pytest.mark.parametrize("objective", [objectives.ELBO(), Trace_ELBO()])
def test_an_epoch_of_which_all_batches_are_skipped_has_no_row(objective):
    vae, x = make("gradient")
    with (
        pytest.warns(UserWarning, match="it is skipped, 1 of at most 2") as told,
        pytest.raises(FloatingPointError, match="all batches of epoch 1 were skipped: try a smaller learning rate"),
    ):
        quiet(unchecked(vae), x[:10], epochs=2, max_skips=2, objective=objective)
    assert getattr(objective, "step", 1) == 1  # schedules go on
    assert told[0].filename == __file__


def fail():
    raise RuntimeError("of another kind")


def test_what_fails_otherwise_is_not_skipped():
    vae, x = make(None)
    in_step(vae, 2, fail)
    with pytest.raises(RuntimeError, match="of another kind"):
        quiet(vae, x, max_skips=9)


def test_trouble_that_cannot_be_kept_is_told_all_the_same(tmp_path):
    vae, x = make("gradient")
    (tmp_path / "trouble.pt").mkdir()
    with pytest.raises(FloatingPointError, match=r"not its gradient in step .*before that step; .*Is a directory"):
        quiet(unchecked(vae), x, folder=tmp_path)


def test_a_value_without_a_density_is_told_too():
    x = torch.tensor([0.0, math.nan])
    with Sites() as sites:
        pyro.sample("x", dist.Normal(0.0, 1.0, validate_args=True).expand([2]), obs=x)
    assert sites.first_off().startswith("at site 'x' (Normal) value is 50% NaN, else from 0 to 0, and loc")
    assert "log-density" not in sites.found[0]["statistics"]


def test_a_skipped_batch_leaves_no_trace():
    """The other steps are those of a training without it."""
    vae, x = make("gradient")
    with pytest.warns(UserWarning, match="it is skipped"):
        quiet(unchecked(vae), x[:20], epochs=1, shuffle=False, max_skips=1)  # the first of two
    other, _ = make("nothing")
    quiet(unchecked(other), x[10:20], epochs=1, shuffle=False)
    assert same(parameters(vae), parameters(other))


def test_an_anomaly_is_found_where_it_arises():
    vae, x = make("gradient")
    with (
        pytest.warns(UserWarning, match="Error detected in BrokenBackward"),
        pytest.raises(FloatingPointError, match=r"Function 'BrokenBackward' returned nan values.* in step \d"),
    ):
        quiet(unchecked(vae), x, epochs=1, detect_anomaly=True)
    vae, x = make("loss")
    with pytest.raises(
        FloatingPointError, match=r"loc of a Normal is out of .*: at site 'z' \(Normal\) loc is 10% NaN"
    ):
        quiet(unchecked(vae), x, epochs=1, detect_anomaly=True)
    with pytest.raises(ValueError, match="leave out compile, or detect_anomaly"):
        quiet(vae, x, detect_anomaly=True, compile=True)


def test_a_compiled_step_is_found_too(monkeypatch):
    monkeypatch.setattr(staging._Graph, "compile", lambda *_: True)
    vae, x = make(None)
    sgd = partial(torch.optim.SGD, lr=1e6)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in step 3, batch 3 .*at site"):
        quiet(vae, x, epochs=2, optimizer=sgd, compile=True, objective=objectives.IWAE(3))
    assert all(p.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("max_skips", [0, 1])
def test_draws_that_cannot_be_made_are_trouble_too(max_skips):
    """Where z is drawn from NaN as torch draws, without a gradient."""
    vae, x = make("loss")
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(FloatingPointError, match=r"normal expects all elements of std .* in step \d, batch \d of epoch"),
    ):
        quiet(unchecked(vae), x, objective=objectives.RWS(2), max_skips=max_skips)
    assert all(p.isfinite().all() for p in vae.parameters())


def test_what_is_told_is_seen_in_the_precision_of_the_step():
    vae, x = make("gradient")
    seen = []
    vae.encoder.network.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with pytest.raises(FloatingPointError, match="not its gradient"):
        quiet(unchecked(vae), x, precision="bfloat16")
    assert seen[-1]  # in what was run last, to look at its sites


def test_what_has_no_numbers_of_nan_is_trouble_too():
    """Where draws of NaN raise in the step after the one whose gradient was NaN."""
    vae, x = make("gradient")
    drawn = vae.likelihood.network.register_forward_pre_hook(lambda module, args: torch.bernoulli(args[0].sigmoid()))
    with pytest.raises(FloatingPointError, match="the loss is finite, but not its gradient"):
        quiet(unchecked(vae), x, epochs=2)
    drawn.remove()


@pytest.mark.parametrize(("every", "last_good"), [(1, 500), (50, 500), (1, 3)])
def test_what_was_good_may_be_epochs_ago(every, last_good, monkeypatch):
    """The steps since then are repeated through the ends of epochs, schedules and all."""
    monkeypatch.setattr(watch, "_EVERY", every)
    monkeypatch.setattr(watch, "_LAST_GOOD", last_good)
    options = {"valid": make_data(8), "scheduler": partial(ReduceLROnPlateau, patience=0, threshold=9.0)}
    vaes, x = [make("late")[0], make("nothing")[0]], make_data(40)
    with pytest.raises(FloatingPointError, match="in step 11, batch 3 of epoch 3"):
        quiet(vaes[0], x, **options)
    in_step(vaes[1], 10, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        quiet(vaes[1], x, **options)
    assert same(*(vae.state_dict() for vae in vaes))


class Leap(OneCycleLR):
    """A second step whose length overflows."""

    def __init__(self, optimizer):
        super().__init__(optimizer, max_lr=3e38, total_steps=2)

    def get_lr(self):
        return [3e38 if self.last_epoch else 1e-3]


def test_a_step_that_is_too_large_is_told():
    """Loss and gradient are finite, but not the parameters after it."""
    vae, x = make(None)
    with pytest.raises(FloatingPointError, match=r"\Athe parameters are not finite after batch 2 of epoch 1, though"):
        quiet(vae, x[:20], epochs=1, scheduler=Leap)
    assert all(p.isfinite().all() for p in vae.parameters())


def test_what_does_not_come_again_is_told():
    vae, x = make(None)
    calls = itertools.count(1)
    vae.encoder.network.register_forward_hook(lambda _, given, out: out * (math.nan if next(calls) == 9 else 1))
    with pytest.raises(FloatingPointError, match="but were when the steps were repeated: try a smaller"):
        quiet(vae, x, epochs=9)
    assert all(p.isfinite().all() for p in vae.parameters())


def test_a_checkpoint_that_is_not_finite_is_told_where_no_step_is_left(tmp_path):
    vae, x = make(None)
    in_step(vae, 4, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="after 4 of 4 steps"):
        quiet(vae, x, folder=tmp_path)
    state = read(tmp_path / "checkpoint.pt")
    next(iter(state["parts"]["vae"].values())).fill_(math.nan)
    torch.save(state, content := io.BytesIO())
    (tmp_path / "checkpoint.pt").write_bytes(signed(content.getvalue()))
    with pytest.raises(FloatingPointError, match="the parameters are not finite after batch 4 of epoch 1"):
        quiet(vae, x, folder=tmp_path, resume=True)
