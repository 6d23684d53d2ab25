import contextlib
import itertools
import math
import re
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from discrete import Bits
from linear_gaussian import LinearGaussian
from programs import make_data, make_vae
from pyro import poutine
from pyro.distributions.transforms import Planar
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import chi2
from two_sites import TwoSites

from pyrovae import SVI, VAE, baselines, encoders, evaluation, gradients, likelihoods, objectives, priors, schedules
from pyrovae.densities import log_densities
from pyrovae.gradient import Gradient
from pyrovae.networks import MLP
from pyrovae.objective import Objective


def gradients_of(elbo, model, guide, x, module):
    """The loss and its gradient, from one seed."""
    module.zero_grad()
    pyro.set_rng_seed(7)
    loss = elbo.loss_and_grads(model, guide, x)
    return loss, [p.grad.clone() for p in module.parameters()]


def assert_same(a, b, rtol=1e-10):
    assert a[0] == pytest.approx(b[0], rel=rtol)
    assert all(torch.allclose(u, v, rtol=rtol, atol=1e-10) for u, v in zip(a[1], b[1], strict=True))


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


def refused(model, guide, message, objective=None):
    with pytest.raises(ValueError, match=message):
        (objective or objectives.ELBO()).differentiable_loss(model, guide, torch.randn(5, requires_grad=True))


def observed(x, mean):
    pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


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


# What bounds are to each other, and to Pyro's -------------------------------------------------------------------------


def two_programs():
    """Module, programs and data of a VAE and of a user's own program with two sites."""
    vae, two = make_vae().double(), TwoSites()
    return [(vae, vae.model, vae.guide, make_data().double()), (two, two.model, two.guide, torch.randn(6).double())]


PROGRAMS = pytest.mark.parametrize("program", [0, 1], ids=["vae", "two_sites"])


@PROGRAMS
@pytest.mark.parametrize("k", [1, 4])
def test_analytic_kl_equals_trace_mean_field_elbo(program, k):
    module, model, guide, x = two_programs()[program]
    if program:  # the other way around, top down, so that the closed form is valid
        guide = top_down(module)
    pyros = TraceMeanField_ELBO(k, vectorize_particles=True, max_plate_nesting=1)
    ours = objectives.ELBO(k, analytic_kl=True)
    assert set(ours.kl_terms(model, guide, x).values()) == {"analytic"}
    assert_same(gradients_of(ours, model, guide, x, module), gradients_of(pyros, model, guide, x, module))


def top_down(two):
    def guide(x):
        pyro.module("two_sites", two)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(two.u * x + two.v, two.r.exp()))
            pyro.sample("z1", dist.Normal(two.h * z2 + two.k * x, two.t.exp()))

    return guide


