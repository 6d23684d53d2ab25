"""Imputation against conditionals in closed form, and its task on a tiny run."""

import numpy as np
import pytest
import torch
from data_files import write_few_digits
from linear_gaussian import LinearGaussian
from matplotlib.figure import Figure
from scipy.stats import bernoulli, multivariate_normal, norm

from pyrovae import VAE, ConditionalVAE, IncompleteVAE, conditions, encoders, likelihoods, networks, priors, runs, tasks
from pyrovae.applications.filling import Filling, column_means, nearest_neighbours
from pyrovae.applications.imputation import importance_resampling, log_score, observed_log_likelihood
from pyrovae.applications.pseudo_gibbs import pseudo_gibbs
from pyrovae.tasks.impute import impute

SEEN = np.array([True, False, True, False, True])


def conditional(model, x):
    """Mean `(N, 2)` and covariance `(2, 2)` of p(x_mis | x_obs), of data `(N, 5)`."""
    covariance = model.W @ model.W.T + model.s**2 * np.eye(5)
    gain = covariance[~SEEN][:, SEEN] @ np.linalg.inv(covariance[SEEN][:, SEEN])
    mean = model.b[~SEEN] + (x[:, SEEN] - model.b[SEEN]) @ gain.T
    return mean, covariance[~SEEN][:, ~SEEN] - gain @ covariance[SEEN][:, ~SEEN]


def deviations(draws, mean, covariance):
    """How many standard errors the mean and the covariance of draws `(N, 2)` are off, `(5,)`."""
    off = (draws - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T  # standard normal
    moments = [off, off**2 - 1, off[:, :1] * off[:, 1:]]
    z = np.concatenate([m.mean(0) / m.std(0) for m in moments]) * len(draws) ** 0.5
    return np.abs(z)


def copies(model, n):
    """One datum n times, NaN where it is not seen, and what is seen."""
    x = model.data[:1].clone()
    x[:, ~SEEN] = torch.nan
    return x.expand(n, -1), torch.from_numpy(SEEN).expand(n, -1)


@pytest.mark.parametrize(("exact_posterior", "metropolis"), [(True, False), (False, True), (False, False)])
def test_a_chain_has_the_exact_conditional_for_its_limit_where_it_may_reject_or_q_is_exact(exact_posterior, metropolis):
    model = LinearGaussian(exact_posterior)
    chain = pseudo_gibbs(model.vae, *copies(model, 4000), num_steps=50, metropolis=metropolis)
    z = deviations(chain.x[-1][:, ~SEEN].numpy(), *conditional(model, model.x[:1]))
    right = exact_posterior or metropolis
    assert (z.max() < 4) == right, z
    assert (chain.accepted.mean() < 0.95) == metropolis
    assert torch.equal(chain.x[:, 0, SEEN], model.data[:1, SEEN].expand(50, -1))
    assert deviations(chain.x[0][:, ~SEEN].numpy(), *conditional(model, model.x[:1])).max() > 10  # as it began


def incomplete(model):
    return IncompleteVAE(model.vae.prior, model.vae.likelihood, model.vae.encoder)


@pytest.mark.parametrize("made", [lambda model: model.vae, incomplete], ids=["VAE", "IncompleteVAE"])
def test_importance_resampling_draws_of_the_exact_conditional(made):
    model = LinearGaussian()
    found = importance_resampling(made(model), *copies(model, 600), 2, num_samples=300, num_fillings=5)
    mean, covariance = conditional(model, model.x[:1])
    assert deviations(found.x[0][:, ~SEEN].numpy(), mean, covariance).max() < 4
    assert not torch.equal(found.x[0], found.x[1])
    few = importance_resampling(made(model), *copies(model, 5), num_samples=20_000, num_fillings=5)
    np.testing.assert_allclose(few.mean[:, ~SEEN], np.repeat(mean, 5, 0), atol=0.05)
    np.testing.assert_allclose(few.std[:, ~SEEN], np.repeat(np.diag(covariance)[None] ** 0.5, 5, 0), rtol=0.05)
    assert torch.equal(few.mean[:, SEEN], copies(model, 5)[0][:, SEEN])
    assert (few.std[:, SEEN] == 0).all()
    assert few.log_likelihood.ess.min() > 2000


@pytest.mark.parametrize("made", [lambda model: model.vae, incomplete], ids=["VAE", "IncompleteVAE"])
def test_the_log_score_is_that_of_the_exact_conditional(made):
    model = LinearGaussian(num_data=100)
    shown = torch.from_numpy(SEEN).expand(100, -1)
    found = log_score(made(model), model.data, shown, ~shown, num_samples=2000)
    mean, covariance = conditional(model, model.x)
    exact = [multivariate_normal(m, covariance).logpdf(x) for m, x in zip(mean, model.x[:, ~SEEN], strict=True)]
    z = (found.value.numpy() - exact) / found.std_error.numpy()
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 0.4
    assert found.std_error.max() < 0.1
    assert found.bias.abs().max() < 0.01
    part = observed_log_likelihood(made(model), model.data, shown, num_samples=2000)
    marginal = multivariate_normal(model.b[SEEN], (model.W @ model.W.T + model.s**2 * np.eye(5))[SEEN][:, SEEN])
    assert (np.abs(part.value.numpy() - marginal.logpdf(model.x[:, SEEN])) / part.std_error.numpy()).max() < 4.5


def test_the_bias_is_told_to_first_order():
    model = LinearGaussian()
    shown = torch.from_numpy(SEEN).expand(3000, -1)
    x = model.data[:1].expand(3000, -1)
    found = log_score(model.vae, x, shown, ~shown, num_samples=60, num_fillings=2)
    mean, covariance = conditional(model, model.x[:1])
    excess = found.value - multivariate_normal(mean[0], covariance).logpdf(model.x[0, ~SEEN])
    assert excess.mean() > 4 * excess.std() / 3000**0.5
    assert 0.3 < found.bias.mean() / excess.mean() < 1.1


def test_draws_that_many_fillings_propose_are_worth_more_than_those_of_a_poor_one():
    torch.manual_seed(0)
    model = LinearGaussian()
    x, shown = copies(model, 50)
    ess = [observed_log_likelihood(model.vae, x, shown, num_samples=500, num_fillings=m).ess.mean() for m in (1, 20)]
    assert ess[1] > ess[0]


def bits(likelihood=likelihoods.Bernoulli, encoder=encoders.DiagonalNormal):
    return VAE(priors.StandardNormal(2), likelihood(networks.MLP(2, 4)), encoder(lambda n: networks.MLP(4, n(2))))


def test_models_and_data_without_such_a_conditional_are_refused():
    x, seen = torch.ones(3, 4), torch.tensor([True, True, False, False]).expand(3, 4)
    importance_resampling(bits(), x, seen, num_samples=50)
    given = ConditionalVAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2 + 3, 4)),
        encoders.DiagonalNormal(networks.MLP(4 + 3, 4)),
        conditions.OneHot(3),
    )
    for vae, words in (
        (bits(likelihoods.Multinomial), "independent given z, and those of Multinomial are not"),
        (bits(encoder=encoders.Delta), "at any z, which .* does not have"),
        (bits(encoder=encoders.Planar), "at any z, which .* does not have"),
        (given, "imputation is of a model of one vector z.*which ConditionalVAE is not"),
    ):
        with pytest.raises(ValueError, match=words):
            importance_resampling(vae, x, seen)
        with pytest.raises(ValueError, match=words):
            pseudo_gibbs(vae, x, seen)
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        pseudo_gibbs(bits(), x, seen, num_steps=0)
    for bad in (seen.float(), seen[:2], seen[:, :2]):
        with pytest.raises(ValueError, match="booleans of the same shape"):
            importance_resampling(bits(), x, bad)
    with pytest.raises(ValueError, match="below num_samples"):
        importance_resampling(bits(), x, seen, num_samples=20)


