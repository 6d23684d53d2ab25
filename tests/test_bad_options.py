"""Command lines and files of options, whatever they hold: they are read, or refused in one line with exit code 2."""

import contextlib
import io
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrovae import catalogue, options, runs

CHEAP = settings(
    derandomize=True,
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = [entry.name for entry in catalogue.entries()]
KEYS = (
    *("data", "binarize", "latent_dim", "prior", "prior.components", "prior.temperature", "likelihood", "encoder"),
    *("encoder_network.hidden", "encoder_network.activation", "objective", "objective.num_particles", "objective.beta"),
    *("objective.gradient", "optimizer", "optimizer.lr", "scheduler", "epochs", "seed", "device", "model", "config"),
    *("compile", "out", "resume", "num_samples", "max_seconds", "", ".", "x", "prior."),
)
VALUES = (
    *("", "0", "-1", "0.5", "nan", "inf", "1e999", "9" * 400, "x", "null", "[]", "{}", "[1, 2]", "[a]", "{a: 1}"),
    *("os.system", "torch.nn.Linear", "a.b.c", ".", "--", "-", "\0", "é", "&a [*a]", "'", "[", "{", "@", "%s", "True"),
    *("!!python/object/apply:os.getcwd []", "pyrovae.networks.MLP", "torch.optim.SGD", "/dev/null", "a\nb"),
)
WORD = st.builds("--{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES) | st.sampled_from(NAMES))


def told(arguments, monkeypatch):
    """The line that a script writes of its options, or None where it would go on."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            options.command(lambda: runs.parse(arguments))
        except SystemExit as end:
            if end.code != 2:
                raise
        else:
            return None
    line = err.getvalue()
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


@CHEAP
@given(words=st.lists(WORD | st.sampled_from(VALUES), min_size=1, max_size=3))
def test_any_command_line_is_read_or_refused_in_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told([f"--out={tmp_path / 'run'}", *words], monkeypatch)


@CHEAP
@given(
    content=st.binary(max_size=30)
    | st.lists(st.builds("{}: {}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=3).map(
        lambda lines: "\n".join(lines).encode()
    )
)
def test_any_file_of_options_is_read_or_refused_in_one_line(content, tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_bytes(content)
    told([f"--config={tmp_path / 'x.yaml'}", f"--out={tmp_path / 'run'}"], monkeypatch)


@pytest.mark.parametrize("name", ["prior", "seed", "optimizer", "device", "compile", "encoder_network"])
def test_null_is_refused_where_an_option_needs_a_value(name, tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(f"latent_dim: 2\n{name}:\n")
    assert told([f"--config={tmp_path / 'x.yaml'}"], monkeypatch)


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "pickle.loads", "builtins.eval"])
@pytest.mark.parametrize("option", ["prior", "encoder_network.initializer", "optimizer"])
def test_what_starts_programs_is_no_component(path, option, monkeypatch):
    assert path in told([f"--{option}={path}"], monkeypatch)


@pytest.mark.parametrize(
    ("path", "kind"), [("prior=torch.nn.Linear", "Prior"), ("optimizer=pyrovae.priors.StandardNormal", "Optimizer")]
)
def test_a_class_of_another_kind_is_refused_by_both_names(path, kind, monkeypatch):
    name, _, given = path.partition("=")
    assert told([f"--{path}"], monkeypatch) == f"error: --{name}: {given} is not a subclass of {kind}\n"


def test_a_parser_that_lets_options_through_ends_a_wrong_line_alike(capsys):
    parser = options.PlainParser("What it does.")
    parser.add_argument("--epochs", type=int)
    with pytest.raises(SystemExit) as end:
        parser.parse_known_args(["--epochs", "x"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: argument --epochs: invalid int value: 'x'\n"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--model=VQVAE", "--prior=VampPrior"], "prior"),
        (["--model=Autoencoder", "--encoder=IAF"], "encoder"),
        (["--model=LadderVAE", "--encoder=IAF"], "encoder"),
        (["--model=DeepMarkovModel", "--encoder_network.hidden=[4]"], "encoder_network"),
        (["--model=ConditionalVAE", "--model.learned_prior=true", "--prior=VampPrior"], "prior"),
        (["--model=AdversarialVB", "--model.adaptive_contrast=false", "--encoder=IAF"], "encoder"),
    ],
)
def test_a_part_that_the_model_has_not_is_refused(words, name, tmp_path):
    chosen, _, _ = runs.parse([f"--out={tmp_path / 'run'}", *words])
    with pytest.raises(ValueError, match=f"--{name} is not taken by {words[0].partition('=')[2]}"):
        runs.require_taken(chosen)
    chosen, _, _ = runs.parse([f"--out={tmp_path / 'run'}", *words[:-1]])
    runs.require_taken(chosen)