@PROGRAMS
@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 2.0])
def test_k_draw_bounds_equal_renyi_elbo(program, alpha):
    module, model, guide, x = two_programs()[program]
    pyros = RenyiELBO(alpha, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    expected = gradients_of(pyros, model, guide, x, module)
    ours = [objectives.Renyi(alpha, 5)] + ([objectives.IWAE(5)] if alpha == 0 else [])
    for objective in ours:
        assert_same(gradients_of(objective, model, guide, x, module), expected)


E, G, B = objectives, gradients, baselines
EQUAL = [
    (E.Renyi(0.0, 6), E.IWAE(6)),
    (E.Renyi(1.0, 6), E.ELBO(6)),
    (E.MIWAE(6, groups=1), E.IWAE(6)),
    (E.MIWAE(1, groups=6), E.ELBO(6)),
    (E.PIWAE(6, groups=1), E.IWAE(6)),
    (E.CIWAE(0.0, 6), E.IWAE(6)),
    (E.CIWAE(1.0, 6), E.ELBO(6)),
    (E.TVO(6, partitions=1, gradient=G.Pathwise()), E.ELBO(6)),
    (E.IWAE(1), E.ELBO(1)),
    (E.TMC(1), E.IWAE(1)),
    (E.MIWAE(6, groups=1, gradient=G.DReG()), E.IWAE(6, G.DReG())),
    (E.PIWAE(6, groups=1, gradient=G.DReG()), E.IWAE(6, G.DReG())),
    (E.MIWAE(1, groups=6, gradient=G.DReG()), E.ELBO(6, G.STL())),
    (E.ELBO(6, G.DReG()), E.ELBO(6, G.STL())),
    (E.ELBO(6, G.VIMCO()), E.ELBO(6, G.ScoreFunction(B.LeaveOneOut()))),
    (E.ELBO(6, G.ScoreFunction(pathwise=True)), E.ELBO(6)),
]


@PROGRAMS
@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_special_cases_are_the_same_in_value_and_gradient(program, one, other):
    module, model, guide, x = two_programs()[program]
    assert_same(gradients_of(one, model, guide, x, module), gradients_of(other, model, guide, x, module))


def test_tmc_of_one_site_is_iwae():
    module, model, guide, x = two_programs()[0]
    assert_same(*(gradients_of(o, model, guide, x, module) for o in (E.TMC(6), E.IWAE(6))))


def test_tvo_of_one_partition_has_the_value_of_the_elbo_whatever_its_gradient():
    module, model, guide, x = two_programs()[0]
    losses = [gradients_of(o, model, guide, x, module)[0] for o in (E.TVO(6, partitions=1), E.ELBO(6))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_vr_max_is_the_limit_of_renyi_and_above_the_others():
    module, model, guide, x = two_programs()[0]
    bounds = []
    for alpha in (-math.inf, -1e6, -10.0, 0.0, 0.5, 1.0, 3.0):
        pyro.set_rng_seed(1)
        bounds.append(E.Renyi(alpha, 5).bound(model, guide, x))
    assert torch.allclose(bounds[0], bounds[1], rtol=0, atol=math.log(5) / 1e6)
    assert all((above >= below).all() for above, below in itertools.pairwise(bounds))
    pair = [gradients_of(E.Renyi(a, 5), model, guide, x, module) for a in (-math.inf, -1e9)]
    assert_same(*pair, rtol=1e-6)


# Scales (pitfalls A6) ------------------------------------------------------------------------------------------------


class Line:
    """z ~ N(0, 1), x | z ~ N(z, 1), q(z | x) = N(x / 2 + 0.4, 0.9^2), with the data subsampled or scaled."""

    def __init__(self, size=None, scale=1.0):
        self.size, self.scale = size, scale

    def model(self, x):
        with pyro.plate("data", len(x), subsample_size=self.size) as i, poutine.scale(scale=self.scale):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(self, x):
        with pyro.plate("data", len(x), subsample_size=self.size) as i, poutine.scale(scale=self.scale):
            pyro.sample("z", dist.Normal(x[i] / 2 + 0.4, 0.9))

    def values(self, elbo, x, runs):
        """What the loss says of the bound, by independent runs."""
        pyro.set_rng_seed(3)
        return -np.array([elbo.loss(self.model, self.guide, x) for _ in range(runs)]) / self.scale


@pytest.mark.parametrize(("size", "scale"), [(8, 1.0), (2, 1.0), (None, 0.1)])
def test_a_scale_stands_outside_of_the_logarithm_and_in_pyro_within(size, scale):
    x = 2**0.5 * torch.randn(32).double()
    full = Line().values(objectives.IWAE(10), x, 200)
    line = Line(size, scale)
    ours, pyros = (
        line.values(elbo, x, 500 if size else 200)
        for elbo in (objectives.IWAE(10), RenyiELBO(0, num_particles=10, vectorize_particles=True, max_plate_nesting=1))
    )
    error = (full.var() / len(full) + ours.var() / len(ours)) ** 0.5
    assert abs(ours.mean() - full.mean()) < 4.5 * error  # p < 1e-5
    assert error < 1.0
    off = pyros.mean() - full.mean()
    assert abs(off) > 1.5 + 4.5 * (pyros.var() / len(pyros)) ** 0.5  # nats; if this fails, Pyro has been mended
    assert (off > 0) == (scale == 1.0)


def linear_gaussian_programs(scale):
    exact = LinearGaussian()

    def model(x):
        with poutine.scale(scale=scale):
            exact.vae.model(x)

    def guide(x):
        with poutine.scale(scale=scale):
            exact.vae.guide(x)

    return exact, model, guide


@pytest.mark.parametrize("objective", [getattr(E, name)() for name in E.__all__] + [E.IWAE(3, G.DReG())])
def test_a_scale_multiplies_the_loss_and_its_gradient(objective):
    results = []
    for scale in (1.0, 0.1, torch.full((6,), 0.1, dtype=torch.float64)):
        exact, model, guide = linear_gaussian_programs(scale)
        results.append(gradients_of(objective, model, guide, exact.data, exact.vae))
    (loss, grads), *scaled = results
    for pair in scaled:
        assert_same(pair, (0.1 * loss, [0.1 * g for g in grads]))


def test_data_may_have_scales_of_their_own():
    scale = torch.tensor([0.01, 1.0, 2.0, 0.5, 0.1, 3.0]).double()
    exact, model, guide = linear_gaussian_programs(scale)
    for objective in (E.ELBO(3, free_bits=0.2), E.ELBO(3, capacity=1.0)):
        with pytest.raises(ValueError, match="mean KL, so data cannot have scales of their own"):
            objective.differentiable_loss(model, guide, exact.data)
    for objective in (E.ELBO(3), E.IWAE(3)):
        pyro.set_rng_seed(2)
        loss = objective.loss(model, guide, exact.data)
        pyro.set_rng_seed(2)
        with torch.no_grad():
            target = objective.target(objective.densities(exact.vae.model, exact.vae.guide, exact.data))
        assert loss == pytest.approx(-(scale * target).sum().item(), rel=1e-12)


def test_sites_scaled_differently_are_refused_where_the_bound_is_not_linear():
    module, *_ = two_programs()[0]

    def scaled(program):
        return poutine.scale(program, 0.1)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.1):
                z = pyro.sample("z", module.prior())
            pyro.sample("x", module.likelihood(z), obs=x)

    x, guide = make_data().double(), scaled(module.guide)
    message = r"different scales \('z' 0.1.*, 'x' 1.0\).*room for one.*objectives.ELBO, whose beta"
    for objective in (E.IWAE(3), E.Renyi(0.5), E.TVO(), E.RWS(), E.TMC(), E.ELBO(free_bits=0.1), E.ELBO(capacity=1.0)):
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(model, guide, x)
    assert objectives.IWAE(3).bound(model, guide, x).shape == (24,)  # which has no scales
    results = [gradients_of(E.ELBO(2), model, guide, x, module)]
    results.append(gradients_of(Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1), model, guide, x, module))
    results.append(gradients_of(E.ELBO(2, beta=0.1), module.model, module.guide, x, module))
    assert_same(*results[:2])
    assert_same(*results[1:])


