"""What a diagnosis says of the numbers it is given: of which data, under which name, with which sign."""

import copy
from dataclasses import replace

import pytest
import torch
from pyro.distributions import Normal

from pyrovae import diagnosis, diagnosis_parts, diagnostics, evaluation, runs
from pyrovae.diagnostics.annealing import AIS, BDMC
from pyrovae.diagnostics.effective_beta import EffectiveBeta
from pyrovae.diagnostics.gaps import Estimate, Gaps, Mean
from pyrovae.diagnostics.information import Information
from pyrovae.diagnostics.posteriors import Posteriors
from pyrovae.diagnostics.reliability import Reliability
from pyrovae.section import Section


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    quick = ["--encoder_network.hidden", "[8]", "--decoder_network.hidden", "[8]", "--epochs", "1"]
    options, _, _ = runs.parse([*quick, "--latent_dim", "3", "--out", str(folder)])
    return runs.train(options, folder)


def computed(run, part):
    """The section of a part, and the parts after it."""
    parts, section = diagnosis_parts.Parts(run, 40), Section("", "")
    getattr(parts, part)(section)
    return section, parts


def per_datum(value, n=4, error=0.2):
    return Estimate(torch.full((n,), value).double(), torch.full((n,), error).double())


def test_annealing_is_compared_with_importance_sampling(run, monkeypatch):
    found = evaluation.Scores(None, evaluation.LogLikelihood(*per_datum(-25.0), torch.ones(4)))
    monkeypatch.setattr(evaluation, "scores", lambda *_: found)
    monkeypatch.setattr(diagnostics, "ais", lambda *_, **__: AIS(*per_datum(-24.0), torch.ones(4), torch.ones(4) / 2))
    section, parts = computed(run, "annealed")
    assert section.numbers["log p(x), annealed"].value == -24
    assert section.numbers["acceptance"].value == 0.5
    assert section.numbers["annealed - importance"].value == 1  # nats that importance sampling misses
    assert section.numbers["annealed - importance"].std_error == pytest.approx((4 * 2 * 0.2**2) ** 0.5 / 4)
    assert parts.found.missed.value == 1


def test_the_gap_of_both_bounds_has_its_error(run, monkeypatch):
    t = torch.zeros(2)
    bounds = BDMC(t, t, t, t, t, torch.tensor(0.5), torch.tensor(0.1), t)
    monkeypatch.setattr(diagnostics, "bdmc", lambda *_, **__: bounds)
    number = computed(run, "bidirectional")[0].numbers["gap on simulated data"]
    assert (number.value, number.std_error) == (0.5, pytest.approx(0.1))


def test_gaps_are_of_training_and_of_test_data_and_the_verdict_is_on_test_data(run, monkeypatch):
    seen = []

    def gaps(vae, x, *_, **__):
        seen.append(x)
        first = 10 * len(seen)
        values = (per_datum(first + i) for i in range(6))
        evidence, best, amortised, approximation, amortisation, richer = values
        settled = torch.tensor([True, True, True, len(seen) == 1])  # all of training data
        return Gaps(evidence, best, amortised, approximation, amortisation, richer, per_datum(first + 7.0), settled)

    monkeypatch.setattr(diagnostics, "gaps", gaps)
    section, parts = computed(run, "gaps")
    assert section.numbers["approximation, train"].value == 13
    assert section.numbers["amortisation, train"].value == 14
    assert section.numbers["approximation of a full-rank normal, train"].value == 17
    assert section.numbers["approximation, test"].value == 23
    assert section.numbers["amortisation, test"].value == 24
    assert parts.found.gaps["amortisation"].value == 24
    rows = {name: {tuple(t.flatten().tolist()) for t in x} for name, x in (("test", parts.x), ("train", parts.train))}
    assert all(tuple(t.flatten().tolist()) in rows["train"] for t in seen[0])
    assert torch.equal(seen[1], parts.x[: len(seen[1])])
    [sentence] = section.sentences
    assert "For 25% of the test data the search for q* was cut short" in sentence


def test_shares_of_k_hat_and_coverage_go_by_their_names(run, monkeypatch):
    k = torch.tensor([0.1, 0.1, 0.8, 2.0])
    found = Reliability(k, k, torch.full((4,), 12.0), 0.7)
    monkeypatch.setattr(diagnostics, "reliability", lambda *_: found)
    numbers = computed(run, "weights")[0].numbers
    assert [numbers[f"k-hat {name}"].value for name in ("good", "bad", "very bad")] == [0.5, 0.25, 0.25]
    assert numbers["effective draws"].value == 12
    section, parts = computed(run, "ranks")
    coverage = [section.numbers[f"coverage of {level}%"].value for level in (50, 80, 90, 95)]
    assert coverage == sorted(coverage)
    assert coverage == pytest.approx(parts.found.calibration.coverage.mean(1).tolist())
    assert section.numbers["p-value of the ranks"].value == pytest.approx(
        min(3 * parts.found.calibration.p_value.min().item(), 1)
    )


def test_beta_is_that_of_training_data(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        diagnostics, "effective_beta", lambda vae, x, **_: (seen.append(x), EffectiveBeta(2.0, 0.1, 2.0, 2.0))[1]
    )
    section, parts = computed(run, "beta")
    assert torch.equal(seen[0], parts.train[:500])
    assert (section.numbers["effective beta"].value, section.numbers["effective beta"].std_error) == (2.0, 0.1)


