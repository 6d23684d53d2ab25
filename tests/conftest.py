import builtins
import io
import urllib.request
from urllib.error import URLError

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")


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