def test_a_scale_may_stand_inside_of_the_plate_or_around_it():
    """In floating point s B / B is not always s."""
    for b, k in itertools.product(range(1, 8), range(1, 5)):
        x = torch.zeros(b)

        def model(x):
            with pyro.plate("data", len(x)), poutine.scale(scale=0.1):
                observed(x, pyro.sample("z", dist.Normal(0.0, 1.0)))

        def guide(x):
            with poutine.scale(scale=0.1), pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

        pyro.set_rng_seed(0)
        loss = objectives.IWAE(k).loss(model, guide, x)
        pyro.set_rng_seed(0)
        assert loss == pytest.approx(-0.1 * objectives.IWAE(k).bound(model, guide, x).sum().item(), rel=1e-5)


def test_a_scale_differs_from_datum_to_datum_alone():
    def model(x):
        with pyro.plate("data", 5, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(5, 1), 1.0))
            with pyro.plate("pixels", 3, dim=-1), poutine.scale(scale=torch.rand(5, 3)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 5, dim=-2):
            pyro.sample("z", dist.Normal(x[:, :1], 1.0))

    with pytest.raises(ValueError, match=r"'x' has a scale of shape \(5, 3\).*datum to datum alone"):
        objectives.ELBO(max_plate_nesting=2).loss(model, guide, torch.randn(5, 3))


def test_a_site_outside_of_the_plate_is_refused_for_iwae():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(w, 1.0)))

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    refused(model, guide, "in one plate, found: .*'w' in none", objectives.IWAE(3))


# Closed forms of the KL (pitfalls A7) ---------------------------------------------------------------------------------


def test_a_closed_form_is_taken_only_where_it_is_valid():
    two, x, k = TwoSites(), torch.randn(5).double(), 20_000
    expected = two.expectation(lambda log_w: log_w.mean(0), x, draws=1, nodes=30).detach().numpy()
    objective = objectives.ELBO(k, analytic_kl=True)
    assert objective.kl_terms(two.model, two.guide, x) == {
        "z2": "analytic",
        "z1": "sampled: the model draws 'z2' before 'z1', the guide after it",
    }
    with torch.no_grad():
        densities = objective.densities(two.model, two.guide, x)
        draws = (densities.reconstruction - objective._kl(densities)).numpy()
        value = objective.value(densities)
    z = (draws.mean(0) - expected) / (draws.std(0) / k**0.5)
    assert chi2.sf((z**2).sum(), len(z)) > 1e-4
    assert np.abs(draws.mean(0) - expected).max() < 0.1
    np.testing.assert_allclose(value, draws.mean(0))
    pyros = TraceMeanField_ELBO(k, vectorize_particles=True, max_plate_nesting=1)
    with pytest.warns(UserWarning, match="mean field restriction"):
        wrong = -pyros.loss(two.model, two.guide, x)
    assert abs(wrong - expected.sum()) > 1.0  # nats of 5 data; if this fails, Pyro has been mended


def test_where_there_is_no_closed_form_the_reason_is_told():
    vae, x = make_vae(prior=priors.MixtureOfNormals).double(), make_data().double()
    terms = objectives.ELBO(analytic_kl=True).kl_terms(vae.model, vae.guide, x)
    assert terms["z"].startswith("sampled: no closed form for Normal and Mixture")
    assert objectives.ELBO().kl_terms(vae.model, vae.guide, x) == {"z": "sampled: analytic_kl is off"}
    results = [gradients_of(E.ELBO(3, analytic_kl=a), vae.model, vae.guide, x, vae) for a in (False, True)]
    assert_same(*results)


# Values against exact answers ----------------------------------------------------------------------------------------

DEFAULTS = [getattr(E, name)() for name in E.__all__]
WEIGHTED = [E.ELBO(3, beta=0.2), E.ELBO(free_bits=1.0), E.ELBO(capacity=3.0), E.ELBO(beta=schedules.Linear(5))]
VARIANTS = [E.Renyi(-math.inf), E.Renyi(-2.0), E.RWS(gradient=G.Sleep()), E.TVO(gradient=G.DReG()), E.ELBO(2)]


