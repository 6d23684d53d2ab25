import csv
import gc
import math
import signal
import time
from functools import partial

import fresh
import pyro
import pytest
import torch
from discrete import make_bit_vae
from programs import SHAPE, make_data, make_vae, parameters, same
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.optim.lr_scheduler import LinearLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import TensorDataset

from pyrovae import (
    SVI,
    VAE,
    baselines,
    encoders,
    evaluation,
    fit,
    gradients,
    likelihoods,
    networks,
    objectives,
    priors,
    schedules,
)
from pyrovae.data import Intensities

quiet = partial(fit, progress=False)


def sgd(lr):
    return partial(torch.optim.SGD, lr=lr)


# What it does --------------------------------------------------------------------------------------------------------


def test_it_raises_the_bound_on_data_it_has_not_seen():
    vae, data = make_vae(), make_data(400)
    train, valid = data[::2], data[1::2]
    before = evaluation.elbo(vae, valid).value.mean()
    history = quiet(vae, train, valid, epochs=60, batch_size=20)
    after = evaluation.elbo(vae, valid).value.mean()
    # Pixels of 0.1 and 0.9: -16 H(0.1) - log 2 = -5.9 nats at best, -16 log 2 = -11.1 without any structure.
    assert before < -10.5
    assert after > -7.5
    assert history["valid_elbo"][-1] == pytest.approx(after.item(), rel=1e-6)


def test_history_has_each_term_on_its_own(tmp_path):
    history = quiet(make_vae(), make_data(), make_data(), epochs=3, batch_size=10, folder=tmp_path)
    assert history["epoch"] == [1, 2, 3]
    for row in history:
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"])
        assert row["valid_elbo"] == pytest.approx(row["valid_reconstruction"] - row["valid_kl"], rel=1e-5)
        assert row["objective"] == pytest.approx(row["elbo"], rel=1e-5)
    with (tmp_path / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == list(history)


def test_terms_are_means_over_data_whatever_the_batches():
    """With a learning rate of 0 the epoch's means must be those of the evaluation, the last, smaller batch included."""
    vae, x = make_vae(), make_data(50)
    history = quiet(vae, x, epochs=400, batch_size=48, optimizer=sgd(0.0))
    expected = evaluation.elbo(vae, x, num_samples=400)
    for name in ("reconstruction", "kl"):
        draws = torch.tensor(history[name])
        error = draws.std().item() / 400**0.5
        assert draws.mean().item() == pytest.approx(getattr(expected, name).mean().item(), abs=5 * error)
        assert error < 0.03


@pytest.mark.parametrize(
    ("objective", "equal"),
    [
        (Trace_ELBO(), True),
        (Trace_ELBO(num_particles=3), True),
        (Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1), True),
        (TraceMeanField_ELBO(), False),
        (RenyiELBO(num_particles=4), False),
        (ReweightedWakeSleep(num_particles=2, max_plate_nesting=1), False),
        (objectives.ELBO(num_particles=3), True),
    ],
)
def test_any_objective_tells_the_terms_of_the_elbo(objective, equal):
    vae, x = make_vae(), make_data(100)
    history = quiet(vae, x, epochs=30, batch_size=25, objective=objective, optimizer=sgd(0.0))
    expected = evaluation.elbo(vae, x, num_samples=200)
    for name in ("reconstruction", "kl"):
        draws = torch.tensor(history[name])
        tolerance = 5 * draws.std().item() / 30**0.5
        assert draws.mean().item() == pytest.approx(getattr(expected, name).mean().item(), abs=tolerance)
    assert (history["objective"][0] == pytest.approx(history["elbo"][0], rel=1e-5)) == equal


