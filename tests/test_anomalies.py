"""Scores of anomalies against closed forms, the area under the ROC curve against pairs, and the task `detect`."""

import re

import numpy as np
import pytest
import torch
from data_files import LEVEL, pixels, save, write_few_digits
from jsonargparse import Namespace
from linear_gaussian import LinearGaussian
from scipy.stats import binomtest, chi2, multivariate_normal, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from pyrovae import applications, blueprints, exact, likelihoods, runs
from pyrovae.tasks import TASKS, write
from pyrovae.tasks.detect import _regret_steps
from pyrovae.tasks.detected import Case
from pyrovae.tasks.detected import result as result_of
from pyrovae.tasks.held_out import without
from pyrovae.tasks.strangers import strangers

# The area under the ROC curve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-1, 2])
def test_the_area_and_its_interval_are_those_of_all_pairs(shift):
    rng = np.random.default_rng(0)
    normal, anomalous = rng.integers(0, 6, 17), shift + rng.integers(0, 6, 9)  # with ties
    pairs = [[(a > n) + (a == n) / 2 for n in normal] for a in anomalous]
    area = np.mean(pairs)
    assert area == pytest.approx(roc_auc_score([0] * 17 + [1] * 9, [*normal, *anomalous]))
    v = np.array([np.var(np.mean(pairs, axis), ddof=1) / n for axis, n in ((0, 17), (1, 9))])
    c = student.ppf(0.95, v.sum() ** 2 / (v**2 / [16, 8]).sum())
    found = applications.auroc(torch.tensor(normal), torch.tensor(anomalous), level=0.9)
    assert found.value == pytest.approx(area)
    assert 0 < found.low < area < found.high < 1
    for end in (found.low, found.high):
        assert (area - end) ** 2 == pytest.approx(c**2 * v.sum() * end * (1 - end) / (area * (1 - area)))


def test_intervals_of_95_percent_hold_the_area_of_normal_scores_as_often():
    torch.manual_seed(0)
    truth = norm.cdf(1.5 / np.sqrt(1 + 1.5**2))
    found = [applications.auroc(torch.randn(100), 1.5 + 1.5 * torch.randn(30)) for _ in range(400)]
    assert binomtest(sum(of.low <= truth <= of.high for of in found), 400, 0.95).pvalue > LEVEL


def test_what_a_sample_does_not_tell_makes_an_interval_wide():
    apart = applications.auroc(torch.arange(20.0), torch.arange(20.0) + 50)
    assert (apart.value, apart.high) == (1, 1)
    # t that is as far from 1 as a share of 20 that are all right
    assert (1 - apart.low) ** 2 == pytest.approx(student.ppf(0.975, 19) ** 2 * apart.low * (1 - apart.low) / 20)
    assert applications.auroc(torch.arange(20.0), torch.tensor([4.5])) == (0.25, 0, 1)
    for wrong in (torch.tensor([torch.nan]), torch.zeros(0)):
        with pytest.raises(ValueError, match="none of them NaN"):
            applications.auroc(torch.arange(20.0), wrong)


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_closed_form():
    truth, k = LinearGaussian(exact_posterior=True), 4000
    covariance = truth.W @ truth.W.T + truth.s**2 * np.eye(5)
    entropy = multivariate_normal(truth.b, covariance).entropy()
    found = applications.anomaly_scores(truth.vae, truth.data, entropy, num_samples=k, max_steps=None)
    assert found.keys() == {"surprisal", "distortion", "typicality"}
    assert np.allclose(found["surprisal"], -truth.log_likelihood())  # by the true posterior all weights are alike
    assert np.allclose(found["typicality"], np.abs(truth.log_likelihood() + entropy))
    z = (truth.x @ truth.V.T + truth.c) + truth.t * np.random.default_rng(0).normal(size=(2000, *truth.x.shape[:1], 2))
    spread = norm(z @ truth.W.T + truth.b, truth.s).logpdf(truth.x).sum(-1).std(0)  # of log p(x | z)
    off = (found["distortion"].numpy() + truth.reconstruction()) / (spread / np.sqrt(k))
    assert LEVEL < chi2.cdf((off**2).sum(), len(off)) < 1 - LEVEL