@pytest.mark.parametrize("objective", DEFAULTS + WEIGHTED + VARIANTS)
def test_with_the_exact_posterior_every_bound_is_log_likelihood(objective):
    exact = LinearGaussian(exact_posterior=True)
    bound = objective.bound(exact.vae.model, exact.vae.guide, exact.data)
    np.testing.assert_allclose(bound, exact.log_likelihood(), rtol=0, atol=1e-9)
    if not objective.weights:
        assert objective.loss(exact.vae.model, exact.vae.guide, exact.data) == pytest.approx(
            -exact.log_likelihood().sum(), abs=1e-8
        )


def test_bounds_rise_with_the_number_of_draws_to_log_likelihood():
    """By paired differences: of the same 64 draws all bounds are computed; z > 5 has p < 3e-7."""
    exact, runs = LinearGaussian(), 2000
    x = exact.data.repeat(runs, 1)
    with torch.no_grad():
        log_w = log_densities(exact.vae.model, exact.vae.guide, x, num_samples=64).log_weight

    def mean_bound(objective):  # of each of the 6 data, by run
        return objective.reduce(log_w[: objective.num_particles]).reshape(runs, 6).mean(1)

    ladder = [E.ELBO(64), E.IWAE(2), E.IWAE(8), E.IWAE(64)]
    bounds = [mean_bound(o) for o in ladder] + [torch.tensor(exact.log_likelihood().mean())]
    for below, above in itertools.pairwise(bounds):
        d = above - below
        assert d.mean() / (d.std() / runs**0.5) > 5
    assert (bounds[-1] - bounds[0].mean()) > 5 * (bounds[-1] - bounds[-2].mean()) > 0
    tvo, iwae, elbo = (o.reduce(log_w) for o in (E.TVO(64), E.IWAE(64), E.ELBO(64)))
    miwae = E.MIWAE(8, groups=8)
    assert miwae.num_draws == 64
    miwae = miwae.reduce(miwae.grouped(log_w)).mean(0)
    for below, above in ((elbo, tvo), (tvo, iwae), (elbo, miwae), (miwae, iwae)):  # whatever the draws
        assert (below < above).all()
    finer = E.TVO(64, partitions=40).reduce(log_w)
    assert (finer > tvo).double().mean() > 0.99


@pytest.mark.parametrize("k", [1, 3])
def test_weights_and_thresholds_are_as_in_their_formulas(k):
    exact, kl = LinearGaussian(), LinearGaussian().kl()  # (6, 2)
    floor = kl.mean(0).mean()
    assert kl.mean(0).min() < floor < kl.mean(0).max()
    formulas = {
        E.ELBO(k, analytic_kl=True): -kl.sum(1).mean(),
        E.ELBO(k, beta=0.3, analytic_kl=True): -0.3 * kl.sum(1).mean(),
        E.ELBO(k, beta=3.0, free_bits=floor, analytic_kl=True): -3 * np.maximum(kl.mean(0), floor).sum(),
        E.ELBO(k, beta=5.0, capacity=9.0, analytic_kl=True): -5 * abs(kl.sum(1).mean() - 9.0),
        E.ELBO(k, capacity=0.5, analytic_kl=True): -abs(kl.sum(1).mean() - 0.5),
        E.ELBO(k, beta=schedules.Linear(4, 0.5, 1.0), analytic_kl=True): -0.5 * kl.sum(1).mean(),
    }
    for objective, expected in formulas.items():
        pyro.set_rng_seed(4)
        found = -objective.loss(exact.vae.model, exact.vae.guide, exact.data) / 6
        pyro.set_rng_seed(4)
        with torch.no_grad():
            densities = objective.densities(exact.vae.model, exact.vae.guide, exact.data)
        assert found - densities.reconstruction.mean().item() == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(
            objective.value(densities), densities.reconstruction.mean(0).numpy() - kl.sum(1), rtol=1e-6
        )
    with torch.no_grad():  # and the reconstruction is what it is in closed form
        many = log_densities(exact.vae.model, exact.vae.guide, exact.data, num_samples=20_000).reconstruction.numpy()
    z = (many.mean(0) - exact.reconstruction()) / (many.std(0) / 20_000**0.5)
    assert chi2.sf((z**2).sum(), len(z)) > 1e-4


def test_sampled_free_bits_agree_with_analytic_ones():
    exact, floor = LinearGaussian(), LinearGaussian().kl().mean(0).mean()
    found = [
        -E.ELBO(20_000, free_bits=floor, analytic_kl=a).loss(exact.vae.model, exact.vae.guide, exact.data) / 6
        for a in (False, True)
    ]
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_a_dimension_below_its_free_bits_is_not_pulled():
    exact, kl = LinearGaussian(), LinearGaussian().kl().mean(0)
    low = kl.argmin()
    last = exact.vae.encoder.network.layers[-1]  # rows: two means, two scales

    def kl_gradient(free_bits):
        grads = []
        for beta in (0.0, 1.0):
            objective = E.ELBO(beta=beta, free_bits=free_bits, analytic_kl=True)
            gradients_of(objective, exact.vae.model, exact.vae.guide, exact.data, exact.vae)
            grads.append(last.weight.grad.clone())
        return (grads[1] - grads[0]).reshape(2, 2, -1).abs().amax((0, 2))

    none, both = kl_gradient(kl.mean()), kl_gradient(0.5 * kl.min())
    assert none[low] < 1e-12 < 1e-3 < none[1 - low]
    assert both.min() > 1e-3


