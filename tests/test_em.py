"""Expectation maximisation: exact, of probabilistic PCA, to its closed-form maximum, and variational, near it.

Of mixtures, see `test_gaussian_mixture.py`.
"""

from functools import partial
from itertools import pairwise

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

from pyrovae import evaluation, fit, networks, objectives, schedules
from pyrovae.autoencoder import Autoencoder
from pyrovae.em import em_step, variational_em
from pyrovae.exact import LinearGaussian
from pyrovae.likelihoods import Normal


def made(latent_dim=2):
    """Data, and the log-likelihood that a linear model of them has at most, in nats a datum."""
    x = LinearGaussian(latent_dim, 6, scale=0.7).sample(300, seed=1)
    return x, LinearGaussian.maximum_likelihood(x, latent_dim).log_likelihood(x).mean().item()


def test_exact_em_never_falls_and_reaches_the_maximum():
    x, best = made()
    model = LinearGaussian(2, 6, seed=3)
    values = [model.log_likelihood(x).mean().item()]
    for _ in range(400):
        em_step(model, x)
        values.append(model.log_likelihood(x).mean().item())
    assert all(after > before - 1e-12 for before, after in pairwise(values))
    assert values[0] < best - 1
    assert values[-1] == pytest.approx(best, abs=1e-6)
    assert max(values) <= best + 1e-9


def test_each_step_maximises_the_expected_log_joint():
    """At fixed posterior moments its gradient by W, b and s is 0, by autograd."""
    x, _ = made()
    model = LinearGaussian(2, 6, seed=3)
    q = model.posterior(x)
    mean, covariance = q.mean.detach(), q.covariance_matrix.detach().expand(300, 2, 2)
    em_step(model, x)
    w, b, s = (t.detach().clone().requires_grad_() for t in (model.weight, model.bias, model.scale))
    squares = (x - mean @ w.T - b).square().sum() + torch.einsum("dk,nkl,dl->", w, covariance, w)
    expected = -squares / (2 * s**2) - 300 * 6 * s.log()
    for gradient in torch.autograd.grad(expected, [w, b, s]):
        assert gradient.abs().max() < 1e-7


def test_variational_em_reaches_the_maximum_where_the_family_holds_the_posterior():
    x, best = made(latent_dim=1)
    model = LinearGaussian(1, 6, seed=3)
    history = variational_em(model.vae, x, rounds=40, e_steps=30, m_steps=30, progress=False)
    assert model.log_likelihood(x).mean().item() == pytest.approx(best, abs=0.02)
    assert history["elbo"][-1] == pytest.approx(best, abs=0.03)
    assert history["elbo"][0] < best - 0.2
    rises = [after - before for before, after in pairwise(history["elbo"])]
    assert min(rises) > -0.05  # noise
    for row in history[:10]:  # at a fixed guide the model climbs
        assert row["elbo"] > row["elbo_e"] - 0.05


def test_each_phase_leaves_the_others_parameters_alone():
    x, _ = made()
    model = LinearGaussian(2, 6, seed=3)
    before = {name: p.clone() for name, p in model.vae.named_parameters()}

    def moved():
        return {n.split(".")[0] for n, p in model.vae.named_parameters() if not torch.equal(p, before[n])}

    rates = iter([0.01, 0.0])
    variational_em(
        model.vae, x, 1, 2, 2, optimizer=lambda p: torch.optim.Adam(p, next(rates)), num_samples=1, progress=False
    )
    assert moved() == {"encoder"}
    assert all(p.requires_grad for p in model.vae.parameters())
    rates = iter([0.0, 0.01])
    before = {name: p.clone() for name, p in model.vae.named_parameters()}
    variational_em(
        model.vae, x, 1, 2, 2, optimizer=lambda p: torch.optim.Adam(p, next(rates)), num_samples=1, progress=False
    )
    assert moved() == {"likelihood"}


def test_e_steps_end_where_they_gain_less_than_the_tolerance():
    x, _ = made()
    model = LinearGaussian(2, 6)
    model.solve_encoder()
    short, long = (
        variational_em(model.vae, x, 1, 100, 1, tolerance, num_samples=1, progress=False)["e_steps"][0]
        for tolerance in (10.0, None)
    )
    assert short == 20
    assert long == 100


def test_by_batches_it_climbs_too_and_follows_from_the_seed():
    x, _ = made(latent_dim=1)

    def run(seed):
        model = LinearGaussian(1, 6, seed=3)
        return variational_em(model.vae, x, 6, 5, 5, batch_size=50, seed=seed, progress=False)["elbo"]

    first, again, other = run(0), run(0), run(1)
    assert first == again
    assert first != other
    assert first[-1] > first[0] + 0.3


@pytest.mark.parametrize("objective", [objectives.ELBO, Trace_ELBO, RenyiELBO])
def test_by_batches_each_has_its_e_steps_which_end_by_the_tolerance(objective):
    """Three batches, of 100, 100 and 50 data: with a tolerance that no gain meets, a fifth of the steps of each."""
    x = made(latent_dim=1)[0][:250]
    for tolerance, taken in ((1e3, 3 * 4), (None, 3 * 20)):
        model = LinearGaussian(1, 6, seed=3)
        options = {"batch_size": 100, "objective": objective(num_particles=2), "progress": False}
        (row,) = variational_em(model.vae, x, 1, 20, 3, tolerance, **options)
        assert (row["e_steps"], row["m_steps"], row["elbo_e"]) == (taken, 3 * 3, None)


def test_joint_fitting_and_em_end_alike():
    x, best = made(latent_dim=1)
    model = LinearGaussian(1, 6, seed=3)
    fit(model.vae, x, epochs=500, batch_size=300, optimizer=lambda g: torch.optim.Adam(g, 0.02), progress=False)
    assert evaluation.log_likelihood(model.vae, x, 200).value.mean() == pytest.approx(best, abs=0.05)


def test_numbers_out_of_range_are_refused():
    model = LinearGaussian()
    for wrong in ({"rounds": 0}, {"e_steps": 0}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="must be at least 1 and tolerance positive"):
            variational_em(model.vae, model.sample(3), **wrong)


def test_what_cannot_be_fitted_is_refused():
    model = LinearGaussian()
    x = model.sample(20)
    model.vae.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="the guide has no parameter that requires a gradient: use fit"):
        variational_em(model.vae, x, progress=False)
    model = LinearGaussian()
    with pytest.raises(FloatingPointError, match=r"log p\(x \| z\) is not finite after a round: try a smaller"):
        variational_em(model.vae, x, 3, optimizer=partial(torch.optim.SGD, lr=1e4), progress=False)


def test_schedules_start_anew_and_count_all_steps():
    model = LinearGaussian()
    objective = objectives.ELBO(beta=schedules.Linear(steps=20))
    for _ in range(2):
        variational_em(model.vae, model.sample(20), 2, 3, 4, objective=objective, progress=False)
        assert objective.step == 2 * (3 + 4)


def test_a_point_is_fitted_by_its_reconstruction():
    x, _ = made()
    autoencoder = Autoencoder(
        networks.MLP(6, 2, hidden=()).double(), Normal(networks.MLP(2, 6, hidden=()), 1.0).double()
    )
    before = evaluation.elbo(autoencoder, x).reconstruction.mean()
    variational_em(autoencoder, x, 5, progress=False)
    assert evaluation.elbo(autoencoder, x).reconstruction.mean() > before + 0.5