def test_the_regret_is_what_the_best_diagonal_normal_of_a_datum_gains():
    truth = LinearGaussian(num_data=15)  # its encoder is off
    precision = np.eye(2) + truth.W.T @ truth.W / truth.s**2
    mean = (truth.x - truth.b) @ truth.W @ np.linalg.inv(precision) / truth.s**2

    def kl(loc, scale):  # to p(z | x)
        off = ((loc - mean) @ precision * (loc - mean)).sum(1)
        return (
            0.5 * (off + precision.diagonal() @ scale**2 - 2)
            - np.log(scale).sum()
            - np.linalg.slogdet(precision)[1] / 2
        )

    exact_regret = kl(truth.x @ truth.V.T + truth.c, truth.t) - kl(mean, precision.diagonal() ** -0.5)
    found = applications.likelihood_regret(truth.vae, truth.data)
    assert exact_regret.mean() > 0.2
    assert np.all(np.abs(found.value.numpy() - exact_regret) < 4 * found.std_error.numpy() + 0.02)
    scores = applications.anomaly_scores(truth.vae, truth.data, 0.0, num_samples=2)
    assert torch.equal(scores["regret"], found.value)


def test_the_typicality_test_keeps_its_level_and_has_the_threshold_of_the_closed_form():
    model, dim, m, level = exact.LinearGaussian(latent_dim=2, data_dim=5), 5, 4, 0.05
    entropy = multivariate_normal(cov=model.marginal().covariance_matrix.detach()).entropy()
    log_p = model.log_likelihood(model.sample(20_000, seed=1)).detach()  # -H + (5 - chi^2_5) / 2
    threshold = applications.typicality_threshold(log_p, entropy, m, level, num_resamples=40_000)
    mean_of = chi2(dim * m, scale=1 / (2 * m))  # of chi^2_5 / 2 over four data
    beyond = 1 - mean_of.cdf(dim / 2 + threshold) + mean_of.cdf(dim / 2 - threshold)
    assert beyond == pytest.approx(level, abs=0.005)
    fresh = model.log_likelihood(model.sample(8002, seed=2)).detach()
    alarms = applications.typicality(fresh, entropy, m) > threshold
    assert len(alarms) == 2000
    assert binomtest(int(alarms.sum()), 2000, level).pvalue > LEVEL
    mode = model.marginal().log_prob(model.marginal().mean).detach()  # where p(x) is largest there are no data
    assert (applications.typicality(mode.expand(m), entropy, m) > threshold).all()


# The task -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    write_few_digits(folder / "few.npz")
    few = ["--data", str(folder / "few.npz"), "--epochs", "3", "--latent_dim", "2", "--optimizer.lr", "0.01"]
    networks = ["--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]"]
    options, _, _ = runs.parse([*few, *networks, "--out", str(folder / "run")])
    return runs.train(options, folder / "run")


@pytest.fixture(scope="module")
def result(run):
    options = {"num_data": 25, "num_samples": 20, "max_steps": 50}
    return TASKS["detect"](run, classes=[1, 8], epochs=1, **options)


def test_detect_tells_areas_for_classes_that_were_held_out_and_for_other_data(result, tmp_path):
    others = {"shapes", "uniform noise", "constant images", "means of p(x | z)"}
    names = {"class 1", "class 8", "mean over classes", *others}
    areas = {f"{name}/{score}" for name in names for score in ("surprisal", "distortion", "typicality", "regret")}
    assert areas < result.numbers.keys()
    for name in areas:
        low, value, high = (result.numbers[name + end] for end in ("/low", "", "/high"))
        assert 0 <= low <= value <= high <= 1
    assert result.numbers["uniform noise/surprisal"] > 0.95
    assert result.numbers["uniform noise/alarms/1"] > 0.5
    mean = (result.numbers["class 1/regret"] + result.numbers["class 8/regret"]) / 2
    assert result.numbers["mean over classes/regret"] == pytest.approx(mean)
    write(result, tmp_path)
    figures = {"held_out.png", "held_out_roc.png", "roc.png", "log_likelihoods.png", "failure.png"}
    assert {path.name for path in tmp_path.iterdir()} == {*figures, "areas.csv", "numbers.json"}
    assert len((tmp_path / "areas.csv").read_text().splitlines()) == 1 + 4 * len(names)


