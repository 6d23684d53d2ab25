import ast
import inspect
import math
import re
import shlex
import textwrap
from pathlib import Path
from runpy import run_path

import pyro
import pytest
import torch

import pyrovae
from pyrovae import catalogue, comparison, gradients, objectives, runs, tasks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    examples = BLOCKS[1:]
    assert len(examples) == 13
    scope = {}
    for code in examples:
        exec(compile(code, "README.md", "exec"), scope)
    assert re.search(r"ELBO -2\d\.\d\d = -\d\d\.\d\d - \d\.\d\d nats\nlog p\(x\) -2\d", capsys.readouterr().out)
    assert scope["new"].shape == (20, 1, 8, 8)


def two_layers():
    """The README's programs and images."""
    scope = {}
    (last,) = (block for block in BLOCKS if "for objective in (" in block)
    for code in (BLOCKS[1], BLOCKS[2], last.partition("for objective in (")[0]):
        exec(compile(code.replace("epochs=50", "epochs=0"), "README.md", "exec"), scope)
    return scope["programs"], scope["images"]


def test_the_users_own_programs_run_under_every_objective():
    programs, images = two_layers()
    pairs = [
        (getattr(objectives, name), e) for name in objectives.__all__ for e in getattr(objectives, name).estimators
    ]
    for bound, estimator in pairs:
        if estimator is gradients.REBAR or bound in (objectives.BetaTCVAE, objectives.FactorVAE):  # for one site
            continue
        pyro.set_rng_seed(0)
        before = [p.detach().clone() for p in programs.parameters()]
        objective = bound(num_particles=3, gradient=estimator())
        svi = pyrovae.SVI(programs.model, programs.guide, torch.optim.SGD(programs.parameters(), 1e-5), objective)
        assert math.isfinite(svi.step(images))
        assert all((p != b).any() for p, b in zip(programs.parameters(), before, strict=True))
        assert objective.bound(programs.model, programs.guide, images).shape == images.shape[:1]


def test_the_slide_is_the_code():
    def normal(function):
        node = ast.parse(textwrap.dedent(function)).body[0]
        if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            node.body.pop(0)  # the docstring
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        return ast.dump(node)

    model, guide = re.split(r"\n(?=def )", BLOCKS[0])
    assert normal(model) == normal(inspect.getsource(pyrovae.VAE.model))
    assert normal(guide) == normal(inspect.getsource(pyrovae.VAE.guide))


KINDS = [module.__name__.rpartition(".")[2] for module in catalogue.KINDS]


def test_the_pairs_are_those_that_the_objectives_list():
    for name in objectives.__all__:
        listed = ", ".join(f"`{e.__name__}`" for e in getattr(objectives, name).estimators)
        assert f"| `{name}` | {listed} |" in README


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogue_lists_every_component_with_its_formula_and_references(kind):
    module = getattr(pyrovae, kind)
    for name in module.__all__:
        doc = inspect.getdoc(getattr(module, name))
        first = doc.splitlines()[0].replace("|", "\\|")
        (row,) = re.findall(rf"^\| `{kind}\.{name}` \| .*$", README, re.MULTILINE)
        assert row.startswith(f"| `{kind}.{name}` | {first} |")
        links = re.findall(r"https?://\S+", doc.partition("References:")[2].partition("Example:")[0])
        assert re.findall(r"\]\((http\S+)\)[,| ]", row) == [link.rstrip(".,") for link in links]
    assert len(re.findall(rf"\| `{kind}\.", README)) == len(module.__all__)


def test_the_catalogue_is_the_one_that_the_library_tells():
    assert catalogue.markdown() in README


def test_the_commands_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mypackage.py").write_text("from pyrovae.priors import StandardNormal as MyPrior\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = re.findall(r"^\.venv/bin/python scripts/train\.py(.*)$", README, re.MULTILINE)
    assert len(commands) == 28
    for command in commands:
        if "--resume" not in command:  # that is tested with a run to resume
            runs.parse(shlex.split(command))


def test_the_tasks_are_all_there_and_understood():
    reader = run_path(str(ROOT / "scripts" / "apply.py"))["parser"]()
    chosen = [
        reader.parse_args(shlex.split(command))
        for command in re.findall(r"^\.venv/bin/python scripts/apply\.py(.*)$", README, re.MULTILINE)
    ]
    assert {options.task for options in chosen} == tasks.TASKS.keys()
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", README.partition("| task |")[2], re.M)) >= tasks.TASKS.keys()


def test_the_comparisons_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\.venv/bin/python scripts/compare\.py(.*)$", README, re.MULTILINE)
    assert [len(comparison.parse(shlex.split(c)).entries) for c in commands if "mnist" not in c] == [4, 2, 2, 4]
    (images,) = [shlex.split(c) for c in commands if "mnist" in c]  # which are not there
    shared, entries = images[: images.index("--seeds")], images[images.index("--entries") + 1 :]
    assert len(entries) == 5
    for entry in entries:
        runs.parse([*shared, *shlex.split(entry.partition(":")[2])])


def test_the_reproductions_are_those_that_have_a_protocol():
    names = {path.stem for path in (ROOT / "scripts" / "reproductions").glob("*.yaml")}
    (table,) = re.findall(r"\| name \| what \|\n\|---\|---\|\n((?:\|.*\n)+)", README)
    assert set(re.findall(r"`(\w+)`", table)) == names
    assert set(re.findall(r"^\.venv/bin/python scripts/reproduce\.py (\w+)", README, re.MULTILINE)) <= names


def test_figures_and_links_are_there():
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_two_commands_set_everything_up():
    for command in (
        "pip install -e . && .venv/bin/python scripts/train.py",
        "pip install -e '.[test]' && .venv/bin/pytest",
    ):
        assert f"\npython3 -m venv .venv && .venv/bin/{command}\n" in README