def test_intensities_are_drawn_anew_each_epoch_and_grey_data_refused():
    vae, x = make_vae(), torch.full((30, 1, 4, 4), 0.5)
    history = quiet(vae, Intensities(x), epochs=4, optimizer=sgd(0.0))
    assert len(set(history["reconstruction"])) == 4
    with pytest.raises(ValueError, match=r"train\[0, 0, 0, 0\] is 0.5 .*binarize.*Intensities"):
        quiet(vae, x)
    with pytest.raises(ValueError, match="valid"):
        quiet(vae, make_data(), valid=x)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 1, 4, 4), "empty"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 1, 4, 4), math.nan), "finite"),
        (torch.zeros(3, 1, 4, 5), r"\(1, 4, 5\)"),
        (torch.zeros(3, 1, 4, 4).to_sparse(), "must be dense tensors that hold values"),
        (torch.zeros(3, 1, 4, 4, device="meta"), "must be dense tensors that hold values"),
        (TensorDataset(torch.full((3, 1, 4, 4), 0.3)), "binarize"),
        (TensorDataset(torch.cat([make_data(), torch.full((3, 1, 4, 4), 0.3)])), "binarize"),
    ],
)
def test_bad_data_are_refused_at_once(data, message):
    with pytest.raises(ValueError, match=message):
        quiet(make_vae(), data)


def test_a_dataset_is_streamed_to_the_same_end_as_a_tensor():
    x, vaes = make_data(), (make_vae(), make_vae())
    quiet(vaes[0], x, epochs=3, batch_size=7)
    quiet(vaes[1], TensorDataset(x, torch.arange(len(x))), epochs=3, batch_size=7)
    assert same(*map(parameters, vaes))


# Random numbers ------------------------------------------------------------------------------------------------------


def test_all_follows_from_the_seed_and_the_world_is_left_alone():
    ends = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        vae = make_vae()
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        quiet(vae, Intensities(make_data() * 0.9), make_data(), epochs=2, batch_size=7, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        ends.append(parameters(vae))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


# Optimisation --------------------------------------------------------------------------------------------------------


def test_the_encoder_may_have_a_learning_rate_of_its_own():
    vae = make_vae()
    before = parameters(vae)
    quiet(vae, make_data(), epochs=1, batch_size=24, optimizer=sgd(1e-3), encoder_lr=0.0)
    moved = {name for name, value in parameters(vae).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "encoder" not in name}


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (None, [1.0, 1.0, 1.0, 1.0]),
        (partial(StepLR, step_size=2, gamma=0.1), [1.0, 1.0, 0.1, 0.1]),
        (partial(LinearLR, start_factor=0.25, total_iters=3), [0.25, 0.5, 0.75, 1.0]),
        (partial(OneCycleLR, max_lr=10.0, total_steps=12, anneal_strategy="linear", div_factor=10.0), None),
    ],
)
def test_schedulers_step_when_pytorch_says(scheduler, rates):
    scale = 1e-4
    vae = make_vae()
    if rates is None:  # 3 steps an epoch: the rate at steps 0, 3, 6, 9 of 12
        reference = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=scale)
        schedule = OneCycleLR(reference, max_lr=10 * scale, total_steps=12, anneal_strategy="linear", div_factor=10.0)
        seen = []
        for _ in range(12):
            seen.append(reference.param_groups[0]["lr"])
            reference.step()
            schedule.step()
        rates, scheduler = [r / scale for r in seen[::3]], partial(scheduler, max_lr=10 * scale)
    history = quiet(vae, make_data(), epochs=4, batch_size=8, optimizer=sgd(scale), scheduler=scheduler)
    assert history["learning_rate"] == pytest.approx([r * scale for r in rates])


def test_plateaus_are_of_the_validation_elbo():
    scheduler = partial(ReduceLROnPlateau, patience=0, factor=0.5)
    improving = quiet(make_vae(), make_data(), make_data(), epochs=4, scheduler=scheduler)
    assert improving["learning_rate"] == [1e-3] * 4
    flat = quiet(make_vae(), make_data(), make_data(), epochs=4, scheduler=scheduler, optimizer=sgd(2e-6))
    assert flat["learning_rate"] == [2e-6, 2e-6, 1e-6, 5e-7]
    with pytest.raises(ValueError, match="give valid"):
        quiet(make_vae(), make_data(), scheduler=scheduler)
    with pytest.raises(ValueError, match="leave its mode at 'min'"):
        quiet(make_vae(), make_data(), make_data(), scheduler=partial(ReduceLROnPlateau, mode="max"))