# Schedules -----------------------------------------------------------------------------------------------------------


def test_schedules():
    linear, cyclical = schedules.Linear(10, 0.2, 1.2), schedules.Cyclical(12, cycles=3, start=0.0, end=2.0)
    assert [linear(t) for t in (0, 5, 10, 99)] == pytest.approx([0.2, 0.7, 1.2, 1.2])
    assert [cyclical(t) for t in range(14)] == pytest.approx([0, 1, 2, 2] * 3 + [2, 2])
    down = schedules.Linear(2, 4.0, 1.0)
    assert [down(t) for t in range(4)] == [4.0, 2.5, 1.0, 1.0]
    for bad in (lambda: schedules.Linear(0), lambda: schedules.Cyclical(4, cycles=5), lambda: schedules.Cyclical(4, 0)):
        with pytest.raises(ValueError, match=r"not [05]"):
            bad()


def test_a_step_is_counted_once_for_each_gradient():
    vae, x = make_vae(), make_data()
    objective = E.ELBO(beta=schedules.Linear(10))
    assert objective.warm_up == 10
    counts = [objective.step]

    def count():
        counts.append(objective.step)

    objective.loss(vae.model, vae.guide, x)
    objective.bound(vae.model, vae.guide, x)
    objective.kl_terms(vae.model, vae.guide, x)
    count()
    objective.differentiable_loss(vae.model, vae.guide, x).backward()
    count()
    objective.loss_and_grads(vae.model, vae.guide, x)
    count()
    pyros = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    pyros.step(x)
    count()
    pyros.evaluate_loss(x)
    count()
    ours = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), objective)
    ours.step(x)
    count()
    ours.step(x)
    count()
    ours.evaluate_loss(x)
    count()
    assert counts == [0, 0, 1, 2, 3, 3, 4, 5, 5]
    assert objective.weights == {"beta": pytest.approx(0.4)}  # of the last step
    again = E.ELBO(beta=schedules.Linear(10))
    again.load_state_dict(objective.state_dict())
    assert again.step == 5


def test_the_weight_is_that_of_the_step():
    exact, losses = LinearGaussian(), []
    objective = E.ELBO(beta=schedules.Linear(4), analytic_kl=True)
    for _ in range(6):
        pyro.set_rng_seed(0)
        losses.append(objective.loss_and_grads(exact.vae.model, exact.vae.guide, exact.data))
    steps = np.diff(losses)
    np.testing.assert_allclose(steps, [*[LinearGaussian().kl().sum() / 4] * 4, 0.0], rtol=1e-6, atol=1e-9)


# Interfaces ----------------------------------------------------------------------------------------------------------


class Program(torch.nn.Module):
    """A VAE's model or guide as a module, for `objective(model, guide)`."""

    def __init__(self, vae, name):
        super().__init__()
        self.vae, self.program = vae, name

    def forward(self, x):
        return getattr(self.vae, self.program)(x)


def by_pyro(vae, objective, x):
    return pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective).step


def by_svi(vae, objective, x):
    return SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2), objective).step


def by_torch(vae, objective, x):
    return torch_step(vae, lambda x: objective.differentiable_loss(vae.model, vae.guide, x))


def by_module(vae, objective, x):
    module = objective(Program(vae, "model"), Program(vae, "guide"))
    assert {id(p) for p in module.parameters()} == {id(p) for p in vae.parameters()}
    return torch_step(module, module)


def torch_step(module, loss):
    optim = torch.optim.Adam(module.parameters(), lr=1e-2)

    def step(x):
        optim.zero_grad()
        loss(x).backward()
        optim.step()

    return step


@pytest.mark.parametrize("interface", [by_pyro, by_svi, by_torch, by_module])
@pytest.mark.parametrize("objective", [getattr(E, name) for name in E.__all__])
def test_every_objective_raises_its_bound_in_every_interface(objective, interface):
    vae, x, objective = make_vae(), make_data(), objective()
    step = interface(vae, objective, x)
    pyro.set_rng_seed(1)
    before = objective.bound(vae.model, vae.guide, x).mean()
    for _ in range(60):
        step(x)
    assert objective.bound(vae.model, vae.guide, x).mean() > before + 1.5
    assert objective.step == 60


def test_all_interfaces_lead_to_the_same_parameters():
    ends, x = [], make_data().double()
    for interface in (by_pyro, by_svi, by_torch, by_module):
        vae, objective = make_vae().double(), E.IWAE(4, G.DReG())
        step = interface(vae, objective, x)
        pyro.set_rng_seed(1)
        for _ in range(5):
            step(x)
        ends.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert all(torch.allclose(end, ends[0], rtol=1e-9, atol=1e-12) for end in ends[1:])


# Refusals ------------------------------------------------------------------------------------------------------------

PAIRS = list(itertools.product(E.__all__, G.__all__))