def test_samples_are_drawn_by_the_prior_and_compared_with_test_data(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        diagnostics, "replicate", lambda vae, z: (given.append(z), 0.5 + torch.zeros(len(z), 1, 8, 8))[1]
    )
    section, parts = computed(run, "samples")
    (z,) = given
    assert (z.mean(0).abs() < 5 / len(z) ** 0.5).all()
    assert (z.std(0) - 1).abs().max() < 0.3
    far, near = (section.numbers[f"Frechet distance of {name}"].value for name in ("samples", "training data"))
    x = parts.x[:500]
    _, of_x, of_other = diagnostics.principal_components(parts.train[:2000], x, parts.train[: len(x)])
    assert near == pytest.approx(diagnostics.frechet_distance(of_x, of_other))
    assert far > 2 * near


def test_pixels_have_the_spread_of_draws(run, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        diagnosis_parts.plots, "pixels", lambda *tensors: shown.update(zip("xms", tensors, strict=True))
    )

    class Fixed(torch.nn.Module):
        def forward(self, z):
            return Normal(torch.full((*z.shape[:-1], 1, 8, 8), 3.0), 0.1).to_event(3)

    parts = diagnosis_parts.Parts(run, 40)
    parts.vae = copy.deepcopy(run.vae)
    parts.vae.likelihood = Fixed()
    parts.pixels(Section("", ""))
    assert (shown["m"] - 3).abs().max() < 0.1
    assert (shown["s"] - 0.1).abs().max() < 0.05


def test_a_table_without_labels_has_neither_pixels_nor_classes(run):
    parts, section = diagnosis_parts.Parts(run, 40), Section("", "")
    parts.run, parts.x = run._replace(dataset=replace(run.dataset, labels=None)), parts.x.flatten(1)
    parts.pixels(section)
    parts.labels(section)
    assert not section.figures
    assert section.sentences == ["The data have no labels."]


@pytest.mark.parametrize(("rate", "words"), [(0.5, "KL(q(z) || p(z))"), (3.0, "at most so large")])
def test_what_few_data_cannot_tell_is_an_upper_bound(run, monkeypatch, rate, words):
    of = Mean(rate, 0.1, 0.1)
    found = Information(rate=of, mutual_information=of, aggregate_kl=of, num_data=20)
    monkeypatch.setattr(diagnostics, "information", lambda *_, **__: found)
    numbers = computed(run, "information")[0].numbers
    assert [*numbers] == ["rate", "mutual information", "aggregate kl"]  # what there is
    assert numbers["aggregate kl"].meaning.startswith(words)
    assert numbers["aggregate kl"].value == rate


def test_a_guide_is_drawn_where_it_has_a_density_and_told_where_the_grid_misses_it(run, monkeypatch):
    shown = []
    monkeypatch.setattr(diagnosis_parts.plots, "posteriors", lambda *of: shown.append(of))
    z, draws = torch.linspace(-4, 4, 81), torch.zeros(2, 5, 1)
    normal = Normal(0.0, 1.0).log_prob(z).exp()
    missed = torch.stack([normal, torch.zeros(81)])  # of the second datum
    for guide in (missed, None):
        found = Posteriors([z], normal.expand(2, 81), guide, normal.expand(2, 81), draws, draws, draws)
        monkeypatch.setattr(diagnostics, "posteriors", lambda *_, found=found, **__: found)
        parts, section = diagnosis_parts.Parts(run, 40), Section("", "")
        parts.run = run._replace(options=run.options.clone())
        parts.run.options.latent_dim = 1
        parts.posteriors(section)
        _, _, lines, points, _ = shown.pop()
        assert ("q(z | x)" in lines, "q(z | x)" in points) == (guide is not None, guide is None)
        told = "q(z | x) is off the grid, or narrower than its spacing, for 1 of the data."
        assert section.sentences == ([] if guide is None else [told])


def test_data_are_drawn_at_random_with_their_labels(run):
    parts = diagnosis_parts.Parts(run, 40)
    test, labels = run.dataset.test, run.dataset.labels.test
    assert not torch.equal(parts.x, test)
    assert torch.equal(parts.x[parts.order["test"].argsort()], test)
    again = diagnosis_parts.Parts(run, 40)
    assert torch.equal(parts.x, again.x)
    linear = computed(run, "labels")[0].numbers["linear probe"].value
    run.dataset.labels.test[:] = labels.flip(0)  # of other images
    assert computed(run, "labels")[0].numbers["linear probe"].value < linear
    run.dataset.labels.test[:] = labels.flip(0)


def test_a_part_that_fails_costs_no_other(run, monkeypatch):
    def broken(*_, **__):
        raise IndexError("out of bounds")

    for name in ("ais", "bdmc", "gaps", "reliability", "calibration", "predictive_checks", "two_sample"):
        monkeypatch.setattr(diagnostics, name, broken)
    found = {section.title: section for section in diagnosis.diagnose(run, 40)}
    assert "Left out: annealed failed (IndexError: out of bounds)." in found["Evidence"].sentences
    assert "ELBO" in found["Evidence"].numbers
    assert found["Latent variables"].numbers
    assert found["Verdict"].sentences


def test_the_protocol_tells_how_it_was_trained(run):
    section = next(iter(diagnosis.diagnose(run, 40)))
    assert section.numbers["objective"].value.startswith("ELBO(num_particles=1, beta=1.0")
    assert section.numbers["optimizer"].value.startswith("Adam(lr=0.001")


@pytest.mark.parametrize(
    ("name", "elbo"), [("Trace_ELBO", True), ("ELBO", True), ("RenyiELBO", False), ("IWAE", False)]
)
def test_what_is_no_elbo_is_not_judged_as_one(run, monkeypatch, name, elbo):
    given = []
    monkeypatch.setattr(diagnostics, "verdict", lambda found, vae, elbo: given.append(elbo) or [])
    parts = diagnosis_parts.Parts(run, 40)
    parts.run = run._replace(options=run.options.clone())
    parts.run.options.objective.class_path = f"somewhere.{name}"
    parts.verdict(Section("", ""))
    assert given == [elbo]
