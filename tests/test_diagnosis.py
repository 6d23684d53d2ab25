"""A run is diagnosed in words, in one page that holds all of it, and in numbers."""

import json
import math
import re
import runpy
from functools import partial

import pytest
import torch
from fresh import SCRIPTS

from pyrovae import diagnosis, diagnosis_parts, runs
from pyrovae.page import page
from pyrovae.section import Number, Section, to_dict

QUICK = ["--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--num_samples", "50"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Fewer data, so that it takes seconds."""
    for name, n in (("_ANNEALED", 5), ("_SIMULATED", 3), ("_GAPS", 3), ("_SOME", 60), ("_MANY", 60), ("_PICTURES", 2)):
        monkeypatch.setattr(diagnosis_parts, name, n)
    monkeypatch.setattr(diagnosis_parts, "_TEMPERATURES", 10)
    monkeypatch.setattr(diagnosis_parts.diagnostics, "gaps", partial(diagnosis_parts.diagnostics.gaps, max_steps=100))


def trained(folder, *arguments):
    options, _, _ = runs.parse([*QUICK, *arguments, "--out", str(folder)])
    return runs.train(options, folder)


def diagnosed(run):
    """The sections by title."""
    return {section.title: section for section in diagnosis.diagnose(run, num_samples=50)}


def test_all_is_found_of_a_run_and_said_in_words(tmp_path):
    run = trained(tmp_path / "run", "--latent_dim", "2", "--epochs", "2")
    before = torch.get_rng_state()
    found = diagnosed(run)
    assert torch.equal(before, torch.get_rng_state())
    assert next(iter(found)) == "Protocol"
    assert [*found][-1] == "Verdict"
    assert found["Verdict"].sentences
    figures = {name for section in found.values() for name in section.figures}
    assert figures == {
        *("log_likelihood", "gaps", "pareto_k", "ranks", "kl"),
        *("prior_checks", "posterior_checks", "pixels", "posteriors"),
    }
    for section in found.values():
        assert not [sentence for sentence in section.sentences if sentence.startswith("Left out")], section
        assert section.numbers or section.figures or section.title == "Verdict"
    evidence = found["Evidence"].numbers
    assert evidence["ELBO"].value < evidence["log p(x), importance sampling"].value
    sampled, exact = evidence["log p(x), importance sampling"], evidence["log p(x), exact"]
    assert abs(sampled.value - exact.value) < 4 * sampled.std_error + 0.05  # by so few draws the error is uncertain
    parts = found["Latent variables"].numbers
    total = parts["mutual information"].value + parts["aggregate kl"].value
    assert parts["rate"].value == pytest.approx(total, rel=1e-4)

    text = page("A run", [*found.values()])
    assert text.count("data:image/png;base64,") == len(figures)
    assert not re.search(r'src="(?!data:)|<link|<script', text)  # nothing from elsewhere
    assert text.index("Verdict") < text.index("Protocol")
    plain = to_dict([*found.values()])
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["Evidence"]["numbers"]["ELBO"]["value"] == evidence["ELBO"].value


def test_what_is_not_for_a_model_is_left_out_with_the_reason(tmp_path):
    bits = ("--prior", "Bernoulli", "--encoder", "Bernoulli", "--objective.gradient", "Enumerate", "--latent_dim", "3")
    found = diagnosed(trained(tmp_path / "run", *bits, "--epochs", "1"))
    reasons = [s for section in found.values() for s in section.sentences if s.startswith("Left out, ")]
    assert any("discrete" in reason for reason in reasons), reasons
    assert "rate" in found["Latent variables"].numbers
    assert found["Verdict"].sentences


def test_factors_and_labels_are_used_where_they_are_known(tmp_path):
    run = trained(tmp_path / "run", "--data", "shapes", "--epochs", "1", "--latent_dim", "3", "--batch_size", "500")
    section, parts = Section("", ""), diagnosis_parts.Parts(run, 50)
    parts.labels(section)
    parts.factors(section)
    assert section.numbers.keys() == {"MIG", "SAP", "linear probe", "nearest neighbours", "most frequent"}


def test_a_wrong_likelihood_is_told(tmp_path):
    run = trained(tmp_path / "run", "--likelihood", "Normal", "--binarize", "threshold", "--epochs", "2")
    [told] = [s for s in diagnosed(run)["Verdict"].sentences if "by q(z | x)" in s]
    assert "share of zeros" in told
    assert "Try another likelihood" in told


@pytest.mark.parametrize(
    ("beta", "epochs", "told"), [(20, 5, "units active, rate 0"), (0.25, 50, "q(z | x) is as for a KL of weight 0.")]
)
def test_a_collapse_and_a_hidden_beta_are_told(tmp_path, monkeypatch, beta, epochs, told):
    monkeypatch.setattr(diagnosis_parts, "_SOME", 500)
    options = "--objective.beta", str(beta), "--latent_dim", "2", "--epochs", str(epochs), "--optimizer.lr", "0.003"
    parts = diagnosis_parts.Parts(trained(tmp_path / "run", *options), 50)
    for part in (parts.information, parts.collapse, parts.beta, parts.verdict):
        part(section := Section("", ""))
    assert told in section.sentences[0]
    assert "collapsed" in section.sentences[0] if beta > 1 else "a beta below 1" in section.sentences[0]
    found = parts.found.beta.value
    assert math.isnan(found) if beta > 1 else abs(found - beta) < 0.1


def test_the_command_line_writes_the_page_and_the_same_numbers(tmp_path, capsys):
    trained(tmp_path / "run", "--latent_dim", "1", "--epochs", "1")
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    main([str(tmp_path / "run"), "--report", "--json", "--export"])
    assert (tmp_path / "run" / "inference_data.nc").exists()
    assert (tmp_path / "run" / "projector" / "projector_config.pbtxt").exists()
    texts = [(tmp_path / "run" / f"report.{ending}").read_text() for ending in ("json", "html")]
    report, html, out = json.loads(texts[0]), texts[1], capsys.readouterr().out
    for sentence in report["Verdict"]["sentences"]:
        assert sentence in out
    assert f"{report['Reliability']['numbers']['effective draws']['value']:.4g}" in html


def test_numbers_are_shown_to_the_second_digit_of_their_error():
    numbers = {
        "a": Number(-23.04186, "", 0.0123),
        "b": Number(2.0, "", 150.0),
        "c": Number(0.123456, ""),
        "d": Number(float("nan"), ""),
        "e": Number(5, ""),
    }
    text = page("T", [Section("S", "?", numbers=numbers), Section("Verdict", "?")])
    shown = re.findall(r'<td class="value">(.*?)</td>', text)
    assert shown == ["-23.042 ± 0.012", "2 ± 150", "0.1235", "unknown", "5"]
    assert to_dict([Section("S", "?", numbers=numbers)])["S"]["numbers"]["d"]["value"] is None


def test_a_point_has_no_bound_and_the_page_says_so(tmp_path):
    found = diagnosed(trained(tmp_path / "run", "--encoder", "Delta", "--latent_dim", "2", "--epochs", "1"))
    assert found["Verdict"].sentences[0].endswith("what z carries is not known.")
    assert any("has no density" in sentence for sentence in found["Posteriors"].sentences)
    assert "unknown" in page("A run", [*found.values()])