# Baselines ------------------------------------------------------------------------------------------------------------


def test_column_means_are_scored_as_scipy_scores_them():
    rng = np.random.default_rng(0)
    scored = rng.random((6, 3)) < 0.5
    for binary in (True, False):
        train, x = ((rng.random((n, 3)) < 0.3) * 1.0 if binary else rng.normal(1, 2, (n, 3)) for n in (40, 6))
        train[0, 0] = np.nan
        found = column_means(torch.from_numpy(train), torch.from_numpy(x), binary).log_score(
            torch.from_numpy(np.where(scored, x, np.nan)), torch.from_numpy(scored)
        )
        if binary:
            p = bernoulli((np.nansum(train, 0) + 1) / ((~np.isnan(train)).sum(0) + 2)).logpmf(x)
        else:
            p = norm(np.nanmean(train, 0), np.nanstd(train, 0)).logpdf(x)
        np.testing.assert_allclose(found, np.where(scored, p, 0).sum(1))


def test_neighbours_are_the_nearest_by_what_is_shown_in_units_of_each_column():
    rng = np.random.default_rng(0)
    train, x = (rng.normal(size=(n, 4)) * [1, 100, 1, 1] for n in (60, 9))
    shown = np.where([True, True, True, False], x, np.nan)
    valid = [torch.from_numpy(np.where(mask, train, np.nan)) for mask in (~np.isnan(shown[:1]), np.isnan(shown[:1]))]
    found = nearest_neighbours(torch.from_numpy(train), tuple(valid), torch.from_numpy(shown), False, neighbours=(3,))
    distance = (((train[None] - x[:, None]) / train.std(0))[..., :3] ** 2).sum(-1)  # (9, 60)
    near = train[np.argsort(distance, 1)[:, :3], 3].mean(1)
    shares = (near - found.loc[:, 3].numpy()) / (near - train[:, 3].mean())
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)  # s, the same for all
    assert any(np.isclose(shares[0], s) for s in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5))


