"""The parts of the rate against quadrature, sums over states and closed forms."""

import math
import sys

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian
from scipy.stats import norm

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.diagnostics.information import information

module = sys.modules[information.__module__]  # by its name the package has the function
ERRORS = 4  # standard errors allowed: a level of 6e-5 for each number
PARTS = ("rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_kl")


def agrees(found, expected):
    """Each part within its Monte Carlo error, which must be small enough to tell something."""
    for name, value in expected.items():
        part = getattr(found, name)
        assert 0 < part.std_error < 0.02, name
        assert abs(part.value - value) < ERRORS * part.std_error, name


def parts(q_of_x, p_factors, weight):
    """All parts by sums over states (weight 1) or nodes of z, from q(z | x) `(N, *grid)` and p(z_d) on each axis."""
    p = np.multiply.outer(*p_factors)
    q = q_of_x.mean(0)
    q_factors = [(q * weight).sum(1) / weight**0.5, (q * weight).sum(0) / weight**0.5]

    def kl(a, b):
        ratio = np.where(a > 0, a / np.where(b > 0, b, 1), 1)
        return (a * np.log(ratio)).reshape(*a.shape[: a.ndim - b.ndim], -1).sum(-1) * weight ** (b.ndim / 2)

    return {
        "rate": kl(q_of_x, p).mean(),
        "mutual_information": kl(q_of_x, q).mean(),
        "aggregate_kl": kl(q, p),
        "total_correlation": kl(q, np.multiply.outer(*q_factors)),
        "dimension_kl": sum(kl(a, b) for a, b in zip(q_factors, p_factors, strict=True)),
    }


@pytest.mark.parametrize("batch", [128, 4], ids=["at once", "in batches"])
def test_parts_agree_with_quadrature(batch, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", batch)
    model = LinearGaussian()
    mean = model.x @ model.V.T + model.c  # (N, 2)
    nodes, step = np.linspace(-8, 8, 801, retstep=True)
    density = norm(mean[..., None], model.t[:, None]).pdf(nodes)  # (N, 2, G)
    expected = parts(density[:, 0, :, None] * density[:, 1, None, :], [norm.pdf(nodes)] * 2, step**2)
    assert expected["rate"] == pytest.approx(model.kl().sum(1).mean(), rel=1e-6)
    assert expected["total_correlation"] > 0.1  # there is something to find
    agrees(information(model.vae, model.data, num_samples=5000), expected)


def test_parts_of_bits_agree_with_sums_over_states():
    model = exact.BernoulliToy(latent_dim=2, data_dim=6)
    x = model.sample(7)
    with torch.no_grad():
        model.vae.encoder.network.layers[-1].weight.mul_(2)  # so that z tells more of x
        q, p = (t.sigmoid().numpy() for t in (model.vae.encoder.network(x), model.vae.prior.logits))
    q, p = np.stack([1 - q, q], -1), np.stack([1 - p, p], -1)  # (N, 2, 2) and (2, 2)
    expected = parts(q[:, 0, :, None] * q[:, 1, None, :], list(p), 1.0)
    assert expected["total_correlation"] > 0.01
    agrees(information(model.vae, x, num_samples=5000), expected)


def test_parts_of_one_hot_vectors_that_there_are_agree_with_sums_over_states():
    torch.manual_seed(1)
    vae = VAE(
        priors.OneHotCategorical(4),
        likelihoods.Bernoulli(networks.MLP(4, 5)),
        encoders.OneHotCategorical(networks.MLP(5, 4, hidden=(), initializer=torch.nn.init.normal_)),
    ).double()
    x = vae.sample(6)
    q, p = vae.encode(x).probs.detach().numpy(), np.full(4, 1 / 4)
    found = information(vae, x, num_samples=5000)
    mutual, aggregate = (q * np.log(q / q.mean(0))).sum(1).mean(), (q.mean(0) * np.log(q.mean(0) / p)).sum()
    agrees(found, {"mutual_information": mutual, "aggregate_kl": aggregate, "rate": mutual + aggregate})
    assert found.total_correlation is None
    assert found.dimension_kl is None
    assert "q(z | x) (OneHotCategorical) does not factorise" in found.notes[0]


def test_the_sums_hold_draw_by_draw():
    model = exact.LinearGaussian(3, 5)
    for seed in range(3):
        rate, mutual, aggregate, _, total, single, _ = information(model.vae, model.sample(2), 1, seed)
        assert rate.value == pytest.approx(mutual.value + aggregate.value, abs=1e-12)
        assert aggregate.value == pytest.approx(total.value + single.value, abs=1e-12)
        assert math.isnan(rate.std_error)


def test_data_of_the_model_with_its_posterior_reach_the_limit_of_the_population():
    """I = 1/2 log det(I + W'W / s^2), KL(q(z) || p(z)) = 0, but for a bias of at most det(...) / 2N."""
    model = LinearGaussian(exact_posterior=True, num_data=2000)
    determinant = np.linalg.det(np.eye(2) + model.W.T @ model.W / model.s**2)
    found, bias = information(model.vae, model.data), determinant / 2 / 2000
    assert bias < 0.005
    mutual, aggregate = found.mutual_information, found.aggregate_kl
    assert abs(mutual.value - math.log(determinant) / 2) < ERRORS * mutual.sampling_error + bias
    assert mutual.sampling_error < 0.03
    assert -ERRORS * aggregate.std_error < aggregate.value < ERRORS * aggregate.sampling_error + bias
    assert aggregate.sampling_error < 0.005
    assert found.notes == ()


def test_a_needle_sharp_encoder_reaches_the_ceiling():
    model = exact.LinearGaussian(2, 5)
    with torch.no_grad():
        model.vae.encoder.network.layers[-1].bias[2:] = -30.0  # the least scale
    found = information(model.vae, model.sample(50))
    assert found.mutual_information.value == pytest.approx(math.log(50), rel=1e-9)
    assert found.ceiling == pytest.approx(math.log(50))
    assert found.at_ceiling
    assert "near log 50 = 3.91" in found.notes[0]


def test_errors_are_those_of_repeated_estimates():
    model = LinearGaussian(num_data=20)
    runs = [information(model.vae, model.data, 5, seed) for seed in range(200)]
    for name in PARTS:
        values, errors = zip(*[(getattr(run, name).value, getattr(run, name).std_error) for run in runs], strict=True)
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2), name
    over_data = model.kl().sum(1).std(ddof=1) / 20**0.5
    assert information(model.vae, model.data, 5000).rate.sampling_error == pytest.approx(over_data, rel=0.02)


