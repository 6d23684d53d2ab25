"""Determinism: what is trained from a seed ends the same bit for bit, whatever was trained before, in any process."""

import hashlib
import json
import warnings

import fresh
import pytest
import torch
from test_staging import FAMILY, components, estimations, family, family_data, toy
from torch.backends import cudnn

from pyrovae import corruptions, data, fit, objectives, runs
from pyrovae.determinism import determinism


def cases():
    """Models, objectives and data that hold each component of all `__all__` once, by name."""
    used = set()
    for chosen in [*components(), *estimations()]:
        if "objective" in chosen and used >= (pair := {chosen["objective"], chosen["gradient"]}):
            continue
        used |= pair if "objective" in chosen else set()
        discrete = "objective" not in chosen and chosen.get("encoder") in ("Bernoulli", "OneHotCategorical")
        make = toy(**({"gradient": "ScoreFunction"} if discrete else {}), **chosen)
        yield "-".join(f"{axis}:{name}" for axis, name in chosen.items()), make
    for kind in (*FAMILY, *corruptions.__all__):
        yield f"model:{kind}", lambda kind=kind: (family(kind).double(), FAMILY.get(kind), *family_data(kind))
    yield (
        "data:Intensities",
        lambda: (*toy(likelihood="Bernoulli")()[:2], data.Intensities(torch.rand(32, 1, 4, 4).double())),
    )


def digest(make):
    """Of the parameters and buffers after two steps."""
    torch.manual_seed(0)
    vae, objective, *columns = make()
    objective = objective or objectives.ELBO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(vae, tuple(columns), objective=objective, epochs=1, batch_size=-(-len(columns[0]) // 2), progress=False)
    state = hashlib.sha256()
    for name, value in [*vae.state_dict().items(), *objective.named_parameters()]:
        state.update(name.encode() + value.detach().numpy().tobytes())
    return state.hexdigest()


def _keep_digests(path):
    path.write_text(json.dumps({name: digest(make) for name, make in cases()}))


def test_every_component_ends_the_same_in_any_order_and_process(tmp_path):
    other = fresh.start(_keep_digests, tmp_path / "other.json")
    here = {name: digest(make) for name, make in reversed([*cases()])}
    assert fresh.finish(other) == 0
    assert json.loads((tmp_path / "other.json").read_text()) == here
    assert len(set(here.values())) > 0.8 * len(here)  # some are by default what others are


def test_settings_are_those_of_before_afterwards():
    def settings():
        mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        return *mode, cudnn.deterministic, cudnn.benchmark

    before = settings()
    with determinism(torch.device("cpu")):
        assert settings() == (True, False, True, False)
    assert settings() == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = True
    try:
        with pytest.raises(KeyError), determinism(torch.device("cpu")):
            raise KeyError
        assert settings() == (True, True, before[2], True)
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = before[3]


def test_training_takes_deterministic_algorithms_where_asked():
    vae, objective, x = toy()()
    seen = []
    vae.likelihood.register_forward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    for asked in (True, False):
        seen.clear()
        fit(vae, x, objective=objective, epochs=1, progress=False, deterministic=asked)
        assert set(seen) == {asked}
    assert runs.parser().parse_args(["--deterministic"]).deterministic is True


def test_what_cannot_be_deterministic_is_told(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"), determinism(torch.device("cuda")):
        pass
    x, told = torch.zeros(3), pytest.raises(ValueError, match=r"^put_ has no deterministic algorithm on cpu: leave out")
    with told, determinism(torch.device("cpu")):
        x.put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), determinism(torch.device("cpu")):
        raise RuntimeError("shapes differ")
    assert not torch.are_deterministic_algorithms_enabled()
