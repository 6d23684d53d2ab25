"""Memory: a lack of it is told in one sentence, before the system ends the process."""

import resource

import fresh
import numpy as np
import pytest
import torch

from pyrovae import memory, options


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**50), lambda: np.empty(2**50, np.float32), lambda: [0] * 2**50])
def test_what_is_never_there_is_told_with_what_takes_it(ask):
    with pytest.raises(MemoryError) as told, memory.explained(batch_size=10**9, num_particles=3):
        ask()
    message = str(told.value)
    assert message.startswith("not enough memory: ")
    assert message.endswith(
        "of main memory are free; lower batch_size (which is 1000000000), num_particles (which is 3), or give the "
        "objective a chunk of draws"
    )
    assert ("4194304.0 GiB more were needed" in message) == (told.value.__cause__.args != ())


def test_a_gpu_is_told_with_its_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**31, 2**36))
    text = "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which ..."
    with pytest.raises(MemoryError, match=r"0.5 GiB more were needed, 2.0 GiB of the GPU are free"), memory.explained():
        raise torch.OutOfMemoryError(text)


def test_it_is_told_once_and_other_errors_are_left_as_they_are():
    once = pytest.raises(MemoryError, match=r"^not enough memory: [^:]*lower b \(which is 1\)[^:]*$")
    with once, memory.explained(a=2), memory.explained(b=1):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="must match the size"), memory.explained():
        torch.zeros(3) + torch.zeros(4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is limited where there is a GPU")
def test_more_than_is_free_fails_where_it_is_asked_for(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "available", lambda: 64 * 2**20)
    with memory.limited():
        torch.ones(8 * 2**20)  # 32 MiB
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(2**30)  # more than collected garbage may give back
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    monkeypatch.setattr(memory, "available", lambda: None)
    with memory.limited():
        torch.ones(32 * 2**20)


NESTED = {"max": "6000\n", "current": "4000\n", "stat": "anon 1\ninactive_file 1500\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   7 kB\n"}, 7168),
        ({"/proc/meminfo": "MemAvailable:   7 kB\n", "max": "max\n", "current": "8\n"}, 7168),
        (
            {
                "/proc/meminfo": "MemAvailable:   7 kB\n",
                **NESTED,
            },
            3500,
        ),
        ({}, None),
        (
            {
                "/proc/meminfo": "MemAvailable:   7 kB\n",
                "/proc/self/cgroup": "4:memory:/x\n0::/job/step\n",
                **{f"job/memory.{name}": text for name, text in NESTED.items()},
            },
            3500,
        ),
    ],
)
def test_what_is_free_is_what_machine_and_control_group_leave(monkeypatch, files, free):
    def read(path):
        for name, text in files.items():
            if str(path) in (name, f"/sys/fs/cgroup/memory.{name}", f"/sys/fs/cgroup/{name}"):
                return text
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.Path, "read_text", read)
    assert memory.available() == free


def test_a_script_that_lacks_memory_ends_with_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        options.command(lambda: torch.empty(2**50))
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_batch_beyond_all_memory_is_told(tmp_path):
    arguments = ["--objective.num_particles", 10**9, "--epochs", 1, "--out", "run"]
    code, _, err = fresh.run_script(tmp_path, "train.py", *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: not enough memory: ")
    assert f"batch_size (which is 64), num_particles (which is {10**9})" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