def construct(objective, gradient):
    options = {"num_particles": 3, "gradient": getattr(G, gradient)()}
    return getattr(E, objective)(**options)


@pytest.mark.parametrize(("objective", "gradient"), PAIRS)
def test_every_pair_of_bound_and_gradient_works_or_says_what_does(objective, gradient):
    try:
        constructed = construct(objective, gradient)
    except ValueError as error:
        named = re.findall(r"gradients\.(\w+)", str(error))
        assert named
        assert gradient not in named
        assert [construct(objective, name) for name in named]
        return
    finite, works = [], constructed.gradient.takes(dist.Bernoulli(logits=torch.zeros(3)).to_event(1))
    for module, x in ((LinearGaussian().vae, LinearGaussian().data), (Bits(), torch.randn(5, 3).double())):
        discrete = isinstance(module, Bits)
        if gradient == "REBAR" and not discrete:
            with pytest.raises(ValueError, match=r"REBAR couples Bernoulli.*gradients\.Enumerate"):
                constructed.differentiable_loss(module.model, module.guide, x)
        elif works or not discrete:
            loss = constructed.loss_and_grads(module.model, module.guide, x)
            finite.append(math.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in module.parameters()))
            bound = constructed.bound(module.model, module.guide, x)
            assert torch.isfinite(bound).all()
            assert bound.shape == (len(x),)
        else:
            with pytest.raises(ValueError, match=f"not reparameterised, so {gradient} has no gradient") as error:
                constructed.differentiable_loss(module.model, module.guide, x)
            for name in re.findall(r"gradients\.(\w+)", str(error.value)):
                other = construct(objective, name)
                assert math.isfinite(other.loss_and_grads(module.model, module.guide, x))
    assert finite
    assert all(finite)


def test_a_bound_and_an_estimator_of_ones_own():
    class Mean(Objective):
        def reduce(self, terms):
            return terms.mean(0)

    class Half(Gradient):
        def forward(self, objective, densities):
            return objective.target(densities) / 2

    module, model, guide, x = two_programs()[0]
    assert_same(*(gradients_of(o, model, guide, x, module) for o in (Mean(3), E.ELBO(3))))
    loss, grads = gradients_of(E.IWAE(3), model, guide, x, module)
    assert_same(gradients_of(E.IWAE(3, Half()), model, guide, x, module), (loss / 2, [g / 2 for g in grads]))


def test_every_gradient_is_for_some_objective():
    def fits(objective, gradient):
        with contextlib.suppress(ValueError):
            return bool(construct(objective, gradient))

    for gradient in G.__all__:
        assert any(fits(objective, gradient) for objective in E.__all__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: E.Renyi(-math.inf, gradient=G.DReG()), "DReG, .*smooth.*use gradients.Pathwise"),
        (lambda: E.Renyi(math.nan), "alpha must be a number"),
        (lambda: E.Renyi(math.inf), "alpha must be a number"),
        (lambda: E.ELBO(gradient=G.STL(), analytic_kl=True), "STL, as an analytic KL .*use gradients.Pathwise"),
        (lambda: E.ELBO(gradient=G.DReG(), analytic_kl=True), "DReG, as an analytic KL .*use gradients.Pathwise"),
        (lambda: E.ELBO(gradient=G.DReG(), beta=0.5), "DReG, as beta .*use gradients.Pathwise, gradients.STL"),
        (lambda: E.ELBO(gradient=G.STL(), free_bits=0.1), "STL, as free bits .*: use gradients.Pathwise$"),
        (lambda: E.ELBO(gradient=G.Enumerate(), capacity=0.1), "Enumerate, as free bits .*: use gradients.Pathwise$"),
        (lambda: E.ELBO(1, G.VIMCO()), "other draws: give num_particles of at least 2"),
        (lambda: E.MIWAE(1, 4, G.VIMCO()), "other draws: give num_particles of at least 2"),
        (lambda: E.ELBO(1, G.ScoreFunction(B.LeaveOneOut())), "LeaveOneOut.*other draws: give num_particles of .* 2"),
        (lambda: E.ELBO(beta=-1.0), "beta must not be negative, but it is -1.0"),
        (lambda: E.ELBO(free_bits=-1.0), "free_bits must not be negative, but it is -1.0"),
        (lambda: E.ELBO(capacity=-1.0), "capacity must not be negative, but it is -1.0"),
        (lambda: E.ELBO(beta=math.nan), "beta must not be negative, but it is nan"),
        (lambda: E.IWAE(2.5), "whole number of at least 1, not 2.5"),
        (lambda: E.IWAE(gradient="STL"), r"estimator such as gradients.STL\(\), not 'STL'"),
        (lambda: E.IWAE(gradient=G.STL), r"estimator such as gradients.STL\(\), not <class"),
        (lambda: G.ScoreFunction(B.LeaveOneOut), r"such as baselines.LeaveOneOut\(\), not <class"),
        (lambda: E.PIWAE(gradient=G.VIMCO()), "as each network has a bound of its own: use gradients.Pathwise"),
        (lambda: E.TMC(gradient=G.STL()), "combinations of draws, not draws: use gradients.Pathwise$"),
        (lambda: E.IWAE(gradient=G.Enumerate()), "Enumerate, which needs an expectation of one term"),
        (lambda: E.ELBO(free_bits=1.0, capacity=1.0), "give one of them"),
        (lambda: E.CIWAE(beta=1.5), "between 0 and 1, not 1.5"),
        (lambda: E.TVO(partitions=0), "partitions must be at least 1"),
        (lambda: E.TVO(first=1.0), "first between 0 and 1"),
        (lambda: E.MIWAE(groups=0), "groups must be at least 1"),
        (lambda: E.IWAE(0), "num_particles must be a whole number of at least 1"),
        (lambda: G.Concrete(0.0), "temperature must be positive"),
        (lambda: G.StraightThrough(-1.0), "temperature must be positive"),
        (lambda: G.REBAR(math.nan), "temperature must be positive"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        arguments()


def test_free_bits_need_dimensions():
    x = torch.randn(5, 2).double()

    def program(x, guide=False):
        with pyro.plate("data", len(x)):
            fn = dist.MultivariateNormal(0 * x, torch.eye(2).double())
            z = pyro.sample("z", fn)
            if not guide:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"KL for each dimension.*'z' MultivariateNormal .*does not factorise"):
        E.ELBO(free_bits=0.1).loss(program, lambda x: program(x, guide=True), x)


