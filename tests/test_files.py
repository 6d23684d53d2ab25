import errno
import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae import files
from pyrovae.batches import Batches
from pyrovae.checkpoint import Checkpoint, read, signed, verified, versions
from pyrovae.files import whole, with_nan, write_json


def refuse(error):
    """A function that raises it."""

    def fail(*_, **__):
        raise error

    return fail


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


# Files written whole --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_what_is_written_becomes_the_file(old, kind, tmp_path):
    if old:
        (tmp_path / "a.txt").write_text("old and longer")
    with whole(kind(tmp_path / "a.txt")) as beside:
        beside.write_text("new")
    assert contents(tmp_path) == {"a.txt": "new"}


def test_the_file_stays_as_it_was_until_the_block_ends(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with whole(tmp_path / "a.txt") as beside:
        beside.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [{}, {"a.txt": "old"}])
@pytest.mark.parametrize("written", [False, True])
def test_nothing_is_written_if_the_block_raises(error, old, written, tmp_path):
    for name, text in old.items():
        (tmp_path / name).write_text(text)

    def write():
        with whole(tmp_path / "a.txt") as beside:
            if written:
                beside.write_text("half")
            raise error("of the block")

    with pytest.raises(error, match="of the block"):
        write()
    assert contents(tmp_path) == old


def test_it_is_written_where_folders_cannot_be_opened_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    with whole(tmp_path / "a.txt") as beside:
        beside.write_text("new")
    assert contents(tmp_path) == {"a.txt": "new"}


