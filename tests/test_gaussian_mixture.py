"""The Gaussian mixture: its answers by scipy, its EM by scikit-learn, and what EM and SVI end at."""

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Sklearns

from pyrovae import em_step, encoders, fit, gradients, networks, objectives, variational_em
from pyrovae.exact import GaussianMixture


def array(tensor):
    return tensor.detach().numpy()


def uneven(seed=0):
    """Components of unlike weights and scales."""
    model = GaussianMixture(3, 2, seed=seed)
    with torch.no_grad():
        for p in (model.vae.prior.logits, model.vae.likelihood.network.weight):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype))
    return model


def data():
    return GaussianMixture(3, 2, spread=2.5, seed=2).sample(100, seed=1)


def start(seed=6):
    return GaussianMixture(3, 2, scale=2.0, spread=2.5, seed=seed)


def at_the_end_of_em(x, steps=80):
    model = start()
    for _ in range(steps):
        em_step(model, x)
    return model


def log_joint(model, x):
    """log p(x, z) by scipy, from what the parameters are called, `(N, C)`."""
    normals = norm(array(model.means), array(model.scales)).logpdf(array(x)[:, None])
    return np.log(array(model.weights)) + normals.sum(-1)


def enumerated():
    return objectives.ELBO(num_particles=1, gradient=gradients.Enumerate())


def test_log_likelihood_and_responsibilities_are_scipys():
    model = uneven()
    x = model.sample(50)
    joint = log_joint(model, x)
    evidence = logsumexp(joint, 1)
    assert array(model.log_likelihood(x)) == pytest.approx(evidence, rel=1e-12)
    assert array(model.posterior(x)) == pytest.approx(np.exp(joint - evidence[:, None]), rel=1e-10, abs=1e-15)
    assert array(model.scales).std() > 0.05
    assert array(model.weights).sum() == pytest.approx(1)


def test_draws_have_the_moments_of_the_parameters():
    """z-tests of mean and second moment of each dimension, two-sided at level 1e-4, of 20,000 draws."""
    model = uneven()
    x = array(model.sample(20_000))
    mu, sigma, pi = array(model.means), array(model.scales), array(model.weights)
    for power, expected in ((1, pi @ mu), (2, pi @ (mu**2 + sigma**2))):
        error = (x**power).mean(0) - expected
        assert (np.abs(error) < 3.9 * (x**power).std(0) / 20_000**0.5).all()


def test_the_programs_with_the_solved_encoder_give_log_p_of_x():
    """By enumeration of the Pyro programs, against scipy."""
    model = uneven()
    x = model.sample(50)
    evidence = logsumexp(log_joint(model, x), 1)
    bound = partial(enumerated().bound, model.vae.model, model.vae.guide)
    torch.testing.assert_close(bound(x), model.elbo(x))
    assert (array(bound(x)) < evidence - 1e-3).any()
    model.solve_encoder()
    assert array(bound(x)) == pytest.approx(evidence, rel=1e-12)
    assert array(model.gap(x)) == pytest.approx(0, abs=1e-12)
    assert array(model.vae.encode(x).probs) == pytest.approx(array(model.posterior(x)), abs=1e-12)


def test_each_step_of_em_is_scikit_learns():
    x, model = data(), start()
    same = {
        "weights_init": array(model.weights).copy(),
        "means_init": array(model.means).copy(),
        "precisions_init": array(model.scales).copy() ** -2,
    }
    for steps in range(1, 16):
        theirs = Sklearns(3, covariance_type="diag", reg_covar=0, tol=0, max_iter=steps, **same)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs.fit(array(x))
        em_step(model, x)
        assert array(model.weights) == pytest.approx(theirs.weights_, rel=1e-9)
        assert array(model.means) == pytest.approx(theirs.means_, rel=1e-9)
        assert array(model.scales) ** 2 == pytest.approx(theirs.covariances_, rel=1e-9)
        assert model.log_likelihood(x).mean().item() == pytest.approx(theirs.score(array(x)), rel=1e-12)
        assert array(model.posterior(x)) == pytest.approx(theirs.predict_proba(array(x)), abs=1e-9)


def test_log_likelihood_never_falls_and_ends_where_its_gradient_is_zero():
    x = data()
    for seed in (4, 6):
        model, values = start(seed), []
        for _ in range(80):
            values.append(model.log_likelihood(x).mean().item())
            em_step(model, x)
        assert all(after > before - 1e-13 for before, after in pairwise(values))
        assert values[-1] > values[0] + 0.5
        parameters = [model.vae.prior.logits, model.vae.likelihood.network.weight]
        for gradient in torch.autograd.grad(model.log_likelihood(x).mean(), parameters):
            assert gradient.abs().max() < 1e-5