def test_chunks_change_nothing(monkeypatch):
    model = exact.LinearGaussian(2, 5)
    x = model.sample(20)
    whole = information(model.vae, x, 3)
    monkeypatch.setattr(module, "_CHUNK", 7 * 20 * 2)  # 7 draws at a time
    for name in PARTS:
        assert getattr(information(model.vae, x, 3), name) == pytest.approx(getattr(whole, name), rel=1e-12), name


def test_a_prior_that_does_not_factorise_leaves_the_total_correlation():
    encoder = encoders.DiagonalNormal(networks.MLP(5, 4))
    found = information(
        VAE(priors.MixtureOfNormals(2), likelihoods.Normal(networks.MLP(2, 5)), encoder), torch.randn(9, 5)
    )
    assert found.total_correlation is not None
    assert found.dimension_kl is None
    assert "p(z) (Mixture" in found.notes[0]


def test_a_full_covariance_that_is_diagonal_has_the_same_mutual_information():
    diagonal = LinearGaussian()
    full = VAE(
        diagonal.vae.prior, diagonal.vae.likelihood, encoders.FullRankNormal(networks.MLP(5, 5, hidden=()))
    ).double()
    parameters = zip(*[vae.encoder.parameters() for vae in (full, diagonal.vae)], strict=True)
    with torch.no_grad():
        for ours, theirs in parameters:
            ours[:4], ours[4] = theirs, 0.0
    found, expected = (information(vae, diagonal.data, 500) for vae in (full, diagonal.vae))
    assert found.total_correlation is None
    error = math.hypot(found.mutual_information.std_error, expected.mutual_information.std_error)
    assert abs(found.mutual_information.value - expected.mutual_information.value) < ERRORS * error


def test_random_state_and_mode_are_left_alone_and_results_follow_from_the_seed():
    model = exact.LinearGaussian(2, 5)
    x, state = model.sample(10), torch.get_rng_state()
    model.vae.train()
    first, again, other = (information(model.vae, x, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.rate != other.rate
    assert torch.equal(torch.get_rng_state(), state)
    assert model.vae.training


@pytest.mark.parametrize(
    ("encoder", "count", "num_samples", "message"),
    [
        (lambda: encoders.Delta(networks.MLP(5, 2)), 4, 2, "points"),
        (lambda: encoders.Planar(lambda n: networks.MLP(5, n(2))), 4, 2, "none but its last draw"),
        (lambda: encoders.DiagonalNormal(networks.MLP(5, 4)), 1, 2, "at least two"),
        (lambda: encoders.DiagonalNormal(networks.MLP(5, 4)), 4, 0, "num_samples"),
    ],
    ids=["points", "a flow", "a single datum", "no draws"],
)
def test_refusals(encoder, count, num_samples, message):
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(networks.MLP(2, 5)), encoder())
    with pytest.raises(ValueError, match=message):
        information(vae, torch.zeros(count, 5), num_samples)
