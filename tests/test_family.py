"""The family side by side: a table with its empty cells, figures, and going on where it stopped."""

import json
import math
import re
import shlex
from dataclasses import replace

import pytest
import torch
from data_files import write_few_digits
from fresh import run_script

from pyrovae import data, encoders, family, likelihoods, models, networks, priors, runs

SMALL = ["--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--num_samples", "10"]
FAST = ["--data", "few.npz", *SMALL]


def test_every_model_is_a_member():
    named = " ".join(member.options for member in family.MEMBERS.values())
    assert {*re.findall(r"--model (\w+)", named), "VAE"} == set(models.__all__)


def test_every_member_can_be_parsed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, member in family.MEMBERS.items():
        options, *_ = runs.parse(shlex.split(member.options))
        assert options.epochs == 200, name
        assert {*member.notes, *member.lacking} <= {*family.COLUMNS}


def test_the_script_compares_and_goes_on(tmp_path):
    names = ["VAE", "autoencoder", "adversarial AE"]
    command = ["family.py", "--members", *names, "--epochs", "1", "--out", "side by side", *FAST]
    write_few_digits(tmp_path / "few.npz")
    code, out, err = run_script(tmp_path, *command)
    assert code == 0, err
    folder = tmp_path / "side by side"
    assert (folder / "table.md").read_text() in out
    rows = [line.split("|")[1:-1] for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in rows[0]]
    table = {row[0].strip(): dict(zip(header, map(str.strip, row), strict=True)) for row in rows[2:]}
    assert [*table] == names
    for column in ("log p(x)", "ELBO", "KL"):
        assert re.fullmatch(r"\[\d\]", table["autoencoder"][column])
    assert re.fullmatch(r"-\d\d\.\d\d \[\d\]", table["adversarial AE"]["log p(x)"])
    assert re.fullmatch(r"-\d\d\.\d\d", table["VAE"]["log p(x)"])
    assert "discriminator accuracy" in table["adversarial AE"]["of its own"]
    assert float(table["VAE"]["largest step"]) >= 1
    metrics = json.loads((folder / "VAE" / "metrics.json").read_text())
    assert table["VAE"]["ELBO"] == f"{metrics['elbo']:.2f}"
    assert {path.stem for path in (folder / "figures").iterdir()} == {"reconstructions", "paths", "samples"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    code, again, err = run_script(tmp_path, *command)
    assert code == 0, err
    assert again == out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    longer = ["family.py", "--members", "VAE", "--epochs", "2", "--out", "side by side", *FAST]
    code, _, err = run_script(tmp_path, *longer)
    assert code == 0, err
    assert json.loads((folder / "VAE" / "metrics.json").read_text())["epochs"] == 2  # not those of one epoch
    code, _, err = run_script(tmp_path, "family.py", "--members", "VEA")
    assert code == 2
    assert "there is no member called 'VEA'" in err


class Pixels(torch.nn.Module):
    """One pixel that follows z, and one that jumps where z passes 0."""

    in_shape = (1,)

    def __init__(self, jump):
        super().__init__()
        self.jump = torch.nn.Parameter(torch.tensor(jump))

    def forward(self, z):
        return torch.cat([z, self.jump * (z > 0)], -1)


@pytest.mark.parametrize(("jump", "expected"), [(0.0, 1.0), (3.0, None)])
def test_the_largest_step_is_that_of_the_means(jump, expected):
    vae = models.VAE(
        priors.StandardNormal(1), likelihoods.Normal(Pixels(jump), 1.0), encoders.Delta(networks.MLP(2, 1, hidden=()))
    )
    with torch.no_grad():
        vae.encoder.network.layers[-1].weight.copy_(torch.tensor([[1.0, 0.0]]))
        vae.encoder.network.layers[-1].bias.zero_()
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).repeat(10, 1)  # each way from -1 to 1, by way of 0
    run = runs.Run(vae, data.Dataset(x, x, x, None, None), None, None)
    found = family.largest_step(run, pairs=10, steps=50)
    odd = run._replace(dataset=data.Dataset(x, x, x[:19], None, None))
    assert family.largest_step(odd, pairs=10, steps=50) == pytest.approx(found)
    small = 2 / 50
    large = (small**2 + jump**2) ** 0.5
    assert found == pytest.approx(large / ((49 * small + large) / 50), rel=1e-3)
    if expected:
        assert found == pytest.approx(expected, rel=1e-3)
    assert not [*family.figures({"VAE": run}, seed=0)]  # as the data are no images


def test_a_cell_without_a_number_says_why():
    metrics = dict.fromkeys(family.COLUMNS.values(), 1.5)
    rows, notes = family.table({"VAE": metrics, "two layers": metrics | {"largest_step": math.nan}})
    marks = rows.set_index("model")["largest step"]
    assert marks["VAE"] == "1.50"
    assert f"{marks['two layers']} x is not made of one vector z" in notes


@pytest.mark.parametrize(("name", "drawn"), [("autoencoder", {"paths"}), ("two layers", {"samples"})])
def test_a_member_alone_has_the_figures_that_there_are_for_it(name, drawn, tmp_path):
    options, *_ = runs.parse([*SMALL, *shlex.split(family.MEMBERS[name].options), "--out", str(tmp_path)])
    vae, dataset, _ = runs.prepare(options)
    run = runs.Run(vae, replace(dataset, test=dataset.test[:5]), [], options)
    assert math.isnan(family.largest_step(run)) == (name == "two layers")
    assert {figure for figure, _ in family.figures({name: run}, seed=0)} == {"reconstructions", *drawn}