def test_the_gradient_is_clipped():
    vae = make_vae()
    before = torch.cat([value.flatten() for value in parameters(vae).values()])
    quiet(vae, make_data(), epochs=1, batch_size=24, optimizer=sgd(1.0), clip_norm=0.5)
    after = torch.cat([value.flatten() for value in parameters(vae).values()])
    assert (after - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_early_stopping_returns_to_the_best_parameters():
    train, valid = make_data(24), 1.0 - make_data(24)  # learning the one unlearns the other
    vae = make_vae()
    adam = partial(torch.optim.Adam, lr=1e-2)
    history = quiet(vae, train, valid, epochs=50, patience=3, optimizer=adam)
    best = max(history["valid_elbo"])
    assert len(history) == history["valid_elbo"].index(best) + 1 + 3 < 50
    assert evaluation.elbo(vae, valid).value.mean().item() == pytest.approx(best, rel=1e-6)
    with pytest.raises(ValueError, match="give valid"):
        quiet(make_vae(), train, patience=3)


@pytest.mark.parametrize("objective", [objectives.ELBO(), Trace_ELBO()])
@pytest.mark.filterwarnings("ignore:Encountered")  # Pyro says so
def test_divergence_is_told_in_one_sentence_with_validation_data_too(objective):
    with pytest.raises(FloatingPointError, match=r"elbo is .* in epoch \d+: try a smaller learning rate"):
        quiet(make_vae(), make_data(), make_data(), epochs=50, optimizer=sgd(1e6), objective=objective)


def test_an_elbo_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    vae = make_vae()
    with pytest.raises(FloatingPointError, match=r"epoch \d+.*learning rate"):
        quiet(vae, make_data(), epochs=50, optimizer=sgd(1e6), folder=tmp_path)
    values = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in values["parts"]["vae"].values())


def test_the_model_is_left_in_evaluation_mode_and_trained_in_training_mode():
    vae, modes = make_vae(), set()
    vae.encoder.register_forward_hook(lambda module, *_: modes.add((module.training, torch.is_grad_enabled())))
    quiet(vae, make_data(), make_data(), epochs=1)
    assert not vae.training
    assert modes == {(True, True), (True, False), (False, False)}  # steps, the check before them, validation


# Resuming ------------------------------------------------------------------------------------------------------------

FANCY = {
    "batch_size": 7,
    "scheduler": partial(StepLR, step_size=2, gamma=0.5),
    "optimizer": partial(torch.optim.Adam, lr=1e-2),
    "clip_norm": 5.0,
    "patience": 4,
}


@pytest.mark.parametrize("stops", [(0,), (3,), (1, 2, 4)])
def test_a_resumed_run_ends_bit_identical(tmp_path, stops):
    train, valid = Intensities(make_data() * 0.9), make_data()
    whole = make_vae()
    expected = quiet(whole, train, valid, epochs=6, **FANCY)
    for i, epochs in enumerate((*stops, 6)):
        vae = make_vae(seed=i)  # whatever it was, the checkpoint replaces it
        if i == 0:
            vae = make_vae()
        history = quiet(vae, train, valid, epochs=epochs, folder=tmp_path, resume=i > 0, **FANCY)
    assert same(parameters(vae), parameters(whole))
    without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    assert without_time == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (Trace_ELBO, {"num_particles": 3, "vectorize_particles": True}),
        (TraceMeanField_ELBO, {"num_particles": 3, "vectorize_particles": True}),
        (TraceEnum_ELBO, {"strict_enumeration_warning": False}),
        (ReweightedWakeSleep, {}),
    ],
)
def test_a_run_under_an_elbo_that_looks_at_its_programs_first_resumes_bit_identical(tmp_path, objective, options):
    vaes, x = (make_vae(), make_vae()), make_data()
    quiet(vaes[0], x, epochs=4, objective=objective(**options))
    quiet(vaes[1], x, epochs=2, objective=objective(**options), folder=tmp_path)
    quiet(vaes[1], x, epochs=4, objective=objective(**options), folder=tmp_path, resume=True)
    assert same(*map(parameters, vaes))