def test_a_flow_without_inverse_has_a_pathwise_gradient_alone():
    planar, x = Planar(2).double(), torch.randn(5, 2).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("planar", planar)
        with pyro.plate("data", len(x)):
            base = dist.Normal(x / 2, 0.7).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    for gradient in (G.STL(), G.DReG()):
        with pytest.raises(ValueError, match=r"'z' .*no analytic inverse.*use gradients.Pathwise"):
            E.IWAE(3, gradient).differentiable_loss(model, guide, x)
    ours = gradients_of(E.ELBO(3), model, guide, x, planar)
    assert_same(
        ours, gradients_of(Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1), model, guide, x, planar)
    )


def test_sleep_needs_data_as_they_are_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            observed(2 * x, pyro.sample("z", dist.Normal(0.0, 1.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    refused(
        model,
        guide,
        "what the model observes at 'x' is no argument of the programs.*use gradients.Wake",
        E.RWS(3, G.Sleep()),
    )
    assert torch.isfinite(E.RWS(3).differentiable_loss(model, guide, torch.randn(5)))


def test_sleep_dreams_of_all_that_is_observed():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observed(x, z)
            pyro.sample("y", dist.Normal(z, 1.0), obs=2 * y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + y, 1.0))

    x = torch.randn(5, requires_grad=True)
    with pytest.raises(ValueError, match="observes at 'y' is no argument"):
        E.RWS(3, G.Sleep()).differentiable_loss(model, guide, x, x)


def test_log_densities_serve_one_surrogate_that_weights_gradients():
    exact, objective = LinearGaussian(), E.IWAE(3, G.DReG())
    densities = objective.densities(exact.vae.model, exact.vae.guide, exact.data)
    objective.surrogate(densities)
    with pytest.raises(ValueError, match="belong to another surrogate already: draw them anew"):
        E.IWAE(3).surrogate(densities)


@pytest.mark.parametrize("gradient", [G.STL(), G.DReG()])
@pytest.mark.parametrize("family", ["Uniform", "Delta"])
def test_a_guide_whose_density_does_not_tell_where_z_lies(family, gradient):
    a = torch.nn.Parameter(torch.ones(()))

    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 3.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - a, x + a) if family == "Uniform" else dist.Delta(a * x))

    with pytest.raises(ValueError, match=rf"'z' \({family}\) does not tell where z lies.*use gradients.Pathwise"):
        E.IWAE(3, gradient).differentiable_loss(model, guide, torch.randn(5))
    assert torch.isfinite(E.IWAE(3).differentiable_loss(model, guide, torch.randn(5)))


def test_a_variable_is_discrete_in_both_programs_or_in_none():
    vae = VAE(
        priors.StandardNormal(2), likelihoods.Normal(MLP(2, 3)), encoders.Bernoulli(MLP(3, 2))
    )  # each of which is sound
    for call in (E.IWAE(3).bound, E.ELBO().differentiable_loss):
        with pytest.raises(ValueError, match="'z' is continuous in the model but discrete in the guide"):
            call(vae.model, vae.guide, torch.randn(5, 3))
    with pytest.raises(ValueError, match="'z' is continuous in the model"):
        evaluation.log_likelihood(vae, torch.randn(5, 3), 10)


