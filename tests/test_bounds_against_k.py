"""K-sample bounds against closed forms, sums over states, and the two bounds of which they are made."""

import itertools
import math

import numpy as np
import pytest
import torch
from linear_gaussian import LinearGaussian

from pyrovae import evaluation, exact


def fitted(latent_dim=2):
    model = exact.LinearGaussian(latent_dim, 5)
    model.solve_encoder()
    return model, model.sample(6)


def test_one_draw_a_group_is_the_elbo_and_all_draws_in_one_are_log_likelihood():
    model, x = fitted()
    values = evaluation.bounds(model.vae, x, [1, 100], num_samples=100, seed=3)
    assert values.shape == (2, 6)
    torch.testing.assert_close(values[0], evaluation.elbo(model.vae, x, 100, seed=3).value)
    torch.testing.assert_close(values[1], evaluation.log_likelihood(model.vae, x, 100, seed=3).value)


@pytest.mark.parametrize("chunk", [2**22, 5 * 6 * 70, 5 * 64 * 2], ids=["whole", "pieces", "two data at a time"])
def test_groups_are_of_exactly_k_draws_whatever_the_pieces_are(chunk, monkeypatch):
    """Of 100 draws, in pieces of 70 and 30 or of 64 and 36: groups lie across pieces, and 100 is no multiple of K."""
    model, x = fitted()
    draws, original = [], evaluation.log_densities

    def recording(*args, **kwargs):
        draws.append(original(*args, **kwargs))
        return draws[-1]

    monkeypatch.setattr(evaluation, "log_densities", recording)
    monkeypatch.setattr(evaluation, "_CHUNK", chunk)
    ks = [1, 7, 30, 64, 99]
    values = evaluation.bounds(model.vae, x, ks, num_samples=100)
    pieces = [d.log_weight.numpy() for d in draws]
    assert max(piece.size for piece in pieces) * 5 <= max(chunk, 600 * 5)
    starts = [i for i, piece in enumerate(pieces) if i == 0 or sum(len(p) for p in pieces[:i]) % 100 == 0]
    batches = [np.concatenate(pieces[a:b]) for a, b in itertools.pairwise([*starts, None])]
    weights = np.exp(np.concatenate(batches, 1))  # (100, N)
    assert weights.shape == (100, 6)
    for k, value in zip(ks, values, strict=True):
        groups = [weights[start : start + k] for start in range(0, 100 - k + 1, k)]
        assert len(groups) == 100 // k
        expected = np.mean([np.log(group.mean(0)) for group in groups], 0)
        np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_k_may_come_in_any_order_and_more_than_once():
    model, x = fitted()
    rising = evaluation.bounds(model.vae, x, [1, 5, 20], num_samples=50)
    mixed = evaluation.bounds(model.vae, x, (20, 1, 20, 5), num_samples=50)
    assert torch.equal(mixed, rising[[2, 0, 2, 1]])


def test_bounds_rise_from_the_elbo_to_log_likelihood():
    model, x = fitted()
    values = evaluation.bounds(model.vae, x, [1, 4, 16, 64, 256], num_samples=50_000)
    assert (values.diff(dim=0) > 0).all()
    assert torch.allclose(values[0], model.elbo(x), atol=0.03)
    assert torch.allclose(values[-1], model.log_likelihood(x), atol=0.01)
    assert (values[-1] - values[0] > 0.05).all()


def test_exact_posterior_leaves_every_bound_tight():
    model = LinearGaussian(exact_posterior=True)
    values = evaluation.bounds(model.vae, model.data, [1, 3, 10], num_samples=10)
    np.testing.assert_allclose(values, np.tile(model.log_likelihood(), (3, 1)), rtol=1e-10)


def test_k_times_what_is_missing_goes_to_its_limit():
    """K (log p(x) - L_K(x)) by 10,000 groups of 30 draws from a q(z | x) wide enough for weights of high moments."""
    model, x = fitted()
    with torch.no_grad():
        model.vae.encoder.network.layers[-1].bias[2:] += 0.7  # its scales: softplus(a + 0.7), of small ones about twice
    k = 30
    missing = k * (model.log_likelihood(x) - evaluation.bounds(model.vae, x, [k], num_samples=10_000 * k)[0])
    assert missing.mean().item() == pytest.approx(model.iwae_limit(x).mean().item(), rel=0.1)


def test_bounds_of_a_discrete_model_are_sums_over_pairs_of_states():
    model = exact.BernoulliToy(2, 4)
    x = model.sample(3)
    with torch.no_grad():
        z = model.latents()
        log_q = model.vae.encode(x).log_prob(z[:, None])  # (4, 3)
        log_w = model.vae.prior().log_prob(z)[:, None] + model.vae.likelihood(z[:, None]).log_prob(x) - log_q
        pair_q, pair_w = log_q[:, None] + log_q, torch.logaddexp(log_w[:, None], log_w) - math.log(2)
        expected = torch.stack([(log_q.exp() * log_w).sum(0), (pair_q.exp() * pair_w).sum((0, 1))])
    values = evaluation.bounds(model.vae, x, [1, 2], num_samples=100_000)
    assert torch.allclose(values, expected, atol=0.02)
    assert (expected[1] - expected[0] > 0.02).all()


@pytest.mark.parametrize("ks", [[], [0], [1, 11], [-1]], ids=str)
def test_k_outside_the_number_of_draws_is_refused(ks):
    model, x = fitted()
    with pytest.raises(ValueError, match="from 1 to num_samples, which is 10"):
        evaluation.bounds(model.vae, x, ks, num_samples=10)