def test_a_stopped_run_is_not_continued(tmp_path):
    train, valid = make_data(24), 1.0 - make_data(24)
    adam = partial(torch.optim.Adam, lr=1e-2)
    vaes = make_vae(), make_vae(seed=9)
    first = quiet(vaes[0], train, valid, epochs=50, patience=3, optimizer=adam, folder=tmp_path)
    again = quiet(vaes[1], train, valid, epochs=50, patience=3, optimizer=adam, folder=tmp_path, resume=True)
    assert first == again
    assert same(*map(parameters, vaes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "batch_size = 7, not 8"),
        ({"seed": 3}, "seed = 0, not 3"),
        ({"data": 20}, "training data"),
        ({"optimizer": sgd(1e-3)}, r"Adam\(0.001\), not SGD"),
        ({"optimizer": partial(torch.optim.Adam, lr=2e-3)}, r"0.001\), not Adam\(0.002"),
        ({"scheduler": partial(StepLR, step_size=1)}, "scheduler"),
        ({"valid": True}, "validation data"),
        ({"latent_dim": 2}, "vae is another"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, change, message):
    options = {"batch_size": 7, "epochs": 1, "folder": tmp_path}
    quiet(make_vae(), make_data(), **options)
    change = dict(change)
    vae, data = make_vae(latent_dim=change.pop("latent_dim", 3)), make_data(change.pop("data", 24))
    if "valid" in change:
        change["valid"] = make_data()
    with pytest.raises(ValueError, match=message):
        quiet(vae, data, **(options | change), resume=True)


def test_a_run_is_not_overwritten(tmp_path):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path / "new")
    before = (tmp_path / "new" / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="keeps a run already"):
        quiet(make_vae(), make_data(), epochs=1, folder=tmp_path / "new")
    assert (tmp_path / "new" / "checkpoint.pt").read_bytes() == before


def test_a_table_that_a_kill_left_behind_its_checkpoint_catches_up(tmp_path):
    quiet(make_vae(), make_data(), epochs=2, folder=tmp_path)
    text = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("".join(text.splitlines(keepends=True)[:-1]))
    quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, resume=True)
    assert (tmp_path / "history.csv").read_text() == text


def test_nothing_to_resume_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint '{folder / 'checkpoint.pt'}'"):
            quiet(make_vae(), make_data(), folder=folder, resume=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="folder"):
        quiet(make_vae(), make_data(), resume=True)


def train_and_keep_the_end(folder, resume=False):
    vae = make_vae()
    quiet(vae, make_data(240), make_data(), epochs=30, batch_size=6, folder=folder, resume=resume)
    torch.save(vae.state_dict(), folder / "end.pt")


def test_a_run_killed_in_mid_epoch_and_resumed_ends_bit_identical(tmp_path):
    def rows(folder):
        return len((folder / "history.csv").read_text().splitlines()) - 1 if (folder / "history.csv").exists() else 0

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert fresh.finish(fresh.start(train_and_keep_the_end, tmp_path / "whole")) == 0
    process, done = fresh.start(train_and_keep_the_end, tmp_path / "killed"), 0
    for kill in range(2):
        while rows(tmp_path / "killed") < done + 3:
            assert process.exitcode is None
            time.sleep(0.01)
        time.sleep(0.03 * (kill + 1))  # somewhere within the next epoch
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        done = rows(tmp_path / "killed")
        assert 3 <= done < 30
        process = fresh.start(train_and_keep_the_end, tmp_path / "killed", True)
    assert fresh.finish(process) == 0
    ends = [torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("whole", "killed")]
    assert same(*ends)


# Schedules, baselines and relaxations --------------------------------------------------------------------------------

