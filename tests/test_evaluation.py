import math

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian
from scipy.stats import chi2

from pyrovae import VAE, diagnostics, encoders, evaluation, exact, likelihoods, networks, priors

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed


def z_test(estimate, std_error, exact):
    """Estimates of N data against their exact values: sum of squared z-scores under chi-square with N degrees."""
    z = (estimate.numpy() - exact) / std_error.numpy()
    assert chi2.sf((z**2).sum(), len(z)) > LEVEL
    assert chi2.cdf((z**2).sum(), len(z)) > LEVEL  # nor is the error overstated


def test_elbo_and_its_terms_agree_with_the_closed_form():
    exact = LinearGaussian()
    estimate = evaluation.elbo(exact.vae, exact.data, num_samples=20_000)
    z_test(estimate.value, estimate.std_error, exact.elbo())
    assert torch.allclose(estimate.reconstruction - estimate.kl, estimate.value)
    np.testing.assert_allclose(estimate.kl, exact.kl().sum(1), atol=0.05)
    np.testing.assert_allclose(estimate.reconstruction, exact.reconstruction(), atol=0.2)
    assert (estimate.std_error < 0.05).all()


def test_log_likelihood_agrees_with_the_closed_form():
    exact = LinearGaussian()
    estimate = evaluation.log_likelihood(exact.vae, exact.data, num_samples=50_000)
    np.testing.assert_allclose(estimate.value, exact.log_likelihood(), atol=0.1)
    z_test(estimate.value, estimate.std_error, exact.log_likelihood())
    assert (exact.elbo() < exact.log_likelihood() - 0.1).all()  # so an ELBO could not pass


def test_exact_posterior_gives_log_likelihood_from_any_draw():
    exact = LinearGaussian(exact_posterior=True)
    estimate = evaluation.log_likelihood(exact.vae, exact.data, num_samples=7)
    np.testing.assert_allclose(estimate.value, exact.log_likelihood(), rtol=1e-10)
    np.testing.assert_allclose(estimate.ess, 7, rtol=1e-10)
    np.testing.assert_allclose(estimate.std_error, 0, atol=1e-6)
    bound = evaluation.elbo(exact.vae, exact.data, num_samples=3)
    np.testing.assert_allclose(bound.value, exact.log_likelihood(), rtol=1e-10)
    np.testing.assert_allclose(bound.value, exact.elbo(), rtol=1e-10)


def test_standard_error_is_that_of_repeated_estimates():
    exact = LinearGaussian(num_data=3)
    runs = [evaluation.log_likelihood(exact.vae, exact.data, num_samples=2_000, seed=s) for s in range(200)]
    values, errors = torch.stack([r.value for r in runs]), torch.stack([r.std_error for r in runs])
    assert torch.allclose(errors.mean(0), values.std(0), rtol=0.25)


def test_the_mean_weight_its_error_and_the_effective_number_are_those_of_their_definitions():
    torch.manual_seed(0)
    w = torch.rand(7, 3, dtype=torch.float64)
    value, std_error, ess = evaluation.log_mean_weight(w.log() - 1000)  # whose weights are 0 in float64
    torch.testing.assert_close(value, w.mean(0).log() - 1000)
    torch.testing.assert_close(std_error, w.std(0) / 7**0.5 / w.mean(0))
    torch.testing.assert_close(ess, w.sum(0) ** 2 / w.square().sum(0))
    value, std_error, ess = evaluation.log_mean_weight(w[:1].log())
    torch.testing.assert_close(value, w[0].log())
    assert std_error.isnan().all()
    assert (ess == 1).all()


@pytest.mark.parametrize("measure", [evaluation.elbo, evaluation.log_likelihood])
def test_chunks_use_exactly_k_draws_for_each_datum(measure, monkeypatch):
    exact, drawn = LinearGaussian(), []
    original = evaluation.log_densities

    def counting(model, guide, x, num_samples):
        drawn.append(num_samples * len(x))
        return original(model, guide, x, num_samples=num_samples)

    monkeypatch.setattr(evaluation, "log_densities", counting)
    monkeypatch.setattr(evaluation, "_CHUNK", 5 * 4 * 100)  # 400 vectors at a time
    result = measure(exact.vae, exact.data, num_samples=1001)
    assert sum(drawn) == 1001 * 6
    assert len(drawn) > 6
    assert max(drawn) <= 400
    assert all(values.shape == (6,) for values in result)


