"""Reproductions: protocols on file, how they are shortened, and our numbers beside those printed."""

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from data_files import write_idx_set
from matplotlib.figure import Figure
from scipy import stats

from pyrovae import comparison, options, reproduction, runs

SCRIPTS = Path(__file__).parent.parent / "scripts"
PROTOCOLS = SCRIPTS / "reproductions"
NAMES = sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))
PROTOCOL = {name: reproduction.read(PROTOCOLS / f"{name}.yaml") for name in NAMES}
COMPARISONS = [name for name in NAMES if "options" in PROTOCOL[name]]
MLP = {"class_path": "MLP", "init_args": {"hidden": [8]}}
TINY = {
    "data": "kinds.npy",
    "latent_dim": 3,
    "encoder_network": MLP,
    "decoder_network": MLP,
    "batch_size": 32,
    "epochs": 4,
    "num_samples": 20,
    "valid_num_samples": 2,
    "seeds": [0, 1],
}


@pytest.fixture(autouse=True, scope="module")
def _parsers():
    """Made once."""
    full, short = comparison.parser(), runs.parser()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "parser", lambda: full)
        patch.setattr(runs, "parser", lambda: short)
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where we stand, with 120 data; few draws for signal-to-noise ratios, and figures that are not drawn."""
    x = np.random.default_rng(0).random((120, 6)) < np.linspace(0.1, 0.9, 6)
    np.save(tmp_path / "kinds.npy", x.astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "_K", (1, 2))
    monkeypatch.setattr(comparison, "_DRAWS", 4)
    monkeypatch.setattr(comparison, "_TIGHT", 10)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: path.touch())
    return tmp_path


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_idx_set(root, "mnist", train=2400)
    return root


# Protocols on file ---------------------------------------------------------------------------------------------------


def test_a_protocol_is_a_comparison_or_a_study():
    assert COMPARISONS == ["dreg", "iwae", "iwae_50", "iwae_two_layers", "miwae", "tvo", "vampprior"]
    assert [name for name in NAMES if "study" in PROTOCOL[name]] == ["gaussian_toy"]
    for protocol in PROTOCOL.values():
        assert protocol["title"]
        assert all(reference.startswith("https://") for reference in protocol["references"])


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        ("dreg", [1, 1, 5, 5, 50, 50]),
        ("iwae", [1, 5, 5, 5]),
        ("iwae_50", [50, 50]),
        ("iwae_two_layers", [5, 5]),
        ("miwae", [64] * 6),
        ("tvo", [5] * 3 + [10] * 3 + [50] * 3),
    ],
)
def test_a_protocol_has_the_entries_that_are_published(name, draws, tmp_path, monkeypatch):
    unseen = comparison.Measured(None, 0.0)  # or it would build them all
    monkeypatch.setattr(comparison, "_check_comparable", lambda entries, budget: dict.fromkeys(entries, unseen))
    protocol = PROTOCOL[name]
    chosen = comparison.parse(["--config", yaml.safe_dump(protocol["options"]), "--out", str(tmp_path)])
    assert list(chosen.entries) == list(protocol["published"])
    for (entry, of), k in zip(chosen.entries.items(), draws, strict=True):
        kind, objective = entry.split()[0].replace("VAE", "ELBO"), of.objective.init_args
        assert of.objective.class_path.split(".")[-1] == kind
        assert objective.num_particles * objective.get("groups", 1) == k
        assert ("DReG" in entry) == (objective.gradient is not None)
        assert of.epochs == (5000 if name == "tvo" else 3280)
        assert of.batch_size == (1000 if name == "tvo" else 20)
        assert of.latent_dim == (100 if name == "dreg" else 50)
        assert of.num_samples == 5000
        for network in (of.encoder_network, of.decoder_network):
            assert network.init_args.hidden == [200, 200]
            assert network.init_args.activation.class_path.endswith("Tanh")


@pytest.mark.parametrize("name", [name for name in COMPARISONS if name != "vampprior"])
def test_a_protocol_can_be_built(name, mnist, tmp_path):
    options = PROTOCOL[name]["options"] | {"entries": PROTOCOL[name]["options"]["entries"][-1:]}
    chosen = comparison.parse(["--config", yaml.safe_dump(options), "--out", str(tmp_path), "--root", str(mnist)])
    ((entry, of),) = chosen.entries.items()
    vae, dataset, _ = runs.prepare(of)
    assert entry in PROTOCOL[name]["published"]
    assert len(dataset.train) == 2400 - PROTOCOL[name]["options"]["valid_size"]
    assert dataset.protocol.binarize == "dynamic"
    sizes = [tuple(p.shape) for p in vae.guide_parameters() if p.dim() == 2]
    layers = of.model.get("init_args", {}).get("latent_dims") or [of.latent_dim]
    below = [784, *layers]
    assert sizes == [s for i, d in zip(below, layers, strict=False) for s in ((200, i), (200, 200), (2 * d, 200))]


def test_the_vampprior_protocol_has_gated_networks_and_differs_in_prior_or_posterior_alone(mnist, tmp_path):
    options = PROTOCOL["vampprior"]["options"]
    chosen = comparison.parse(["--config", yaml.safe_dump(options), "--out", str(tmp_path), "--root", str(mnist)])
    assert list(chosen.entries) == list(PROTOCOL["vampprior"]["published"])
    vaes = [runs.prepare(of)[0] for of in chosen.entries.values()]
    assert [type(vae.prior).__name__ for vae in vaes] == [
        *("StandardNormal", "MixtureOfNormals", "VampPrior", "StandardNormal", "StandardNormal")
    ]
    assert [type(vae.encoder).__name__ for vae in vaes] == [*["DiagonalNormal"] * 3, "IAF", "Spline"]
    assert vaes[1].prior().component_distribution.batch_shape == vaes[2].prior.pseudo_inputs.shape[:1] == (500,)
    for vae in vaes:
        sizes = [tuple(p.shape) for p in vae.likelihood.parameters() if p.dim() == 2]
        assert sizes == [(2 * 300, 40), (2 * 300, 300), (784, 300)]


def rates(protocol):
    """The learning rate of each pass."""
    options = {name: value for name, value in protocol["options"].items() if name not in ("entries", "seeds")}
    chosen = runs.parser().instantiate(runs.parser().parse_args(["--config", yaml.safe_dump(options)]))
    optimizer = chosen.optimizer([torch.nn.Parameter(torch.zeros(1))])
    scheduler, found = chosen.scheduler(optimizer), []
    for _ in range(chosen.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return optimizer, found


@pytest.mark.parametrize("name", ["iwae", "dreg", "iwae_50", "iwae_two_layers", "miwae"])
def test_stage_i_has_3_to_the_i_passes_at_a_rate_of_10_to_the_minus_i_sevenths(name):
    optimizer, found = rates(PROTOCOL[name])
    assert found == pytest.approx([1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)])
    assert optimizer.param_groups[0]["eps"] == 1e-4
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_protocol_of_another_paper_keeps_none_of_the_schedule():
    options = PROTOCOL["tvo"]["options"]
    assert options["scheduler"] is None
    assert options["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    assert options["latent_dim"] == PROTOCOL["iwae"]["options"]["latent_dim"]


def test_an_unknown_protocol_is_told_the_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        options.command(lambda: main("nosuch"))
    assert end.value.code == 2
    names = "dreg, gaussian_toy, iwae, iwae_50, iwae_two_layers, miwae, tvo, vampprior"
    assert capsys.readouterr().err == f"error: no protocol 'nosuch': give one of {names}\n"


def main(*arguments, protocols=PROTOCOLS):
    script = runpy.run_path(str(SCRIPTS / "reproduce.py"))["main"]
    script.__globals__["PROTOCOLS"] = protocols
    script(list(arguments))


# Shortening ----------------------------------------------------------------------------------------------------------


def scheduled(milestones, epochs, num_samples=5000):
    scheduler = {"class_path": "MultiStepLR", "init_args": {"milestones": milestones, "gamma": 0.5}}
    return {"scheduler": scheduler, "epochs": epochs, "num_samples": num_samples, "batch_size": 20}


@pytest.mark.parametrize(
    ("fraction", "milestones", "epochs"),
    [
        (0.1, [1, 2, 3], 6),  # stages of 1, 3, 9 and 27 passes become 0.1, 0.3, 0.9 and 2.7 of them
        (0.34, [1, 2, 5], 14),
        (1e-9, [1, 2, 3], 4),
        (1.0, [1, 4, 13], 40),
    ],
)
def test_each_stage_is_shortened_to_one_pass_at_least(fraction, milestones, epochs):
    before = scheduled([1, 4, 13], 40)
    assert reproduction.shortened(before, fraction) == scheduled(milestones, epochs, 1000)
    assert before == scheduled([1, 4, 13], 40)


def test_a_warm_up_of_beta_is_shortened_with_the_passes():
    before = PROTOCOL["vampprior"]["options"]
    after = reproduction.shortened(before, 0.05)
    steps = [o["objective"]["init_args"]["beta"]["init_args"]["steps"] for o in (before, after)]
    assert (after["epochs"], steps) == (100, [50_000, 2_500])


def test_without_a_schedule_passes_are_shortened_alone():
    before = {"epochs": 5000, "num_samples": 100}
    assert reproduction.shortened(before, 0.01) == {"epochs": 50, "num_samples": 100}
    shorter = reproduction.shortened(PROTOCOL["tvo"]["options"], 0.01)
    assert (shorter["epochs"], shorter["scheduler"]) == (50, None)


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_shortened_protocol_has_all_its_learning_rates(name):
    before = PROTOCOL[name]["options"]
    shorter = reproduction.shortened(before, 0.001)
    stages = len(before["scheduler"]["init_args"]["milestones"]) + 1 if before["scheduler"] else 1
    assert before["epochs"] * 0.001 <= shorter["epochs"] + 1 <= before["epochs"] * 0.001 + stages + 1
    if before["scheduler"]:
        found = rates({"options": shorter})[1]
        assert np.unique(np.round(found, 9)) == pytest.approx(sorted(1e-3 * 10 ** (-i / 7) for i in range(8)), rel=1e-3)


class Parsed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("name", COMPARISONS)
def test_in_full_a_protocol_is_run_as_it_is_written(name, tmp_path, monkeypatch):
    def parse(arguments):
        given.extend(arguments)
        raise Parsed

    given = []
    monkeypatch.setattr(comparison, "parse", parse)
    with pytest.raises(Parsed):
        reproduction.reproduce(PROTOCOL[name], tmp_path / "out", 1.0, "data")
    assert yaml.safe_load(given[given.index("--config") + 1]) == PROTOCOL[name]["options"]
    assert given[given.index("--root") + 1] == "data"


@pytest.mark.parametrize("fraction", ["0", "-0.5", "1.01", "nan"])
def test_a_fraction_out_of_range_is_refused_before_anything_is_done(fraction, folder, capsys):
    for name in ("iwae", "gaussian_toy"):
        with pytest.raises(SystemExit) as end:
            options.command(lambda name=name: main(name, f"--fraction={fraction}"))
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "fraction" in line
    assert [path.name for path in folder.iterdir()] == ["kinds.npy"]


# Comparisons ---------------------------------------------------------------------------------------------------------


def test_our_numbers_stand_beside_those_published(folder, capsys):
    (folder / "protocols").mkdir()
    entries = ["VAE: --objective ELBO", "IWAE: --objective IWAE --objective.num_particles 4"]
    published = {"VAE": {"log_likelihood": -3.5, "active_units": 2}, "IWAE": {"log_likelihood": -3.0}}
    published["not trained"] = {"log_likelihood": -2.0}
    protocol = {
        "title": "a tiny one",
        "protocol": "as told",
        "deviations": "none",
        "cost": "nothing",
        "published": published,
        "options": TINY | {"entries": entries},
    }
    (folder / "protocols" / "tiny.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    main("tiny", "--fraction", "0.5", protocols=folder / "protocols")
    out = capsys.readouterr().out
    assert out.startswith("title: a tiny one\nprotocol: as told\ndeviations: none\ncost: nothing\n")
    assert out.endswith("shortened to a fraction of 0.5 kept in runs/tiny-0.5\n")
    table = pd.read_csv(folder / "runs" / "tiny-0.5" / "reproduction.csv").set_index("entry")
    ours = pd.read_csv(folder / "runs" / "tiny-0.5" / "table.csv").set_index("entry")
    assert list(table.index) == ["VAE", "IWAE"]
    for name, row in table.iterrows():
        assert row["ours"] == ours.loc[name, "log_likelihood"]
        assert row["published"] == published[name]["log_likelihood"]
        assert row["difference"] == pytest.approx(row["ours"] - row["published"])
        assert row["monte_carlo_error"] == ours.loc[name, "log_likelihood_monte_carlo_error"] > 0
        assert row["seed_error"] == ours.loc[name, "log_likelihood_seed_std_error"] > 0
        assert row["active_units"] == ours.loc[name, "active_units"]
        assert (row["passes"], row["of_passes"], row["draws"]) == (2, 4, 20)
    assert table["published_active_units"].tolist() == [2, pytest.approx(math.nan, nan_ok=True)]
    columns = ("entry", "ours", "published", "difference", "monte_carlo_error", "seed_error", "passes", "of_passes")
    assert all(re.search(rf"\| +{column} +\|", out) for column in columns)

    main("tiny", "--fraction", "0.5", protocols=folder / "protocols")  # is finished
    assert capsys.readouterr().out.count("finished before") == 4
    with pytest.raises(ValueError, match="keeps a run with another --epochs"):
        main("tiny", "--out", "runs/tiny-0.5", protocols=folder / "protocols")


# Studies -------------------------------------------------------------------------------------------------------------


def test_the_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x, y = np.log(2.0 ** np.arange(7)), rng.normal(size=7)
    ours, error = reproduction.slope(x, y, np.full(7, 0.3))
    assert ours == pytest.approx(np.polyfit(x, y, 1)[0])
    assert ours == pytest.approx(stats.linregress(x, y).slope)
    assert error == pytest.approx(0.3 * math.sqrt(np.polyfit(x, y, 1, cov="unscaled")[1][0, 0]))
    sigma = rng.uniform(0.1, 1.0, 7)
    draws = np.polyfit(x, (y + rng.normal(size=(20_000, 7)) * sigma).T, 1)[0]
    assert reproduction.slope(x, y, sigma)[1] == pytest.approx(draws.std(), rel=0.03)


def small_study():
    protocol = PROTOCOL["gaussian_toy"]
    small = {"data": 32, "num_particles": [4, 16], "num_draws": 20, "ranges": [[4, 16]]}
    return protocol | {"study": protocol["study"] | small}


def test_a_study_tells_slopes_and_is_not_drawn_again(folder, monkeypatch):
    protocol, out = small_study(), folder / "toy"
    table = reproduction.reproduce(protocol, out)
    assert {path.name for path in out.iterdir()} == {
        "20 draws",
        "signal_to_noise.png",
        *(f"{name}.{e}" for name in ("signal_to_noise", "reproduction") for e in ("csv", "json", "md", "tex")),
    }
    rows = pd.read_csv(out / "signal_to_noise.csv").set_index(["pair", "block", "num_particles"])
    assert len(rows) == 2 * 2 * 2
    assert len(table) == 4
    for row in table.to_dict("records"):
        few, many = (rows.loc[(row["pair"], row["block"], k)] for k in (4, 16))
        assert row["ours"] == pytest.approx(math.log(many["snr"] / few["snr"]) / math.log(4))
        error = math.hypot(many["snr_std_error"] / many["snr"], few["snr_std_error"] / few["snr"]) / math.log(4)
        assert row["monte_carlo_error"] == pytest.approx(error)
        assert row["published"] == protocol["published"][f"{row['pair']}, {row['block']}"]
        assert row["difference"] == pytest.approx(row["ours"] - row["published"])
        assert (row["from K"], row["to K"], row["draws"]) == (4, 16, 20)

    before = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    original = reproduction.gradient_study
    monkeypatch.setattr(reproduction, "gradient_study", lambda *args, **kwargs: pytest.fail("drawn again"))
    pd.testing.assert_frame_equal(reproduction.reproduce(protocol, out), table)
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == before
    monkeypatch.setattr(reproduction, "gradient_study", original)
    assert set(reproduction.reproduce(protocol, out, fraction=0.9)["draws"]) == {18}
    assert (out / "20 draws").exists()  # a shorter study is kept beside the longer one
    protocol["study"]["data"] = 16  # is another study
    again = reproduction.reproduce(protocol, out)
    assert not np.isclose(again["ours"], table["ours"]).any()


def test_a_study_goes_on_where_it_was_stopped(folder, monkeypatch):
    expected = reproduction.reproduce(small_study(), folder / "whole")
    original, drawn = reproduction.gradient_study, []

    def stopped(*args, **kwargs):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(reproduction, "gradient_study", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduction.reproduce(small_study(), folder / "stopped")
    drawn.clear()
    pd.testing.assert_frame_equal(reproduction.reproduce(small_study(), folder / "stopped"), expected)
    assert len(drawn) == 1


def test_a_ratio_that_is_not_told_from_0_has_no_slope(folder, monkeypatch):
    def study(*args, **kwargs):
        rows = original(*args, **kwargs)
        return [row | {"snr": 0.0 if row["pair"] == "IWAE / DReG" else row["snr"]} for row in rows]

    original = reproduction.gradient_study
    monkeypatch.setattr(reproduction, "gradient_study", study)
    table = reproduction.reproduce(small_study(), folder / "toy")
    assert list(table["ours"].isna()) == [pair == "IWAE / DReG" for pair in table["pair"]]


def test_published_slopes_are_of_pairs_that_are_studied():
    study, published = PROTOCOL["gaussian_toy"]["study"], PROTOCOL["gaussian_toy"]["published"]
    assert set(published) == {f"{pair}, {block}" for pair in study["pairs"] for block in ("inference", "generative")}
    for low, high in study["ranges"]:
        assert {low, high} <= set(study["num_particles"])