E, G, B = objectives, gradients, baselines


def learned():
    return B.Learned(networks.MLP(SHAPE, 1, hidden=(8,)))


def test_history_tells_the_weights_of_each_epoch_and_the_elbo_without_them(tmp_path):
    objective = E.ELBO(beta=schedules.Linear(9), capacity=schedules.Linear(3, 0.0, 2.0))
    history = quiet(make_vae(), make_data(), make_data(), epochs=4, batch_size=8, objective=objective, folder=tmp_path)
    assert history["beta"] == pytest.approx([2 / 9, 5 / 9, 8 / 9, 1.0])  # in steps 2, 5, 8 and 11, counted from 0
    assert history["capacity"] == pytest.approx([4 / 3, 2.0, 2.0, 2.0])
    assert history["elbo"] == pytest.approx([row["reconstruction"] - row["kl"] for row in history])
    assert "beta" in (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    again = quiet(make_vae(), make_data(), epochs=3, batch_size=8, objective=objective)
    assert again["beta"] == pytest.approx([2 / 9, 5 / 9, 8 / 9])  # each run begins anew
    beta = quiet(make_vae(), make_data(), epochs=2, batch_size=24, objective=E.ELBO(beta=0.5), optimizer=sgd(0.0))
    for row in beta:
        assert row["beta"] == 0.5
        assert row["objective"] == pytest.approx(row["reconstruction"] - 0.5 * row["kl"], rel=1e-5)
    assert "beta" not in quiet(make_vae(), make_data(), epochs=1)[0]


def test_a_run_that_ends_before_its_warm_up_is_told():
    objective = E.ELBO(beta=schedules.Linear(7))
    with pytest.warns(UserWarning, match=r"ends after 6 steps, before the schedule of .*takes 7"):
        quiet(make_vae(), make_data(), epochs=2, batch_size=8, objective=objective)
    quiet(make_vae(), make_data(), epochs=3, batch_size=8, objective=objective)


def test_patience_begins_after_the_warm_up():
    vae, objective = make_vae(), E.ELBO(beta=schedules.Linear(35, 0.5))  # to the end of epoch 12
    adam, valid = partial(torch.optim.Adam, lr=3e-2), 1.0 - make_data()
    history = quiet(vae, make_data(), valid, objective=objective, epochs=30, patience=2, batch_size=8, optimizer=adam)
    elbos = history["valid_elbo"]
    assert any(max(elbos[i : i + 2]) < max(elbos[:i]) for i in range(1, 10))  # where it would have stopped
    best = max(elbos[12:])
    assert 12 + 2 < len(history) == elbos.index(best) + 1 + 2 < 30
    assert evaluation.elbo(vae, valid).value.mean().item() == pytest.approx(best, rel=1e-5)


STATEFUL = {
    "schedule": (lambda: E.ELBO(beta=schedules.Linear(20)), make_vae),
    "capacity": (lambda: E.ELBO(capacity=schedules.Cyclical(20, 2, end=3.0)), make_vae),
    "moving": (lambda: E.ELBO(3, G.ScoreFunction(B.MovingAverage())), make_vae),
    "learned": (lambda: E.IWAE(3, G.ScoreFunction(learned())), make_vae),
    "bits": (lambda: E.ELBO(2, G.ScoreFunction(B.MovingAverage(0.5))), make_bit_vae),
    "concrete": (lambda: E.ELBO(2, G.Concrete()), make_bit_vae),
    "dreg": (lambda: E.PIWAE(2, 2, G.DReG()), make_vae),
    "discriminator": (lambda: E.FactorVAE(gamma=2.0), make_vae),
    "total correlation": (lambda: E.BetaTCVAE(beta=2.0, stratified=True), make_vae),
}


@pytest.mark.parametrize("case", STATEFUL)
@pytest.mark.filterwarnings("ignore:training ends after 8 steps")  # in the run that is interrupted
def test_an_objective_with_a_state_resumes_bit_identical(tmp_path, case):
    make, build = STATEFUL[case]
    vaes, stateful = [build(), build()], []
    train, valid = Intensities(make_data() * 0.9), make_data()
    for _ in range(4):
        pyro.set_rng_seed(5)
        stateful.append(make())
    expected = quiet(vaes[0], train, valid, objective=stateful[0], epochs=5, **FANCY)
    quiet(vaes[1], train, valid, objective=stateful[1], epochs=2, folder=tmp_path, **FANCY)
    other = build(seed=8)
    pyro.set_rng_seed(6)  # whatever the objective was, the checkpoint replaces it
    history = quiet(other, train, valid, objective=make(), epochs=5, folder=tmp_path, resume=True, **FANCY)
    assert same(parameters(other), parameters(vaes[0]))
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in h] for h in (history, expected)]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize(
    "objective",
    [
        E.ELBO(3),
        E.ELBO(beta=0.5),
        E.ELBO(beta=schedules.Linear(6)),
        E.ELBO(gradient=G.STL()),
        E.ELBO(analytic_kl=True),
        E.ELBO(free_bits=0.1),
        E.IWAE(1),
        E.ELBO(gradient=G.ScoreFunction()),
    ],
)
def test_a_run_under_another_objective_is_not_resumed(tmp_path, objective):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path, objective=E.ELBO())
    with pytest.raises(ValueError, match="objective"):
        quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, objective=objective, resume=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (G.ScoreFunction(B.MovingAverage(0.9)), G.ScoreFunction(B.MovingAverage(0.5))),
        (G.ScoreFunction(), G.ScoreFunction(pathwise=True)),
        (G.Concrete(0.5), G.Concrete(0.7)),
        (G.Concrete(0.5), G.StraightThrough(0.5)),
        (G.REBAR(eta=1.0), G.REBAR(eta=0.5)),
    ],
)
def test_a_run_under_another_gradient_is_not_resumed(tmp_path, one, other):
    quiet(make_bit_vae(), make_data(), epochs=1, folder=tmp_path, objective=E.ELBO(gradient=one))
    with pytest.raises(ValueError, match="objective"):
        quiet(make_bit_vae(), make_data(), epochs=2, folder=tmp_path, objective=E.ELBO(gradient=other), resume=True)


