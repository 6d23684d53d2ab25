"""The benchmark measures what it says it does. How long anything takes is no test's concern."""

import gc
import importlib
import json
from pathlib import Path
from statistics import median

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parent.parent / "scripts"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def module(name):
    return importlib.import_module(name)


def case(name="tiny", **changes):
    return module("peers.case").Case(name, **{"batch_size": 20, "hidden": 30, "latent_dim": 4, "pixels": 40} | changes)


def peers_of(case, *names):
    return {name: module("peers").load(name)(case, case.batches(CPU)) for name in names}


def agree(case, peers):
    return module("peers.agreement").require_agreement(case, peers, case.batches(CPU))


def test_the_script_keeps_all_that_it_measured(tmp_path, monkeypatch, capsys):
    benchmark = module("benchmark")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module("peers.measure"), "_SIZES", {"cpu": (32,)})
    monkeypatch.setattr(benchmark, "MAIN", [case("elbo-20")])
    monkeypatch.setattr(benchmark, "GROWTH", {"width": [case("width=30"), case("width=60", hidden=60)]})
    monkeypatch.setattr(benchmark, "EPOCH", case("epoch"))
    monkeypatch.setattr(benchmark, "EPOCH_SIZE", 60)
    alone = {"first_step_seconds": 0.125, "third_step_seconds": 1.25, "peak_mib": 512.0, "imports_mib": 256.0}
    monkeypatch.setattr(benchmark, "alone", lambda *_: alone)  # which has a test of its own
    arguments = ["--only", "elbo-20", "width", "epoch", "--contenders", "pyrovae", "Pyro", "PyTorch"]
    arguments += ["--rounds", "2", "--round_seconds", "0.001", "--device", "cpu", "--out", "kept"]
    benchmark.main(arguments)

    results = json.loads((tmp_path / "kept" / "benchmark.json").read_text())
    assert results["settings"]["rounds"] == 2
    assert results["machine"]["torch_threads"] == 1
    assert [c["case"]["name"] for c in results["cases"]] == ["elbo-20"]
    assert list(results["cases"][0]["contenders"]) == ["pyrovae", "PyTorch", "Pyro"]
    assert [(c["along"], c["case"]["hidden"]) for c in results["growth"]] == [("width", 30), ("width", 60)]
    assert [list(c["contenders"]) for c in results["growth"]] == 2 * [["pyrovae", "PyTorch"]]
    for measured in results["cases"] + results["growth"]:
        seconds = measured["round_seconds"]
        assert all(len(of_rounds) == 2 for of_rounds in seconds.values())
        references = {"ratio": "pyrovae", "over_matrix_products": "matrix_products", "over_traffic": "traffic"}
        for name, of in measured["contenders"].items():
            for key, to in references.items():
                ratios = [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
                assert of[key]["median"] == pytest.approx(median(ratios))
                assert min(ratios) <= of[key]["low"] <= of[key]["median"] <= of[key]["high"] <= max(ratios)
            rate = 2 * 32**3 / min(seconds["square_product_32"])
            share = measured["work"]["operations"] / median(seconds[name]) / rate
            assert of["share_of_rate"] == pytest.approx(share)
    (of_fit,) = results["epochs"]
    assert (of_fit["contender"], of_fit["steps"], len(of_fit["round_seconds"]["epoch"])) == ("pyrovae", 3, 2)

    table = (tmp_path / "kept" / "table.md").read_text()
    assert table in capsys.readouterr().out
    words = ("elbo-20", "width=60", "pyrovae", "Pyro ", "PyTorch", "512 (256)", "epoch of fit")
    assert [word for word in words if word not in table] == []
    assert {p.name for p in (tmp_path / "kept" / "figures").iterdir()} == {"relative_times.png", "growth.png"}
    with pytest.raises(ValueError, match="keeps a benchmark already"):
        benchmark.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--rounds", "0"], "rounds must be at least 1, and round_seconds positive, not 0 and 0.1"),
        (["--round_seconds", "0"], "rounds must be at least 1, and round_seconds positive, not 9 and 0.0"),
        (["--only", "vamp-100", "--contenders", "PyTorch"], "no contender takes part in a case that was chosen"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, arguments, error):
    benchmark = module("benchmark")
    with pytest.raises(ValueError, match=error):
        benchmark.main([*arguments, "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_case_that_does_not_exist_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        module("benchmark").parse(["--only", "elbo-7"])
    assert capsys.readouterr().err.startswith("error: --only: 'elbo-7' is not one of 'elbo-20', 'elbo-100'")


@pytest.mark.parametrize("name", ["pyrovae", "PyTorch", "NumPyro", "pythae", "Pyro"])
@pytest.mark.parametrize("num_particles", [1, 5])
def test_peers_compute_the_same_bound_and_learn_alike(name, num_particles):
    peers = module("peers")
    if peers.missing(name, CPU):
        pytest.skip(peers.missing(name, CPU))
    of_case = case(num_particles=num_particles)
    told = agree(of_case, peers_of(of_case, "pyrovae", name))
    assert told[name]["gain"] > 1


@pytest.mark.parametrize("part", [{"prior": "VampPrior"}, {"encoder": "IAF"}])
def test_plain_pyro_trains_our_programs_where_its_example_has_none(part):
    of_case, load = case(**part), module("peers").load
    takes_part = [name for name in module("peers").NAMES if not module("peers").missing(name, CPU)]
    takes_part = [name for name in takes_part if load(name).takes(of_case)]
    assert takes_part == ["pyrovae compiled", "pyrovae", "Pyro on our VAE"]
    agree(of_case, peers_of(of_case, "pyrovae", "Pyro on our VAE"))


def test_a_peer_that_computes_another_bound_is_refused():
    by_hand = module("peers.by_hand")

    class HalfTheKL(by_hand.Eager):
        def negative_elbo(self, x, noise):
            loc, scale = self.posterior(x)
            return super().negative_elbo(x, noise) - 0.25 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()

    of_case = case()
    planted = HalfTheKL(of_case, of_case.batches(CPU))
    with pytest.raises(ValueError, match=r"^planted computes another bound in case tiny: its loss is \d.* ± \d"):
        agree(of_case, {**peers_of(of_case, "pyrovae"), "planted": planted})


def test_a_peer_that_learns_otherwise_is_refused():
    of_case = case()
    planted = peers_of(of_case, "PyTorch")["PyTorch"]
    planted.optimizer.param_groups[0]["lr"] *= 2
    with pytest.raises(ValueError, match=r"^planted learns differently in case tiny: 20 steps .* that of pyrovae "):
        agree(of_case, {**peers_of(of_case, "pyrovae"), "planted": planted})


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_work_of_a_step_is_that_of_the_steps(num_particles):
    of_case = case(num_particles=num_particles)
    floor, peer = module("peers.floor"), peers_of(of_case, "PyTorch")["PyTorch"]
    assert of_case.parameters == sum(p.numel() for p in peer.networks.parameters())
    for steps in (peer, floor.MatrixProducts(of_case, CPU)):
        with FlopCounterMode(display=False) as counter:
            steps.take(2)
        assert counter.get_total_flops() == 2 * of_case.operations
    traffic = floor.Traffic(of_case, CPU)
    assert 2 * traffic.source.nbytes == pytest.approx(of_case.resident, rel=0.01)
    assert 2 * (traffic.whole * traffic.source.nbytes + 4 * traffic.rest) == pytest.approx(of_case.bytes, rel=0.01)


def test_in_each_round_everybody_has_one_turn():
    timing, took = module("peers.timing"), []

    class Steps(module("peers.peer").Steps):
        device = CPU

        def __init__(self, name):
            self.name = name

        def take(self, n):
            took.append((self.name, gc.isenabled()))

    names = ["a", "b", "c"]
    seconds = timing.interleaved({name: Steps(name) for name in names}, rounds=20, round_seconds=1e-9)
    assert {name: len(of) for name, of in seconds.items()} == dict.fromkeys(names, 20)
    turns = took[-2 * 3 * 20 :]  # one step that is not timed, and as many as fit, which is one
    assert [name for name, _ in turns[::2]] == [name for name, _ in turns[1::2]]
    assert {collecting for _, collecting in turns[1::2]} == {False}
    assert gc.isenabled()
    rounds = [tuple(name for name, _ in turns[i : i + 6 : 2]) for i in range(0, len(turns), 6)]
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 3


def test_a_peer_alone_tells_its_time_and_memory(monkeypatch):
    alone = module("peers.alone").alone
    numbers = alone(case(), "PyTorch", CPU)
    assert 0 < numbers["first_step_seconds"] <= numbers["third_step_seconds"]
    assert 50 < numbers["imports_mib"] <= numbers["peak_mib"]
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(ValueError, match="PyTorch failed alone in case tiny: exit code 1"):
        alone(case(), "PyTorch", CPU)