def test_results_follow_from_the_seed_and_leave_random_state_and_mode_alone():
    exact = LinearGaussian()
    state = torch.get_rng_state()
    exact.vae.train()
    first, second, other = (evaluation.log_likelihood(exact.vae, exact.data, 100, seed=s).value for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert exact.vae.training


def test_evaluation_mode_is_used():
    class Noisy(networks.MLP):
        def forward(self, x):
            assert not self.training
            return super().forward(x)

    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(Noisy(2, 5)),
        encoders.DiagonalNormal(Noisy(5, 4)),
    )
    evaluation.metrics(vae, torch.zeros(4, 5), num_samples=20)
    assert vae.training


def test_kl_per_dimension_agrees_with_the_closed_form():
    exact = LinearGaussian()
    np.testing.assert_allclose(evaluation.kl_per_dimension(exact.vae, exact.data), exact.kl().mean(0), rtol=1e-10)


def test_kl_per_dimension_is_refused_where_the_prior_does_not_factorise():
    vae = VAE(
        priors.MixtureOfNormals(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.DiagonalNormal(networks.MLP(5, 4)),
    )
    assert evaluation.kl_per_dimension(vae, torch.zeros(4, 5)) is None


def test_active_units_are_those_whose_mean_moves():
    exact = LinearGaussian(num_data=50)
    with torch.no_grad():
        exact.vae.encoder.network.layers[-1].weight[1] = 0  # z_2 does not look at x
    result = evaluation.active_units(exact.vae, exact.data)
    assert result.value == 1
    expected = np.var(exact.x @ exact.V.T, axis=0, ddof=1) * [1, 0]
    np.testing.assert_allclose(result.variance, expected, rtol=1e-10, atol=1e-12)


def test_metrics_are_flat_and_means_of_the_parts():
    exact = LinearGaussian()
    metrics = evaluation.metrics(exact.vae, exact.data, num_samples=1000)
    bound = evaluation.elbo(exact.vae, exact.data, num_samples=1000)
    assert metrics["elbo"] == pytest.approx(bound.value.mean().item())
    assert metrics["elbo_std_error"] == pytest.approx(math.sqrt((bound.std_error**2).sum()) / 6)
    assert metrics["log_likelihood"] == pytest.approx(exact.log_likelihood().mean(), abs=0.2)
    assert metrics["kl"] == pytest.approx(sum(metrics["kl_per_dimension"]), abs=0.3)


def test_each_modules_mode_is_left_as_it_was():
    vae = LinearGaussian().vae
    vae.train()
    vae.encoder.eval()
    evaluation.metrics(vae, LinearGaussian().data, num_samples=10)
    assert vae.training
    assert not vae.encoder.network.training


def test_one_datum_has_no_active_units():
    exact = LinearGaussian()
    with pytest.raises(ValueError, match="at least two"):
        evaluation.active_units(exact.vae, exact.data[:1])


@pytest.mark.parametrize("k", [0, -3])
def test_no_draws_are_refused(k):
    exact = LinearGaussian()
    with pytest.raises(ValueError, match="num_samples"):
        evaluation.log_likelihood(exact.vae, exact.data, num_samples=k)


def test_data_outside_the_support_are_refused():
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.DiagonalNormal(networks.MLP(5, 4)),
    )
    with pytest.raises(ValueError, match="binarize"):
        evaluation.elbo(vae, torch.full((3, 5), 0.5))


def test_the_noise_that_scores_data_is_not_the_noise_that_made_them():
    """From the same seed: the ELBO of data drawn from the model, by its closed form."""
    model = exact.LinearGaussian(2, 5)
    torch.manual_seed(0)
    for x in (model.sample(1000), model.vae.sample(1000)):
        value = evaluation.elbo(model.vae, x).value
        off = (value - model.elbo(x)).mean() / (value - model.elbo(x)).std() * 1000**0.5
        assert abs(off) < 4  # p = 1e-4