def test_a_mask_in_only_one_program_is_refused():
    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=x > 0):
            observed(x, pyro.sample("z", dist.Normal(0.0, 1.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    refused(model, guide, "'z' has the mask tensor.*in the model and True in the guide")


@pytest.mark.parametrize("k", [2, 3])
def test_more_plates_than_stated_are_refused(k):
    """With k = 3, as many draws as pixels, shapes would fit."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 3):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    with pytest.raises(ValueError, match=r"nest more than 1 plates\? then say how many by max_plate_nesting"):
        E.IWAE(k).bound(model, guide, torch.randn(6, 3))
    assert E.IWAE(k, max_plate_nesting=2).bound(model, guide, torch.randn(6, 3)).shape == (6,)


def test_autoguides_with_auxiliary_sites():
    """Of z > 0, drawn by way of an unconstrained variable."""
    x = torch.rand(5) + 1

    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.LogNormal(0.0, 1.0)))

    guide = pyro.infer.autoguide.AutoNormal(model)
    guide(x)
    for ours, theirs in (
        (E.ELBO(3), Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1)),
        (E.IWAE(3), RenyiELBO(0, num_particles=3, vectorize_particles=True, max_plate_nesting=1)),
    ):
        assert_same(*(gradients_of(o, model, guide, x, guide) for o in (ours, theirs)), rtol=1e-5)
    with pytest.raises(ValueError, match="does not tell where z lies"):
        E.ELBO(gradient=G.STL()).differentiable_loss(model, guide, x)


def test_minus_infinity_is_a_value():
    """Where p(x | z) has no mass at some draws."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    a = torch.zeros(4, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + a, 1.0))

    for objective in (E.IWAE(50), E.IWAE(50, G.DReG()), E.RWS(50), E.PIWAE(10, 5), E.IWAE(50, G.VIMCO())):
        loss = objective.differentiable_loss(model, guide, torch.zeros(4))
        assert torch.isfinite(loss), objective
        (gradient,) = torch.autograd.grad(loss, a)
        assert torch.isfinite(gradient).all(), objective


# Plates and masks ----------------------------------------------------------------------------------------------------


def plated(kind, a, mask=None):
    """x in three pixels given z, as an event, or in a plate to the right or to the left of the data's."""
    keep = torch.ones(5, dtype=torch.bool) if mask is None else mask
    column, dims = {"event": (False, (-1, None)), "right": (True, (-2, -1)), "left": (False, (-1, -2))}[kind]

    def column_of(t):
        return t.unsqueeze(-1) if column else t

    def model(x):
        with pyro.plate("data", 5, dim=dims[0]), poutine.mask(mask=column_of(keep)):
            z = pyro.sample("z", dist.Normal(column_of(torch.zeros(5).double()), a.exp()))
            if kind == "event":
                pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)
            else:
                with pyro.plate("pixels", 3, dim=dims[1]):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x if kind == "right" else x.T)

    def guide(x):
        with pyro.plate("data", 5, dim=dims[0]), poutine.mask(mask=column_of(keep)):
            pyro.sample("z", dist.Normal(column_of(a * x[:, 0]), 0.7))

    return model, guide


@pytest.mark.parametrize("kind", ["right", "left"])
@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True, True, False])])
@pytest.mark.parametrize(
    "objective",
    [
        *(partial(E.ELBO, k, g()) for k in (1, 3) for g in (G.Pathwise, G.STL, G.DReG, G.ScoreFunction)),
        *(partial(E.IWAE, k, g()) for k in (1, 3) for g in (G.Pathwise, G.STL, G.DReG, G.ScoreFunction)),
        partial(E.TMC, 3),
        partial(E.MIWAE, 2, 3, G.DReG()),
        partial(E.PIWAE, 2, 3),
        partial(E.RWS, 3),
        partial(E.TVO, 3),
        partial(E.ELBO, 3, analytic_kl=True),
        partial(E.ELBO, 3, free_bits=0.1),
    ],
)
def test_a_plate_inside_a_datum_is_as_an_event(objective, mask, kind):
    x, a = torch.randn(5, 3).double(), torch.nn.Parameter(torch.tensor(0.3).double())
    holder, results = torch.nn.ParameterList([a]), []
    for layout, nesting in (("event", 1), (kind, 2), ("event", 3)):
        model, guide = plated(layout, a, mask)
        o = objective(max_plate_nesting=nesting)
        if mask is not None and isinstance(o.gradient, G.DReG):
            with pytest.raises(ValueError, match=r"'z' is masked.*so use gradients\.Pathwise"):
                o.differentiable_loss(model, guide, x)
            return
        results.append(gradients_of(o, model, guide, x, holder))
        pyro.set_rng_seed(7)
        results[-1][1].append(o.bound(model, guide, x))
    for other in results[1:]:
        assert_same(results[0], other)
    if mask is not None and not o.weights:
        assert (results[0][1][-1][~mask] == 0).all()


@pytest.mark.parametrize("objective", [*DEFAULTS, E.ELBO(3, G.STL()), E.IWAE(3, G.DReG()), E.ELBO(3, free_bits=0.1)])
def test_one_datum_is_a_batch(objective):
    exact = LinearGaussian()
    x = exact.data[:1]
    loss, grads = gradients_of(objective, exact.vae.model, exact.vae.guide, x, exact.vae)
    pyro.set_rng_seed(7)
    bound = objective.bound(exact.vae.model, exact.vae.guide, x)
    assert bound.shape == (1,)
    assert loss == pytest.approx(-bound.item()) or objective.weights
    assert all(torch.isfinite(g).all() for g in grads)