@pytest.mark.parametrize("schedule", [schedules.Linear(4, end=0.5), schedules.Linear(5), schedules.Cyclical(4, 2)])
def test_a_run_under_another_schedule_is_not_resumed(tmp_path, schedule):
    options = {"epochs": 4, "folder": tmp_path}
    quiet(make_vae(), make_data(), objective=E.ELBO(beta=schedules.Linear(4)), **options)
    with pytest.raises(ValueError, match="objective"):
        quiet(make_vae(), make_data(), objective=E.ELBO(beta=schedule), resume=True, **(options | {"epochs": 5}))


@pytest.mark.parametrize(
    "gradient", [G.Concrete(1.0), G.StraightThrough(), G.REBAR(), G.Enumerate(), G.ScoreFunction()]
)
def test_the_elbo_of_the_history_is_that_of_the_discrete_model(gradient):
    vae, x = make_bit_vae(), make_data(100)
    adam = partial(torch.optim.Adam, lr=1e-2)
    quiet(vae, x, epochs=20, batch_size=25, objective=E.ELBO(gradient=G.Enumerate()), optimizer=adam)
    history = quiet(vae, x, epochs=40, batch_size=25, objective=E.ELBO(gradient=gradient), optimizer=sgd(0.0))
    exact = E.ELBO(gradient=G.Enumerate())
    with torch.no_grad():
        expected = exact.bound(vae.model, vae.guide, x).mean().item()
    draws = torch.tensor(history["elbo"])
    assert draws.mean().item() == pytest.approx(expected, abs=5 * draws.std().item() / 40**0.5 + 1e-4)
    kl = torch.tensor(history["kl"])
    assert kl.mean() > 0.1
    if isinstance(gradient, G.Concrete):  # which maximises another number
        assert abs(torch.tensor(history["objective"]).mean().item() - expected) > 0.02


