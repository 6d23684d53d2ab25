"""A run that was ended, at any step and in whatever way, goes on to the end that it would have had."""

import errno
import fcntl
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import threading
import time
from functools import partial

import fresh
import numpy as np
import pytest
import torch
from programs import SHAPE, in_step, make_data, make_vae, parameters, same
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import Dataset, TensorDataset

from pyrovae import fit, objectives, options, record, runs, schedules, staging
from pyrovae.checkpoint import read, signed
from pyrovae.data import Intensities
from pyrovae.distributed import Processes
from pyrovae.files import held
from pyrovae.interruption import Interrupted, Interruption

quiet = partial(fit, progress=False)
VALID = make_data(10)
NUMPY = np.random  # whose functions are of the global generator


def rows(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Flipped(Dataset):
    """Images, some of their pixels flipped by all generators of random numbers that there are."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        flips = [NUMPY.rand(*SHAPE) < 0.1, torch.rand(SHAPE).numpy() < 0.1]
        x = (make_data()[index] - torch.from_numpy(flips[0] ^ flips[1]).float()).abs()
        return x.flip(-1) if random.gauss(0, 1) < 0 else x


def send(number):
    return lambda: signal.raise_signal(number)


CASES = {
    "plain": {"clip_norm": 5.0},
    "binarized": {"train": Intensities(make_data() * 0.9), "scheduler": partial(StepLR, step_size=2, gamma=0.5)},
    "streamed": {"train": TensorDataset(make_data())},
    "augmented": {"train": Flipped()},
    "in order": {"shuffle": False, "scheduler": partial(OneCycleLR, max_lr=1e-2, total_steps=12)},
    "warming up": {"objective": partial(objectives.ELBO, beta=schedules.Linear(10))},
    "watching": {"scheduler": partial(ReduceLROnPlateau, patience=0), "patience": 3, "valid": VALID},
    "of Pyro": {"objective": partial(objectives.IWAE, 3), "encoder_lr": 1e-4},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_in_any_step_of_an_epoch_ends_bit_identical(tmp_path, case):
    given = {"train": make_data(), "valid": None, "batch_size": 7, "epochs": 3, **CASES[case]}
    train, valid, make = given.pop("train"), given.pop("valid"), given.pop("objective", objectives.ELBO)

    whole = make_vae()
    before = str((NUMPY.get_state(), random.getstate()))
    expected = quiet(whole, train, valid, objective=make(), **given)
    assert str((NUMPY.get_state(), random.getstate())) == before
    for i, step in enumerate((1, 3, 4)):  # of 4 in an epoch: within the first, at its end, and at the end of the second
        vae = make_vae(seed=i)  # whatever the later ones are, and the generators, the checkpoint replaces them
        in_step(vae, step, send(signal.SIGTERM))
        with pytest.raises(Interrupted):
            quiet(vae, train, valid, objective=make(), folder=tmp_path, resume=i > 0, **given)
        assert read(tmp_path / "checkpoint.pt")["parts"]["batches"]["position"] == (1, 4, 4)[i]
    vae = make_vae(seed=9)
    history = quiet(vae, train, valid, objective=make(), folder=tmp_path, resume=True, **given)
    assert same(parameters(vae), parameters(whole))
    assert rows(history) == rows(expected)


def test_numpys_generator_may_be_of_another_kind():
    def trained():
        before = str(NUMPY.get_state(legacy=False))
        quiet(vae := make_vae(), Flipped(), epochs=1)
        assert str(NUMPY.get_state(legacy=False)) == before
        return parameters(vae)

    usual, kind = trained(), NUMPY.get_bit_generator()
    NUMPY.set_bit_generator(NUMPY.PCG64(0))
    try:
        assert same(trained(), usual)
    finally:
        NUMPY.set_bit_generator(kind)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_ends_bit_identical(tmp_path):
    """Though the rounding of compiled steps is another than that of plain ones, with which a process could begin."""
    options = {"batch_size": 24, "epochs": 4, "compile": True}
    vaes = [make_vae(), make_vae(), make_vae(seed=1)]
    quiet(vaes[0], make_data(), **options)
    quiet(vaes[1], make_data(), folder=tmp_path, **(options | {"epochs": 2}))
    quiet(vaes[2], make_data(), folder=tmp_path, resume=True, **options)
    assert same(parameters(vaes[2]), parameters(vaes[0]))
    plain = make_vae()
    quiet(plain, make_data(), **(options | {"compile": False}))
    assert not same(parameters(plain), parameters(vaes[0]))  # or this would show nothing


def test_a_traced_run_leaves_nothing_behind(monkeypatch):
    """What is changed in place, in buffers and elsewhere, and random numbers: each call is as without a tracer."""
    monkeypatch.setattr(staging._Graph, "compile", lambda *_: True)

    class Counting(torch.nn.BatchNorm1d):
        def forward(self, x):
            elsewhere.mul_(2).view(-1)[0].add_(1)
            return super().forward(x) + elsewhere + torch.rand(len(x), 1)

    found = []
    for at_once in (False, True):
        torch.manual_seed(0)
        elsewhere, module, x = torch.ones(2), Counting(2), torch.randn(4, 2)
        staged = staging.Staged(lambda x, module=module: [module(x)], at_once=at_once)
        outputs = [staged(x)[0].detach() for _ in range(4)]
        found.append([*outputs, elsewhere, *module.buffers()])
    assert all(map(torch.equal, *found))


def fail():
    raise RuntimeError("of the test")


def test_checkpoints_are_written_within_long_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_SECONDS", -1.0)
    vaes = make_vae(), make_vae(), make_vae(seed=1)
    in_step(vaes[1], 13, fail)
    with pytest.raises(RuntimeError, match="of the test"):
        quiet(vaes[1], make_data(40), epochs=2, batch_size=2, folder=tmp_path)
    assert read(tmp_path / "checkpoint.pt")["parts"]["batches"]["position"] == 12
    quiet(vaes[0], make_data(40), epochs=2, batch_size=2)
    quiet(vaes[2], make_data(40), epochs=2, batch_size=2, folder=tmp_path, resume=True)
    assert same(parameters(vaes[2]), parameters(vaes[0]))


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_end_says_how_to_go_on(number, code, tmp_path, capsys):
    vae, before = make_vae(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    in_step(vae, 2, send(number))
    with pytest.raises(SystemExit) as end:
        options.command(lambda: quiet(vae, make_data(), batch_size=8, folder=tmp_path))
    assert end.value.code == code
    assert capsys.readouterr().err == (
        f"interrupted: stopped after 2 of 3 steps of epoch 1; '{tmp_path}' keeps it: --resume goes on from what was "
        f"kept last\n"
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_of_several_processes_one_says_how_to_go_on(monkeypatch, capsys):
    for rank in (0, 1):
        monkeypatch.setattr(Processes, "here", classmethod(lambda cls, rank=rank: cls(rank, 2)))
        with pytest.raises(SystemExit) as end:
            options.command(send(signal.SIGINT), interrupted="go on")
        assert end.value.code == 130
        assert capsys.readouterr().err == ("" if rank else "interrupted: go on\n")


def test_a_second_signal_ends_at_once_and_others_handlers_are_theirs():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal == signal.SIGINT
        with pytest.raises(Interrupted, match="told twice"):
            signal.raise_signal(signal.SIGINT)
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
        assert seen == [1]
        assert interruption.signal is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_leaves_signals_alone():
    found, before = [], signal.getsignal(signal.SIGTERM)

    def within():
        with Interruption() as interruption:
            found.extend((interruption.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert found == [None, before]


# Folders --------------------------------------------------------------------------------------------------------------


def hold(folder):
    with held(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_folder_is_one_processs_until_it_dies(tmp_path):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path)
    process = fresh.start(hold, tmp_path)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    for resume in (True, False):
        with pytest.raises(BlockingIOError, match=r"another process trains in '.*': wait until it ends, or give"):
            quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, resume=resume)
    with pytest.raises(BlockingIOError):  # nor are options of a run overwritten
        runs.train(runs.parser().parse_args(["--epochs=1"]), tmp_path)
    assert not (tmp_path / "config.yaml").exists()
    process.kill()
    process.join()
    half = tmp_path / f".{process.pid}-{platform.node()}-checkpoint.pt"
    half.touch()  # as a process leaves it that is killed while it writes
    assert (tmp_path / "checkpoint.pt").read_bytes() == content
    assert len(quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, resume=True)) == 2
    assert not half.exists()


def test_a_folder_is_held_within_itself_but_not_by_another_thread(tmp_path):
    refused = []

    def other():
        try:
            with held(tmp_path):
                pass
        except BlockingIOError:
            refused.append(1)

    with held(tmp_path), held(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [1]
    with held(tmp_path):
        pass


def test_what_others_write_or_a_user_keeps_in_a_folder_stays(tmp_path, monkeypatch):
    node, gone, system = platform.node(), 2**22 + 1, os.kill  # a number that no process has

    def kill(process, number):
        if process == 1:  # somebody else's
            raise PermissionError
        system(process, number)

    monkeypatch.setattr(os, "kill", kill)
    stay = {f".{os.getpid()}-{node}-a.pt", f".1-{node}-a.pt", f".{gone}-of-another-a.pt", f".{gone}-notes", ".1st-try"}
    stay |= {f".of-{node}-1", f"{gone}-{node}-a.pt"}
    for name in stay | {f".{gone}-{node}-a.pt", f".{2**70}-{node}-a.pt"}:
        (tmp_path / name).touch()
    (tmp_path / f".{gone}-{node}-folder").mkdir()
    with held(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == stay | {f".{gone}-{node}-folder"}


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
    def lock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.warns(UserWarning, match=f"'{tmp_path}' cannot be locked here: let no other process train in it"):
        quiet(make_vae(), make_data(), epochs=1, folder=tmp_path)
    assert len(read(tmp_path / "checkpoint.pt")["values"]["history"]) == 1


def test_a_full_disk_ends_a_run_in_a_sentence_and_leaves_the_last_checkpoint(tmp_path):
    vae, whole, limits = make_vae(), make_vae(), resource.getrlimit(resource.RLIMIT_FSIZE)
    options = {"epochs": 4, "batch_size": 8}

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    in_step(vae, 8, fill)
    try:
        with pytest.raises(OSError, match=r"no room for '.*checkpoint.pt' \(File too large\): it is left as it was"):
            quiet(vae, make_data(), folder=tmp_path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint.1.pt", "history.csv"}
    assert len(read(tmp_path / "checkpoint.pt")["values"]["history"]) == 2
    vae = make_vae(seed=1)
    quiet(vae, make_data(), folder=tmp_path, resume=True, **options)
    quiet(whole, make_data(), **options)
    assert same(parameters(vae), parameters(whole))


def test_a_folder_that_vanishes_is_told(tmp_path):
    vae = make_vae()
    in_step(vae, 2, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match=r"\A'.*history.csv' cannot be written \(No such file or directory\)"):
        quiet(vae, make_data(), epochs=1, batch_size=8, folder=tmp_path / "run")


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "empty", "gone"])
def test_a_run_goes_on_from_the_last_checkpoint_that_is_whole(tmp_path, damage):
    vae, whole = make_vae(seed=1), make_vae()
    quiet(make_vae(), make_data(), epochs=3, folder=tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(b"" if damage == "empty" else content)
    if damage == "gone":
        path.unlink()
    with pytest.warns(UserWarning, match=r"checkpoint.pt'.*; .*the run goes on from '.*checkpoint.1.pt'"):
        history = quiet(vae, make_data(), epochs=4, folder=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.damaged.pt").exists() == (damage != "gone")
    assert history["epoch"] == [1, 2, 3, 4]
    quiet(whole, make_data(), epochs=4)
    assert same(parameters(vae), parameters(whole))


def test_without_a_whole_checkpoint_there_is_an_error(tmp_path):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path, keep=1)
    assert not (tmp_path / "checkpoint.1.pt").exists()
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, resume=True)


@pytest.mark.parametrize("change", [lambda best: best.popitem(), lambda best: best.update(dict.fromkeys(best, VALID))])
def test_a_checkpoint_with_other_best_parameters_holds_no_history(tmp_path, change):
    options = {"valid": VALID, "patience": 2, "folder": tmp_path}
    quiet(make_vae(), make_data(), epochs=1, **options)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    change(state["values"]["best"])
    torch.save(state, content := io.BytesIO())
    (tmp_path / "checkpoint.pt").write_bytes(signed(content.getvalue()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt' holds no history of a run"):
        quiet(make_vae(), make_data(), epochs=2, resume=True, **options)


def test_a_damaged_run_is_not_evaluated_and_what_is_whole_is_offered(tmp_path):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint.1.pt' is whole, and --resume goes on from it"):
        runs.load(tmp_path)


def test_other_versions_are_told(tmp_path, monkeypatch):
    quiet(make_vae(), make_data(), epochs=1, folder=tmp_path)
    monkeypatch.setattr("pyrovae.checkpoint.version", lambda package: f"9.9 of {package}")
    with pytest.warns(UserWarning, match=r"was written by .*torch 2.*: the run may end otherwise than there"):
        quiet(make_vae(), make_data(), epochs=2, folder=tmp_path, resume=True)


def test_a_soak_ends_well(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(fresh.SCRIPTS))
    import soak

    monkeypatch.setattr(soak, "CONTEXT", fresh.CONTEXT)
    monkeypatch.setattr(soak, "RUN", [*soak.RUN, "--epochs", "6"])
    soak.main(["--kills", "1", "--compiled", "0", "--out", str(tmp_path / "soak")])
    found = json.loads((tmp_path / "soak" / "soak.json").read_text())["plain"]
    assert sum(found[name] for name in soak.SIGNALS) == 1
    assert found["unreadable"] == found["different"] == 0
    assert "unreadable" in capsys.readouterr().out