def test_detect_names_the_set_whose_log_p_is_higher_than_that_of_known_data(result):
    least = min((v, k) for k, v in result.numbers.items() if k.endswith("/surprisal"))
    assert least[0] < 0.5  # means of p(x | z) have none of the noise of data
    assert f"log p(x) is higher for {least[1].removesuffix('/surprisal')}, which the model never saw" in result.summary


def of_tables(score):
    """Two sets that are larger in a score by 20 and by 10 than known data, of one column."""
    known = torch.arange(20.0)
    new = {"far": known + 20, "near": known + 10}
    return {name: Case(known[:, None], t[:, None], {score: (known, t)}, -known) for name, t in new.items()}


def test_where_all_that_is_new_is_surprising_the_least_area_is_told():
    found = result_of({}, of_tables("surprisal"), ["the end"])
    area = sum((i + 10 > j) + 0.5 * (i + 10 == j) for i in range(20) for j in range(20)) / 400
    assert found.numbers["near/surprisal"] == pytest.approx(area)
    assert f"No set surely has a higher log p(x) than known data; the least area is {area:.2f}" in found.summary
    assert "for near.\nthe end" in found.summary
    assert found.files.keys() == {"areas.csv", "roc.png", "log_likelihoods.png", "failure.png"}


def test_without_log_p_there_are_areas_alone():
    found = result_of({}, of_tables("distortion"), [])
    ends = ("", "/low", "/high")
    assert found.numbers.keys() == {f"{name}/distortion{end}" for name in ("far", "near") for end in ends}
    assert found.files.keys() == {"areas.csv", "roc.png"}


def test_a_class_that_is_held_out_is_in_test_data_alone(run):
    lacking = without(run, 8, epochs=1)
    train, valid, test = lacking.dataset.labels
    assert 8 not in train
    assert 8 not in valid
    assert torch.equal(test, run.dataset.labels.test)
    assert len(train) == len(lacking.dataset.train) == (run.dataset.labels.train != 8).sum()
    assert torch.equal(lacking.dataset.train, run.dataset.train[run.dataset.labels.train != 8])
    assert len(lacking.history) == 1


def test_strangers_have_the_shape_and_the_values_of_the_data(tmp_path):
    other = save(tmp_path / "other.npy", pixels(40, 12, 12, 3))  # of another size, in colour
    vae, digits = runs.build(likelihood=likelihoods.Normal, device="cpu")  # 17 grey levels
    grey = runs.Run(vae, digits, [], Namespace(data="digits", root="data"))
    found = strangers(grey, other, num_data=60)
    assert found.keys() == {"other.npy", "uniform noise", "constant images", "means of p(x | z)"}
    for x in found.values():
        assert x.shape[1:] == (1, 8, 8)
        assert torch.equal((x * 16).round() / 16, x)
    assert len(found["constant images"]) == len(found["constant images"].unique()) > 10


def test_other_data_of_another_kind_are_refused(run, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("\n".join(f"{i},{i % 5}" for i in range(20)))
    with pytest.raises(ValueError, match=r"images, but the others are of shape \(2,\)"):
        strangers(run, other=str(table))


def test_detect_refuses_classes_that_there_are_not_and_models_of_x_given_something(run):
    with pytest.raises(ValueError, match="no test data are of class 11: there are"):
        TASKS["detect"](run, classes=[11])
    vae, dataset = runs.build(model=blueprints.ConditionalVAE(), device="cpu")
    with pytest.raises(ValueError, match="ConditionalVAE is a model of x given y: take a run of another model"):
        TASKS["detect"](runs.Run(vae, dataset, [], run.options))
    hierarchical, _ = runs.build(model=blueprints.HierarchicalVAE(), device="cpu")
    with pytest.raises(ValueError, match="and HierarchicalVAE is none"):
        applications.likelihood_regret(hierarchical, torch.zeros(1))
    steps, (note,) = _regret_steps(hierarchical, torch.zeros(1), 50)
    assert steps is None
    assert re.match("no regret: .* and HierarchicalVAE is none", note)