@pytest.mark.parametrize(
    "gradient",
    [
        G.ScoreFunction(B.LeaveOneOut()),
        G.ScoreFunction(B.MovingAverage()),
        G.VIMCO(),
        G.Enumerate(),
        G.Concrete(),
        G.StraightThrough(),
        G.REBAR(),
    ],
)
def test_bits_are_learned(gradient):
    vae, x = make_bit_vae(), make_data(100)
    exact = E.ELBO(gradient=G.Enumerate())
    before = exact.bound(vae.model, vae.guide, x).mean()
    adam = partial(torch.optim.Adam, lr=1e-2)
    quiet(vae, x, epochs=25, batch_size=20, objective=E.ELBO(2, gradient), optimizer=adam)
    assert exact.bound(vae.model, vae.guide, x).mean() > before + 2.0


# Batch normalization and dropout --------------------------------------------------------------------------------------


def make_normalised(seed=0, encoder=encoders.DiagonalNormal):
    """A VAE with batch normalization and dropout in both networks."""
    pyro.set_rng_seed(seed)
    network = partial(networks.MLP, hidden=(16,), normalization="batch", dropout=0.1)
    bits = encoder is encoders.Bernoulli
    return VAE(
        priors.Bernoulli(3) if bits else priors.StandardNormal(3),
        likelihoods.Bernoulli(network(3, SHAPE)),
        encoder(network(SHAPE, 3 if bits else 6)),
    )


def state(vae):
    """Parameters and running means."""
    return {name: value.clone() for name, value in vae.state_dict().items()}


def test_running_means_and_dropout_follow_from_the_seed_and_resume_bit_identical(tmp_path):
    """Of 22 data in batches of 7, the last batch is of one datum, which has no variance."""
    vaes, options = [make_normalised(), make_normalised(), make_normalised(seed=8)], {"valid": make_data(), **FANCY}
    expected = quiet(vaes[0], make_data(22), epochs=5, **options)
    quiet(vaes[1], make_data(22), epochs=2, folder=tmp_path, **options)
    assert not same(state(vaes[1]), state(vaes[0]))
    history = quiet(vaes[2], make_data(22), epochs=5, folder=tmp_path, resume=True, **options)
    assert same(state(vaes[2]), state(vaes[0]))
    assert history["elbo"] == expected["elbo"]
    assert vaes[0].encoder.network.layers[2].num_batches_tracked == 5 * 3  # one datum adds nothing
    other = make_normalised()
    quiet(other, make_data(22), epochs=5, seed=1, **options)
    assert not same(state(other), state(vaes[0]))


@pytest.mark.parametrize("objective", [E.ELBO(), E.IWAE(4)])
def test_normalised_networks_learn_with_batches_of_one(objective):
    vae, data = make_normalised(), make_data(402)
    train, valid = data[:-1:2], data[1::2]  # 201, by 20
    before = evaluation.log_likelihood(vae, valid, 100).value.mean()
    quiet(vae, train, epochs=12, batch_size=20, objective=objective, optimizer=partial(torch.optim.Adam, lr=2e-2))
    assert before < -10.5
    assert evaluation.log_likelihood(vae, valid, 100).value.mean() > -7.0  # of -5.9 at best, in evaluation mode


