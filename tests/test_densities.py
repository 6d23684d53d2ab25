import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from linear_gaussian import LinearGaussian
from objective_checks import assert_same, gradients_of, observed, refused
from programs import make_data, make_vae
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy.stats import chi2

from pyrovae import objectives, priors
from pyrovae.densities import log_densities


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("prior", [priors.StandardNormal, priors.MixtureOfNormals])
def test_value_and_gradient_equal_trace_elbo(k, prior):
    vae, x = make_vae(prior=prior).double(), make_data().double()
    pyros = Trace_ELBO(k, vectorize_particles=True, max_plate_nesting=1)
    assert_same(
        gradients_of(objectives.ELBO(k), vae.model, vae.guide, x, vae),
        gradients_of(pyros, vae.model, vae.guide, x, vae),
    )


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_scale_and_subsampling_enter_the_loss_as_in_pyro_but_not_the_bound(scale):
    vae, x = make_vae().double(), make_data().double()

    def model(x):
        pyro.module("vae", vae)
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))), poutine.scale(scale=scale):
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.likelihood(z), obs=x)

    def guide(x):
        pyro.module("vae", vae)
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))), poutine.scale(scale=scale):
            pyro.sample("z", vae.encoder(x))

    assert_same(gradients_of(objectives.ELBO(), model, guide, x, vae), gradients_of(Trace_ELBO(), model, guide, x, vae))
    bounds = []
    for programs in ((model, guide), (vae.model, vae.guide)):
        pyro.set_rng_seed(7)
        bounds.append(objectives.ELBO().bound(*programs, x))
    assert torch.allclose(*bounds)
    loss = gradients_of(objectives.ELBO(), model, guide, x, vae)[0]
    assert loss == pytest.approx(-bounds[0].sum().item() * scale * 1000 / len(x))


def test_bound_agrees_with_the_closed_form():
    exact, k = LinearGaussian(), 20_000
    bound = objectives.ELBO(k).bound(exact.vae.model, exact.vae.guide, exact.data).numpy()
    weights = log_densities(exact.vae.model, exact.vae.guide, exact.data, num_samples=k).log_weight
    z = (bound - exact.elbo()) / (weights.detach().numpy().std(0) / k**0.5)
    assert chi2.sf((z**2).sum(), len(z)) > 1e-3
    np.testing.assert_allclose(bound, exact.elbo(), atol=0.05)


def test_with_the_exact_posterior_every_log_weight_is_log_likelihood():
    exact = LinearGaussian(exact_posterior=True)
    weights = log_densities(exact.vae.model, exact.vae.guide, exact.data, num_samples=5).log_weight
    assert weights.shape == (5, 6)
    np.testing.assert_allclose(weights.detach(), np.tile(exact.log_likelihood(), (5, 1)), rtol=1e-10)


def test_gradient_agrees_with_the_closed_form():
    exact, k = LinearGaussian(), 4000
    decoder = exact.vae.likelihood.network.layers[-1]
    draws = []
    for seed in range(30):
        exact.vae.zero_grad()
        pyro.set_rng_seed(seed)
        objectives.ELBO(k).loss_and_grads(exact.vae.model, exact.vae.guide, exact.data)
        draws.append(torch.cat([-decoder.weight.grad.flatten(), -decoder.bias.grad]).numpy())
    mean = exact.x @ exact.V.T + exact.c  # of q(z | x)
    residual = exact.x - exact.b - mean @ exact.W.T
    by_w = (residual.T @ mean - len(mean) * exact.W * exact.t**2) / exact.s**2
    by_b = residual.sum(0) / exact.s**2
    expected = np.concatenate([by_w.ravel(), by_b])
    z = (np.mean(draws, 0) - expected) / (np.std(draws, 0, ddof=1) / 30**0.5)
    assert np.abs(z).max() < 5  # p < 1e-4 for each of 15 under Student's t with 29 degrees
    assert np.linalg.norm(np.std(draws, 0) / 30**0.5) < 0.01 * np.linalg.norm(expected)


def test_the_encoder_runs_once_for_all_draws():
    vae, x, calls = make_vae(), make_data(), []
    vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    densities = log_densities(vae.model, vae.guide, x, num_samples=7)
    assert len(calls) == 1
    assert densities.log_weight.shape == (7, 24)


def test_sites_are_kept_apart_and_masks_applied():
    x = torch.randn(5, 3, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True, False])
    one = torch.ones((), dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0 * one, one))
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1), torch.ones(2).double()).to_event(1))
            with poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(b.sum(-1, keepdim=True), torch.ones(3).double()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, 0], 2 * one))
            pyro.sample("b", dist.Normal(a.unsqueeze(-1) + x[:, :2], torch.ones(2).double()).to_event(1))

    densities = log_densities(model, guide, x, num_samples=4)
    assert densities.log_prior.keys() == densities.log_posterior.keys() == {"a", "b"}
    assert densities.log_likelihood.keys() == {"x"}
    assert (densities.log_likelihood["x"][:, ~mask] == 0).all()
    assert (densities.log_likelihood["x"][:, mask] < 0).all()
    pyro.set_rng_seed(2)
    ours = objectives.ELBO(4).loss(model, guide, x)
    pyro.set_rng_seed(2)
    assert ours == pytest.approx(Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x))


def test_a_plate_inside_a_datum_is_summed():
    x = torch.randn(5, 3).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(5, 1).double(), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x[:, :1], 1.0))

    for k in (1, 3):
        densities = log_densities(model, guide, x, num_samples=k, max_plate_nesting=2)
        assert densities.log_weight.shape == (k, 5)
        pyro.set_rng_seed(0)
        ours = objectives.ELBO(k, max_plate_nesting=2).loss(model, guide, x)
        pyro.set_rng_seed(0)
        theirs = Trace_ELBO(k, vectorize_particles=True, max_plate_nesting=2).loss(model, guide, x)
        assert ours == pytest.approx(theirs)


def test_deterministic_sites_have_no_density_and_may_stand_anywhere():
    def model(x):
        pyro.deterministic("size", torch.tensor(float(len(x))))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(pyro.deterministic("twice", 2 * z), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    densities = log_densities(model, guide, torch.zeros(5), num_samples=2)
    assert densities.log_likelihood.keys() == {"x"}
    assert densities.log_prior.keys() == {"z"}


def test_a_guide_that_is_not_reparameterised_is_refused_with_what_works():
    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Bernoulli(0.5)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))

    refused(
        model,
        guide,
        r"'z' \(Bernoulli.*not reparameterised.*Pathwise has no.*use gradients.ScoreFunction, .* or gradients.REBAR",
    )
    assert objectives.ELBO(3).bound(model, guide, torch.randn(5)).shape == (5,)  # the value needs no gradient


def test_a_global_latent_is_refused_with_the_reason():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            observed(x, w)

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    refused(model, guide, "in one plate.*'w' in none.*'x' in 'data'")


def test_different_latent_sites_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 1.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(0.0, 1.0))

    refused(model, guide, r"'y', 'z' is in only one of them \(model: 'z'; guide: 'y'\)")


def test_a_scale_in_only_one_program_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 1.0)))

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=0.1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    refused(model, guide, "'z' has the scale 1.0 in the model and 0.1 in the guide")


def test_no_particles_are_refused():
    with pytest.raises(ValueError, match="num_particles"):
        objectives.ELBO(0)