def test_each_step_maximises_the_expected_log_joint():
    """At fixed responsibilities, by scipy, its gradient by finite differences is 0."""
    x, model = data(), start()
    r = array(model.posterior(x))

    def expected():
        return (r * log_joint(model, x)).sum() / len(x)

    before = expected()
    em_step(model, x)
    assert expected() > before + 0.1
    with torch.no_grad():
        for parameter in (model.vae.prior.logits, model.vae.likelihood.network.weight):
            for i in range(parameter.numel()):
                values = []
                for step in (1e-5, -2e-5):
                    parameter.view(-1)[i] += step
                    values.append(expected())
                parameter.view(-1)[i] += 1e-5
                assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_a_component_on_one_datum_keeps_the_floor_of_scales():
    x = torch.cat([data(), torch.full((1, 2), 30.0)])
    model = GaussianMixture(2, 2, scale=1.0)
    with torch.no_grad():
        model.vae.likelihood.network.weight[:2] = torch.tensor([[0.0, 30.0], [0.0, 30.0]])  # the means
    for _ in range(5):
        before = model.log_likelihood(x).mean()
        em_step(model, x)
        assert model.log_likelihood(x).mean() >= before - 1e-12
    assert array(model.scales[1]) == pytest.approx(1e-4, rel=0.02)
    assert array(model.weights) == pytest.approx([100 / 101, 1 / 101])


def test_what_cannot_be_is_refused():
    model = GaussianMixture(2, 2)
    with torch.no_grad():
        model.vae.likelihood.network.weight[:2, 1] = 1e3
    with pytest.raises(ValueError, match="component 1 has no data left"):
        em_step(model, data())
    for wrong in ({"components": 0}, *({"scale": scale} for scale in (0.0, 1e-4, float("inf"), float("nan")))):
        with pytest.raises(ValueError, match=r"components must be a whole|scale must be a finite number above"):
            GaussianMixture(**wrong)
    with pytest.raises(ValueError, match=r"Pathwise has no gradient through it: use .*Enumerate"):
        variational_em(GaussianMixture().vae, data(), progress=False)


ADAM = {"optimizer": partial(torch.optim.Adam, lr=0.1), "progress": False}


@pytest.mark.parametrize("network", [None, lambda: networks.MLP(2, 3, hidden=(32,))])
def test_variational_em_ends_where_exact_em_does_from_the_same_start(network):
    """Within 0.002 nats of log p(x), and 0.05 of the means; q of the family that holds p(z | x), or of a network."""
    x, model = data(), start()
    if network is not None:
        torch.manual_seed(0)
        model.vae.encoder = encoders.OneHotCategorical(network()).double()
    exact = at_the_end_of_em(x)
    most = exact.log_likelihood(x).mean().item()
    assert model.log_likelihood(x).mean().item() < most - 1
    steps = {"rounds": 12, "e_steps": 20, "m_steps": 15, "num_samples": 1}
    history = variational_em(model.vae, x, objective=enumerated(), **steps, **ADAM)
    assert model.log_likelihood(x).mean().item() == pytest.approx(most, abs=0.002)
    assert model.elbo(x).mean().item() == pytest.approx(most, abs=0.01)
    assert array(model.means) == pytest.approx(array(exact.means), abs=0.05)
    assert (history["e_steps"], history["m_steps"]) == ([20] * 12, [15] * 12)


def test_the_tolerance_is_in_nats_a_datum_whatever_the_number_of_data():
    """Ten times the same data gain ten times as much, and E-steps end at the same step: Adam's do not depend on it."""

    def taken(x):
        (row,) = variational_em(start().vae, x, 1, 200, 1, 0.01, objective=enumerated(), num_samples=1, **ADAM)
        return row["e_steps"]

    assert 40 < taken(data()) < 200
    assert taken(data()) == taken(data().repeat(10, 1))


def test_fitting_both_at_once_ends_there_too():
    """Within 0.002 nats of log p(x), and 0.05 of the means, from the same start with its p(z | x) for q."""
    x, model, exact = data(), start(), at_the_end_of_em(data())
    model.solve_encoder()
    fit(model.vae, x, objective=enumerated(), epochs=300, batch_size=len(x), **ADAM)
    assert model.log_likelihood(x).mean().item() == pytest.approx(exact.log_likelihood(x).mean().item(), abs=0.002)
    assert array(model.means) == pytest.approx(array(exact.means), abs=0.05)
