import builtins
import gc
import io
import os
import signal
import urllib.request
from urllib.error import URLError

import matplotlib
import pyro
import pytest
import torch
from data_files import write_few_digits

from pyrovae import runs

matplotlib.use("Agg")

# Who starts the tests in the background may have had Ctrl-C ignored, which is left to them as a user's would be.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a GPU, torch keeps a stack trace of each seed for when there will be one, 0.4 ms each, and asks the driver how
# many there are each time it forks the random state.
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():
        device.manual_seed_all = lambda seed: None
        device.device_count = lambda: 0
os.fsync = lambda file: None  # no test outlives the machine


# The scopes that take longest, in this order: they start first, so that no process ends long after the others.
LONG = (
    "test_staging.py",
    "test_combinations.py::TestAllAxes",
    "test_scripts.py",
    "test_gradients.py",
    "test_comparison.py",
    "test_combinations.py",
    "test_training.py",
    "test_likelihoods.py",
    "test_networks.py",
    "test_readme.py",
    "test_priors.py",
    "test_gradient_study.py",
    "test_encoders.py",
    "test_reproduction.py",
    "test_benchmark.py",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        return next((i for i, name in enumerate(LONG) if name in item.nodeid), len(LONG))

    items.sort(key=rank)


COUNT = gc.get_freeze_count


def pytest_collection_finish():
    """What is there by now stays: without this the garbage collector goes through all of it time and again."""
    gc.collect()
    gc.freeze()
    gc.get_freeze_count = lambda: 1  # as `fit` asks, and counting a million objects takes longer than a small fit


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.fixture
def counted(monkeypatch):
    """What the garbage collector leaves alone is counted."""
    monkeypatch.setattr(gc, "get_freeze_count", COUNT)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks():
    """What is written need not outlast a loss of power: each wait for a disk takes 10 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _alone():
    """Each test starts from the same random state and an empty store, in one thread."""
    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("the network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def opened(monkeypatch):
    """All files that the test opens; closed after it, so that a file left open fails the test of that alone."""
    original, files = io.open, []

    def recording(*args, **kwargs):
        files.append(original(*args, **kwargs))
        return files[-1]

    monkeypatch.setattr(builtins, "open", recording)
    monkeypatch.setattr(io, "open", recording)
    yield files
    for file in files:
        file.close()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run of a VAE with four latent dimensions, trained for half a second on few digits."""
    folder = tmp_path_factory.mktemp("digits")
    write_few_digits(folder / "digits.npz")
    network = "--{}_network.hidden=[32]"
    arguments = [f"--data={folder / 'digits.npz'}", "--latent_dim=4", "--epochs=30", "--num_samples=10"]
    options = runs.parser().parse_args([*arguments, *(network.format(name) for name in ("encoder", "decoder"))])
    runs.train(options, folder / "run")
    return runs.load(folder / "run")