def test_all_that_a_decoder_gives_counts_as_decoded(monkeypatch):
    """Not the elements of x alone, of each of which a categorical distribution has many parameters."""
    monkeypatch.setattr(evaluation, "_CHUNK", 2**16)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Categorical(lambda outputs: networks.MLP(2, outputs(8), hidden=(4,)), categories=50),
        encoders.DiagonalNormal(networks.MLP(8, 4, hidden=(4,))),
    )
    sizes = []
    vae.likelihood.network.register_forward_hook(lambda module, given, output: sizes.append(output.numel()))
    evaluation.log_likelihood(vae, vae.sample(100), num_samples=200)
    sizes = sizes[1:]  # that of the sample
    assert sum(sizes) == 100 * 200 * 400
    assert max(sizes) <= 2**16


def test_the_components_of_a_prior_count_too(monkeypatch):
    monkeypatch.setattr(evaluation, "_CHUNK", 64 * 500)
    vae = VAE(
        priors.MixtureOfNormals(2, components=500),
        likelihoods.Normal(networks.MLP(2, 5, hidden=(4,))),
        encoders.DiagonalNormal(networks.MLP(5, 4, hidden=(4,))),
    )
    draws = []
    vae.likelihood.register_forward_pre_hook(lambda module, given: draws.append(given[0][..., 0].numel()))
    evaluation.log_likelihood(vae, torch.randn(20, 5), num_samples=200)
    assert max(draws) == 64


@pytest.mark.parametrize("encoder", ["DiagonalNormal", "Planar"])  # whose means are known, and are not
def test_data_are_encoded_some_at_a_time(encoder):
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Normal(networks.MLP(2, 3, hidden=())),
        getattr(encoders, encoder)(lambda outputs: networks.MLP(3, outputs(2), hidden=())),
    ).double()
    x = torch.randn(2500, 3, dtype=torch.float64)
    q, sizes = vae.encode(x), []
    vae.encoder.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    found = evaluation.active_units(vae, x)
    diagnostics.predictive_checks(vae, x, "posterior", num_replications=1)
    if encoder == "DiagonalNormal":
        torch.testing.assert_close(found.variance, q.mean.var(0).detach())
        assert evaluation.kl_of_each(vae, x).shape == (2500, 2)
    else:
        torch.testing.assert_close(found.variance, q.sample((200,)).mean(0).var(0), rtol=0.1, atol=0.01)
        assert evaluation.kl_of_each(vae, x) is None
    assert max(sizes) == 1000


MEASURES = {
    "log_likelihood": lambda vae, x: evaluation.log_likelihood(vae, x, 10).value,
    "kl_per_dimension": evaluation.kl_per_dimension,
    "active_units": lambda vae, x: evaluation.active_units(vae, x).variance,
    "ais": lambda vae, x: diagnostics.ais(vae, x, 2, 3).value,
    "collapse": lambda vae, x: diagnostics.collapse(vae, x).kl,
    "gaps": lambda vae, x: diagnostics.gaps(vae, x[:2], num_samples=10, max_steps=50).best.value,
    "hmc": lambda vae, x: diagnostics.hmc(vae, x[:2], 5, 5).z,
    "information": lambda vae, x: torch.tensor(diagnostics.information(vae, x).rate),
    "latent_means": diagnostics.latent_means,
    "predictive_checks": lambda vae, x: diagnostics.predictive_checks(vae, x, "posterior")["mean"].replicated,
    "refined": lambda vae, x: diagnostics.refined(vae, x[:2], max_steps=50).mean,
    "reliability": lambda vae, x: diagnostics.reliability(vae, x, 25).ess,
}


@pytest.mark.parametrize("name", MEASURES)
def test_data_may_be_of_another_precision_than_the_model(name):
    model = exact.LinearGaussian(2, 6)  # in float64
    model.solve_encoder()
    x = model.sample(30).float()
    assert torch.equal(MEASURES[name](model.vae, x), MEASURES[name](model.vae, x.double()))