@pytest.mark.parametrize(
    ("objective", "encoder"),
    [
        (E.ELBO(gradient=G.Concrete()), encoders.Bernoulli),
        (E.ELBO(gradient=G.Enumerate()), encoders.Bernoulli),
        (E.RWS(2, G.Sleep()), encoders.DiagonalNormal),
        (E.ELBO(), encoders.DiagonalNormal),
    ],
)
def test_telling_the_elbo_does_not_touch_running_means(objective, encoder):
    """A fit ends where the same steps without a history end."""
    x, vaes = make_data(), [make_normalised(encoder=encoder), make_normalised(encoder=encoder)]
    quiet(vaes[0], x, epochs=4, batch_size=24, shuffle=False, objective=objective, seed=3)
    svi = SVI(vaes[1].model, vaes[1].guide, torch.optim.Adam(vaes[1].parameters(), lr=1e-3), objective)
    pyro.set_rng_seed(3)
    for _ in range(4):
        svi.update(x)
    assert same(state(vaes[0]), state(vaes[1]))
    assert vaes[0].encoder.network.layers[2].num_batches_tracked > 0


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"patience": 0},
        {"encoder_lr": -1.0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"max_seconds": 0.0},
        {"valid_num_samples": 0},
        {"keep": 0},
        {"max_skips": -1},
    ],
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        quiet(make_vae(), make_data(), **bad)


def test_no_epochs_change_nothing():
    vae = make_vae()
    before = parameters(vae)
    assert quiet(vae, make_data(), epochs=0) == []
    assert same(parameters(vae), before)


def test_the_progress_bar_shows_the_terms(capsys):
    fit(make_vae(), make_data(), make_data(), epochs=2)
    bar = capsys.readouterr().err
    assert all(f"{name}=" in bar for name in ("elbo", "reconstruction", "kl", "valid_elbo"))
    assert "epoch 2/2" in bar


def test_two_fits_leave_each_other_alone():
    x, vaes = make_data(), [make_vae(), make_vae(latent_dim=2), make_vae()]
    for vae in vaes:
        quiet(vae, x, epochs=2, batch_size=7)
    assert same(parameters(vaes[0]), parameters(vaes[2]))
    assert not list(pyro.get_param_store().keys())


def test_learned_priors_and_scales_are_trained():
    pyro.set_rng_seed(0)
    vae = VAE(
        priors.MixtureOfNormals(2, components=3),
        likelihoods.Normal(networks.MLP(2, 5)),
        encoders.DiagonalNormal(networks.MLP(5, 4)),
    )
    x = 0.3 * torch.randn(500, 5) + torch.randint(2, (500, 1)) * 3.0
    before = parameters(vae)
    history = quiet(vae, x, epochs=30, batch_size=50, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert not any(torch.equal(before[name], value) for name, value in parameters(vae).items())
    assert vae.likelihood(torch.zeros(1, 2)).stddev[0, 0].item() == pytest.approx(0.3, rel=0.3)
    assert history["elbo"][-1] > -6


# Log p(x) while training, and a time limit ----------------------------------------------------------------------------


def test_validation_with_several_draws_estimates_log_p_too():
    vae, x = make_vae(), make_data(100)
    history = quiet(vae, x, x, epochs=2, valid_num_samples=20, seed=3)
    expected = evaluation.log_likelihood(vae, x, 20, seed=3).value.mean().item()
    assert history["valid_log_likelihood"][-1] == pytest.approx(expected, rel=1e-6)
    assert history["valid_elbo"][-1] == pytest.approx(evaluation.elbo(vae, x, 20, seed=3).value.mean().item(), rel=1e-6)
    assert "valid_log_likelihood" not in quiet(make_vae(), x, x, epochs=1)[0]


def test_no_epoch_begins_that_would_end_after_the_time_is_up(monkeypatch, tmp_path):
    now = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))  # read as an epoch begins and as it ends: 5 s each
    train = partial(quiet, epochs=100, folder=tmp_path, max_seconds=17)
    assert train(make_vae(), make_data())["seconds"] == [5, 5, 5]
    assert len(train(make_vae(), make_data(), max_seconds=26, resume=True)) == 5  # what was trained before counts
    assert len(quiet(make_vae(), make_data(), epochs=100, max_seconds=1)) == 1


def test_the_garbage_collector_is_left_as_it_was(counted):
    frozen = gc.get_freeze_count() > 0
    fit(make_vae(), make_data(), epochs=1, progress=False)
    assert (gc.get_freeze_count() > 0) == frozen
    gc.unfreeze()
    try:
        fit(make_vae(), make_data(), epochs=1, progress=False)
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()  # as tests have it, for their speed