def test_validation_data_choose_the_neighbours():
    train = torch.cat([torch.zeros(30, 2), torch.ones(30, 2)]).double()
    shown, truth = (torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double() for _ in range(2))
    shown[:, 1] = torch.nan
    truth[:, 0] = torch.nan
    found = nearest_neighbours(train, (shown, truth), shown, binary=True)
    assert found.name != "50 nearest, smoothed"  # of which some are of the other kind
    assert found.loc[:, 1].tolist() == pytest.approx([0.01, 0.99])
    assert isinstance(found, Filling)


# The task -------------------------------------------------------------------------------------------------------------

TINY = ["--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--num_samples", "10"]
FEW = {"num_data": 30, "num_samples": 60, "num_imputations": 5}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_few_digits(folder / "few.npz")
    options, _, _ = runs.parse([*TINY, "--data", str(folder / "few.npz"), "--epochs", "30", "--out", str(folder / "r")])
    options.optimizer.init_args.lr, options.objective.init_args.beta = 0.01, 0.3
    return runs.train(options, folder / "r")


@pytest.mark.parametrize("hide", [None, "left", "right", "top", "random"])
def test_half_of_each_digit_is_filled_in_better_than_by_columns(digits, hide, tmp_path):
    result = impute(digits, hide, **FEW)
    numbers = result.numbers
    assert numbers["missing_per_datum"] == pytest.approx(32, abs=2)
    assert numbers["log_score"] - numbers["column_means_log_score"] == pytest.approx(
        numbers["log_score_minus_column_means"]
    )
    assert numbers["log_score_minus_column_means_low"] < numbers["log_score_minus_column_means_high"]
    assert numbers["squared_error"] < numbers["column_means_squared_error"]
    assert numbers["log_score"] > numbers["column_means_log_score"]
    assert "against column means" in result.summary
    assert result.files.keys() == {"imputations.npz", "imputations.png"}
    result.files["imputations.npz"](tmp_path / "x.npz")
    kept = np.load(tmp_path / "x.npz")
    hidden = {None: np.s_[..., 4:, :], "left": np.s_[..., :4], "right": np.s_[..., 4:], "top": np.s_[..., :4, :]}
    if hide in hidden:
        assert not kept["observed"][hidden[hide]].any()
        assert kept["observed"].mean() == 0.5
    assert kept["draws"].shape == (5, 30, 1, 8, 8)
    assert (kept["draws"] == kept["x"])[:, kept["observed"]].all()


def test_a_task_without_anything_hidden_is_refused(digits):
    for options, words in (
        ({"hide": "none"}, "nothing is hidden"),
        ({"fields": [0]}, "fields are columns of a table"),
        ({"hide": "random", "fraction": 1.0}, "fraction must be between"),
    ):
        with pytest.raises(ValueError, match=words):
            impute(digits, **options)
    assert tasks.TASKS["impute"] is impute


def test_imputations_may_be_those_of_a_chain(digits_run):
    options = {"num_data": 30, "num_samples": 200, "num_imputations": 150}
    weighted, chain = (impute(digits_run, chain=chain, **options) for chain in (False, True))
    assert 0.1 < chain.numbers["accepted"] < 1
    assert chain.numbers["squared_error"] == pytest.approx(weighted.numbers["squared_error"], rel=0.05)
    assert "filled in by a chain" in chain.summary


def test_a_table_with_missing_values_is_filled_in(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 1)) * [1, 2, -1] + 0.1 * rng.normal(size=(240, 3)) + 5
    x[rng.random(x.shape) < 0.2] = np.nan
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    arguments = ["--model", "IncompleteVAE", "--objective", "IWAE", "--likelihood", "Normal", "--latent_dim", "1"]
    options, folder, _ = runs.parse(
        [*TINY, *arguments, "--data", str(tmp_path / "x.npz"), "--epochs", "40", "--out", str(tmp_path / "run")]
    )
    options.optimizer.init_args.lr = 0.02
    run = runs.train(options, folder)
    result = impute(run, fields=[1], **FEW)
    assert result.numbers["squared_error"] < result.numbers["column_means_squared_error"] / 2
    assert 0.5 < result.numbers["coverage"] <= 1
    assert isinstance(result.files["imputations.png"].__self__, Figure)
    own = impute(run, "none", **FEW)
    assert "log_score" not in own.numbers
    own.files["imputations.npz"](tmp_path / "own.npz")
    kept = np.load(tmp_path / "own.npz")
    test = run.dataset.observed.test[:30].numpy()
    assert (kept["observed"] == test).all()
    assert np.isnan(kept["x"][~test]).all()
    assert np.isfinite(kept["draws"]).all()
