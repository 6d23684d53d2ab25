"""The command lines, in processes of their own; in this one where nothing is asked of the process."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fresh import SCRIPTS, run_script, start_script
from matplotlib.figure import Figure

from pyrovae import options, runs

FAST = ["--epochs", "2", "--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--num_samples", "20"]


def run_in_a_new_interpreter(folder, script, *arguments):
    """The command line itself, with all imports; code and output."""
    command, environment = [sys.executable, str(SCRIPTS / script), *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def train(folder, *arguments, run=run_script):
    code, out, err = run(folder, "train.py", *FAST, *arguments)
    assert code == 0, err
    return out


def test_a_run_keeps_all_that_the_contract_names_and_evaluating_it_gives_the_same(tmp_path):
    out = train(tmp_path, run=run_in_a_new_interpreter)
    folder = tmp_path / "runs" / "digits"
    assert "test ELBO" in out
    assert "kept in runs/digits" in out
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "checkpoint.pt",
        "checkpoint.1.pt",  # the one before
        "history.csv",
        "metrics.json",
        "figures",
    }
    names = {"training_curves", "latent_means", "reconstructions", "samples"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == names
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl"} <= rows[0].keys()

    text = (folder / "metrics.json").read_text()
    metrics = json.loads(text)
    flat = {"elbo", "log_likelihood", "log_likelihood_std_error", "reconstruction", "kl", "active_units", "seconds"}
    protocol = {"data", "split", "train_size", "test_size", "binarize", "binarize_seed", "scaling", "checksum"}
    assert flat | protocol <= metrics.keys()
    assert metrics["elbo"] <= metrics["log_likelihood"]

    code, out, err = run_script(tmp_path, "evaluate.py", "runs/digits")  # the same numbers bit for bit
    assert code == 0, err
    assert out == text
    assert (folder / "metrics.json").read_text() == text
    code, out, _ = run_script(tmp_path, "evaluate.py", "runs/digits", "--num_samples", "50", "--tsne")
    assert json.loads(out)["num_samples"] == 50
    assert (folder / "figures" / "latent_means_tsne.png").exists()


def test_config_repeats_a_run(tmp_path):
    train(tmp_path, "--out", "first", "--prior", "MixtureOfNormals", "--prior.components", "4", "--seed", "3")
    config = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())
    assert config["prior"]["init_args"]["components"] == 4
    code, _, err = run_script(tmp_path, "train.py", "--config", "first/config.yaml", "--out", "second")
    assert code == 0, err
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second"))
    assert first["seed"] == 3
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_print_config_shows_every_choice(tmp_path):
    code, out, _ = run_script(tmp_path, "train.py", "--likelihood", "Normal", "--print_config")
    assert code == 0
    config = yaml.safe_load(out)
    assert config["likelihood"] == {
        "class_path": "pyrovae.likelihoods.Normal",
        "init_args": {"scale": 1.0, "learned": True},
    }
    assert config["optimizer"]["class_path"] == "torch.optim.Adam"


def test_a_killed_run_resumes_to_the_same_end(tmp_path):
    fixed = ["--epochs", 8, "--batch_size", 16, "--num_samples", 20, "--latent_dim", 2]
    code, _, err = run_script(tmp_path, "train.py", *fixed, "--out", "whole")
    assert code == 0, err
    process = start_script(tmp_path, "train.py", *fixed, "--out", "killed")
    history = tmp_path / "killed" / "history.csv"
    while not history.exists() or len(history.read_text().splitlines()) < 3:
        assert process.exitcode is None
        time.sleep(0.02)
    time.sleep(0.05)  # within an epoch
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.json").exists()
    code, _, err = run_script(tmp_path, "train.py", "--out", "killed", "--resume")  # config.yaml knows the rest
    assert code == 0, err
    ends = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parts"]["vae"] for name in ("whole", "killed")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    whole, killed = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "killed"))
    assert {**whole, "seconds": 0} == {**killed, "seconds": 0}
    assert (tmp_path / "killed" / "figures" / "decoded_path.png").exists()  # of two latent dimensions


def in_process(tmp_path, monkeypatch, *arguments):
    """Parse and train within this process, for speed."""
    monkeypatch.chdir(tmp_path)
    choices, folder, resume = runs.parse([*FAST, *arguments])
    return runs.train(choices, folder, resume), folder


def test_new_runs_never_overwrite_old_ones(tmp_path, monkeypatch):
    folders = [in_process(tmp_path, monkeypatch, "--epochs", "1")[1] for _ in range(3)]
    assert folders == [Path("runs/digits"), Path("runs/digits-2"), Path("runs/digits-3")]
    with pytest.raises(ValueError, match="keeps a run already"):
        runs.parse(["--out", "runs/digits"])
    assert runs.parse(["--resume"])[1] == Path("runs/digits-3")
    with pytest.raises(ValueError, match="it can only grow"):
        runs.parse(["--resume", "--out", "runs/digits", "--epochs", "0"])
    with pytest.raises(ValueError, match="--batch_size differs"):
        runs.parse(["--resume", "--out", "runs/digits", "--batch_size", "3"])
    assert runs.parse(["--resume", "--out", "runs/digits", "--epochs", "5"])[0].epochs == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--likelihood", "Normal"],
        ["--likelihood", "Normal", "--likelihood.scale", "null"],
        ["--likelihood", "Normal", "--likelihood.scale", "0.3", "--likelihood.learned", "false"],
        ["--encoder_network", "Conv", "--decoder_network", "ConvTranspose"],
        ["--encoder_network", "MLP", "--encoder_network.activation", "Softplus"],
        ["--objective", "Trace_ELBO", "--objective.num_particles", "2"],
        ["--objective", "ELBO", "--objective.num_particles", "3"],
        ["--objective.gradient", "Pathwise"],
        ["--objective", "IWAE", "--objective.num_particles", "3", "--objective.gradient", "DReG"],
        ["--objective", "Renyi", "--objective.alpha=-.inf"],
        ["--objective.beta", "Linear", "--objective.beta.steps", "20", "--objective.analytic_kl", "true"],
        ["--prior", "Bernoulli", "--encoder", "Bernoulli", "--objective.gradient", "REBAR"],
        [
            *(
                "--prior",
                "Bernoulli",
                "--encoder",
                "Bernoulli",
                "--objective",
                "IWAE",
                "--objective.num_particles",
                "2",
            ),
            *("--objective.gradient", "ScoreFunction", "--objective.gradient.baseline", "LeaveOneOut"),
        ],
        ["--scheduler", "CosineAnnealingLR", "--scheduler.T_max", "2", "--encoder_lr", "1e-4", "--clip_norm", "10"],
        ["--optimizer", "SGD", "--optimizer.lr", "1e-3", "--patience", "2"],
        ["--binarize", "static"],
        ["--binarize", "threshold", "--latent_dim", "1"],
    ],
)
def test_components_are_chosen_by_name(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: path.touch())  # which takes longer than all else
    run, folder = in_process(tmp_path, monkeypatch, *arguments)
    metrics = runs.report(run, folder, num_samples=4)
    assert metrics["epochs"] == 2
    again = runs.load(folder)
    assert type(again.vae.likelihood).__name__ == type(run.vae.likelihood).__name__
    assert runs.score(again, 4, 0) == metrics


def test_a_component_of_ones_own_is_chosen_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import pyro.distributions as dist, torch\n"
        "from pyrovae.priors.prior import Prior\n"
        "class Wide(Prior):\n"
        "    def __init__(self, latent_dim: int, width: float = 1.0) -> None:\n"
        "        super().__init__(latent_dim)\n"
        "        self.register_buffer('scale', torch.full((latent_dim,), width))\n"
        "    def forward(self):\n"
        "        return dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run, _ = in_process(tmp_path, monkeypatch, "--prior", "mine.Wide", "--prior.width", "2.5")
    assert run.vae.prior().stddev.tolist() == [2.5] * 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "x"], "--epochs: 'x' is not a whole number"),
        (["--prior", "Foo"], "--prior: no class is called 'Foo'"),
        (["--prior.components", "3"], "has no such option"),
        (["--binarize", "foo"], "'threshold', 'static', 'dynamic'"),
        (["--foo", "3"], "--foo"),
        (["--data", "nosuch"], "digits, shapes"),
        (["--binarize", "none"], "binarize"),
        (["--device", "nosuch"], "no device 'nosuch'"),
        (["--objective.num_particles", "0"], "num_particles must be a whole number of at least 1"),
        (["--objective.gradient", "Nonesuch"], "gradient: no class is called 'Nonesuch'"),
        (["--objective.gradient", "Sleep"], "ELBO cannot be had with Sleep, which needs reweighted wake-sleep"),
        (
            ["--encoder", "Bernoulli"],
            "is over R^D, but the encoder Bernoulli over {0, 1}^D: use encoders.",
        ),
        (["--prior", "Bernoulli", "--encoder", "Bernoulli"], "not reparameterised, so Pathwise has no gradient"),
        (["--latent_dim", "0"], "latent_dim must be a whole number of at least 1"),
        (["--resume", "--out", "nosuch"], "nothing to resume in 'nosuch'"),
        (["--patience", "0"], "patience"),
        (["--clip_norm", "-1"], "clip_norm"),
        (["--num_samples", "1"], "num_samples"),
        (["--optimizer", "LBFGS"], "LBFGS"),
        (["--optimizer.lr", "1e-30"], "did not move"),
        (["--optimizer", "SGD", "--optimizer.lr", "1e9"], "smaller learning rate"),
        (["--objective", "Nonesuch"], "--objective: no class is called 'Nonesuch'"),
        (["--out", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_a_mistake_ends_with_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)

    def main():
        runs.train(*runs.parse(arguments))

    with pytest.raises(SystemExit) as end:
        options.command(main)
    assert end.value.code == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    bar = [line for line in before if line]  # the progress bar of what failed on the way
    assert all("it/s" in line or "epoch" in line for line in bar)
    stopped = words == "smaller learning rate"  # what had begun is kept, for a post-mortem
    assert any(tmp_path.rglob("config.yaml")) == any(tmp_path.rglob("trouble.pt")) == stopped


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_fails_at_once_leaves_what_else_a_folder_holds(tmp_path, monkeypatch):
    """Also a file of options, and the history of a run whose checkpoint was removed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("optimizer.lr: 1.0e-30  # mine")
    (tmp_path / "out" / "history.csv").touch()
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="did not move"):
        in_process(tmp_path, monkeypatch, "--out", "out", "--config", "out/config.yaml")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("resume", [True, False])