def test_nothing_is_written_if_the_disk_cannot_take_it(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"), whole(tmp_path / "a.txt") as beside:
        beside.write_text("new")
    assert contents(tmp_path) == {"a.txt": "old"}


def test_the_file_stays_as_it_was_if_the_process_is_killed(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    program = (
        "import os, runpy, signal, sys\n"
        "with runpy.run_path(sys.argv[1])['whole'](sys.argv[2]) as beside:\n"
        "    beside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, files.__file__, tmp_path / "a.txt"], check=False)
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_path_to_write_to_has_the_same_ending_and_folder(tmp_path):
    with whole(tmp_path / "a.b.png") as beside:
        assert beside.suffix == ".png"
        assert beside.parent == tmp_path
        assert beside.name != "a.b.png"
        beside.write_text("new")


def test_two_files_can_be_written_at_once(tmp_path):
    with whole(tmp_path / "a.txt") as a, whole(tmp_path / "b.txt") as b:
        a.write_text("a")
        b.write_text("b")
    assert contents(tmp_path) == {"a.txt": "a", "b.txt": "b"}


# Checkpoints ----------------------------------------------------------------------------------------------------------


def bits(state):
    """Tensors as bytes, wherever they are in a state."""
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.numpy().tobytes()
    if isinstance(state, dict):
        return {name: bits(value) for name, value in state.items()}
    return [bits(value) for value in state] if isinstance(state, list | tuple) else state


class Parts:
    """A model in training, with all that changes as it goes."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.7)
        self.batches = Batches(torch.linspace(-1, 1, 30).reshape(10, 3), 4, True, seed, torch.device("cpu"))

    def train(self, epochs):
        for _ in range(epochs):
            for (x,) in self.batches:
                self.optimizer.zero_grad()
                (self.model(x) - torch.rand(len(x), 1)).square().mean().backward()
                self.optimizer.step()
            self.scheduler.step()
        return self

    def bits(self):
        """All of the state, bit for bit."""
        return bits({name: part.state_dict() for name, part in vars(self).items()})


def checkpoint(path, parts, **settings):
    return Checkpoint(path, settings, **vars(parts))


@pytest.fixture
def saved(tmp_path):
    """The path of a checkpoint of a run of seed 1."""
    checkpoint(tmp_path / "c.pt", Parts(1).train(1), seed=1).save(epoch=1)
    return tmp_path / "c.pt"


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    first = Parts(1).train(2)
    checkpoint(tmp_path / "c.pt", first).save()
    first.train(3)
    drawn = torch.rand(5)
    second = Parts(2).train(1)
    assert second.bits() != first.bits()
    checkpoint(tmp_path / "c.pt", second).load()
    second.train(3)
    assert second.bits() == first.bits()
    assert torch.equal(torch.rand(5), drawn)


def test_parameters_come_back_bit_for_bit(tmp_path):
    special = [0.1, -0.0, 1e-45, float("inf"), float("nan"), torch.finfo(torch.float32).max]
    model = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([special]))
    Checkpoint(tmp_path / "c.pt", {}, model=model).save()
    other = nn.Linear(6, 1, bias=False)
    Checkpoint(tmp_path / "c.pt", {}, model=other).load()
    assert other.weight.detach().numpy().tobytes() == np.array(special, np.float32).tobytes()


def test_the_random_state_comes_back(tmp_path):
    torch.manual_seed(7)
    torch.rand(3)
    part = Checkpoint(tmp_path / "c.pt", {})
    part.save()
    state, expected = torch.get_rng_state(), torch.randn(9)
    torch.manual_seed(8)
    part.load()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.randn(9), expected)


def test_saving_leaves_the_random_state_alone(tmp_path):
    state = torch.get_rng_state()
    Checkpoint(tmp_path / "c.pt", {}).save()
    assert torch.equal(torch.get_rng_state(), state)


def test_values_come_back(tmp_path):
    values = {"history": [{"epoch": 1, "elbo": -0.1}], "best": {"a": torch.arange(3.0)}, "none": None, "text": "x"}
    part = Checkpoint(tmp_path / "c.pt", {"seed": 1})
    part.save(**values)
    found = part.load()
    assert torch.equal(found["best"].pop("a"), values["best"].pop("a"))
    assert found == values


def test_a_later_save_takes_the_place_of_an_earlier_one(tmp_path):
    part = Checkpoint(tmp_path / "c.pt", {})
    part.save(epoch=1)
    part.save(epoch=2)
    assert part.load() == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_save_that_fails_leaves_the_checkpoint_as_it_was(tmp_path):
    part = Checkpoint(tmp_path / "c.pt", {})
    part.save(epoch=1)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        part.save(epoch=lambda: 2)
    assert part.load() == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_other_settings_are_refused_by_name_with_both_values_and_nothing_changes(saved):
    parts = Parts(2)
    before, state = parts.bits(), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"c\.pt' is of a run with seed = 1, not 2: a run goes on as it began"):
        checkpoint(saved, parts, seed=2).load()
    assert parts.bits() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{"seed": 1, "clip_norm": 2.0}, {}])
def test_settings_that_only_one_of_the_runs_has_are_refused(saved, settings):
    with pytest.raises(ValueError, match=r"c\.pt' is of a run with (seed|clip_norm) = "):
        Checkpoint(saved, settings).load()


def test_a_part_that_was_not_saved_is_refused_by_name(saved):
    with pytest.raises(ValueError, match=r"c\.pt'.*another"):
        Checkpoint(saved, {"seed": 1}, another=nn.Linear(1, 1)).load()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint '.*c\.pt'"):
        Checkpoint(tmp_path / "c.pt", {}).load()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(kept, saved):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"c\.pt' cannot be read as a checkpoint"):
        checkpoint(saved, Parts(1), seed=1).load()


def test_any_bit_that_flips_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    assert verified(bytes(content)) == content
    for place in range(0, len(content), 3):
        content[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="checksum"):
            verified(bytes(content))
        content[place] ^= 1 << place % 8


@pytest.mark.parametrize("links", [True, False])
def test_so_many_checkpoints_are_kept_and_the_last_is_always_there(links, tmp_path, monkeypatch):
    if not links:  # as on some file systems
        monkeypatch.setattr(Path, "hardlink_to", refuse(OSError(errno.EPERM, "Operation not permitted")))
    part = Checkpoint(tmp_path / "c.pt", {}, keep=3)
    for epoch in range(5):
        part.save(epoch=epoch)
    kept = {path.name: read(path)["values"]["epoch"] for path in tmp_path.iterdir()}
    assert kept == {"c.pt": 4, "c.1.pt": 3, "c.2.pt": 2}


def test_of_several_that_are_damaged_the_last_whole_one_is_gone_on_from(tmp_path):
    part = Checkpoint(tmp_path / "c.pt", {}, keep=4)
    for epoch in range(4):
        part.save(epoch=epoch)
    for name in ("c.pt", "c.1.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"the run goes on from '.*c\.2\.pt'"):
        assert part.load() == {"epoch": 1}


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    """But lies in a folder where Python looks for it."""
    found = versions()
    missing = lambda name: refuse(PackageNotFoundError)() if name == "pyrovae" else version(name)  # noqa: E731
    monkeypatch.setattr("pyrovae.checkpoint.version", missing)
    assert versions() == found | {"pyrovae": "unknown"}


@pytest.mark.parametrize(
    "content",
    [
        b"no checkpoint",
        bytes(range(256)),
        b"\x80\x02.",
        pickle.dumps({"settings": {}}, protocol=2),
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["text", "bytes", "pop", "pickle", "zip"],
)
def test_another_kind_of_file_is_refused_without_advice_to_trust_it(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt'.*checkpoint") as caught:
        read(tmp_path / "c.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def saved_by_torch(state, **options):
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("state", [{"weight": torch.zeros(2)}, [1, 2], {"settings": {}, "parts": {}}])
def test_what_torch_saved_for_another_purpose_is_refused(state, tmp_path):
    (tmp_path / "c.pt").write_bytes(signed(saved_by_torch(state)))
    with pytest.raises(ValueError, match=r"c\.pt' is no checkpoint of this library"):
        read(tmp_path / "c.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["settings", "parts", "random", "values", "versions", "all"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(place, zipped, tmp_path):
    """With the checksum of a whole file, which anybody can make."""
    evil = Malicious(tmp_path / "made")
    state = {"settings": {}, "parts": {}, "random": {}, "values": {}, "versions": {}} | {place: evil}
    content = saved_by_torch(evil if place == "all" else state, _use_new_zipfile_serialization=zipped)
    (tmp_path / "c.pt").write_bytes(signed(content if zipped else content + bytes(2)))
    with pytest.raises(ValueError, match=r"c\.pt' cannot be read as a checkpoint"):
        Checkpoint(tmp_path / "c.pt", {}).load()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_malicious_pickle_would_run_if_it_were_trusted(zipped, tmp_path):  # so the test above shows what it says
    content = saved_by_torch(Malicious(tmp_path / "made"), _use_new_zipfile_serialization=zipped)
    torch.load(io.BytesIO(signed(content if zipped else content + bytes(2))), weights_only=False)
    assert (tmp_path / "made").exists()


# JSON ----------------------------------------------------------------------------------------------------------------


def test_json_has_null_for_what_is_not_finite_and_rows_come_back_with_nan(tmp_path):
    rows = {"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": 2, "e": "text"}
    write_json(tmp_path / "x.json", rows)
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": None, "b": [None, 1.5, {"c": None}], "d": 2, "e": "text"}
    row = with_nan(found)
    assert math.isnan(row["a"])
    assert row["d"] == 2