def test_what_is_refused_leaves_a_run_as_it_was(tmp_path, monkeypatch, resume):
    """Also one that was killed before it had a history."""
    run, folder = in_process(tmp_path, monkeypatch, "--epochs", "1", "--out", "out")
    (folder / "history.csv").unlink()
    before = contents(folder)
    run.options.batch_size = 7
    with pytest.raises(ValueError, match="a run goes on as it began" if resume else "keeps a run already"):
        runs.train(run.options, folder, resume)
    assert contents(folder) == before
    if resume:  # of one that is damaged, the options
        (folder / "checkpoint.pt").write_bytes(b"")
        with pytest.warns(UserWarning, match="goes on from"), pytest.raises(ValueError, match="goes on as it began"):
            runs.train(run.options, folder, resume)
        assert contents(folder)["config.yaml"] == before["config.yaml"]


def test_a_mistake_in_a_process_has_no_traceback(tmp_path):
    for run, script, arguments in (
        (run_in_a_new_interpreter, "train.py", ["--latent_dim", "two"]),
        (run_script, "evaluate.py", ["nosuch"]),
        (run_script, "evaluate.py", []),
    ):
        code, out, err = run(tmp_path, script, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: ")


def test_a_wrong_option_of_a_component_is_named_in_full(tmp_path):
    code, _, err = run_script(tmp_path, "train.py", "--prior", "MixtureOfNormals", "--prior.components", "x")
    assert (code, err) == (2, "error: --prior.components: 'x' is not a whole number\n")


def test_a_run_on_a_file_is_evaluated_from_anywhere(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.random.default_rng(0).normal(size=(40, 3)))
    train(tmp_path, "--data", "table.npz", "--likelihood", "Normal", "--out", "run")
    (tmp_path / "elsewhere").mkdir()
    code, out, err = run_script(tmp_path / "elsewhere", "evaluate.py", "../run", "--tsne")
    assert code == 0, err
    assert out == (tmp_path / "run" / "metrics.json").read_text()
    assert json.loads(out)["data"] == "table.npz"


def test_help_lists_components_and_their_options(tmp_path):
    code, out, _ = run_script(tmp_path, "train.py", "--help")
    assert code == 0
    for name in ("MixtureOfNormals", "likelihoods.Normal", "DiagonalNormal", "ConvTranspose", "objectives.ELBO"):
        assert name in out
    code, out, _ = run_script(tmp_path, "train.py", "--prior.help", "MixtureOfNormals")
    assert "--prior.components" in out
    assert "number of components" in out
