import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from linear_gaussian import LinearGaussian
from objective_checks import DEFAULTS, PROGRAMS, assert_same, gradients_of, observed, refused, two_programs
from programs import make_data, make_vae
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import chi2
from two_sites import TwoSites

from pyrovae import baselines as B
from pyrovae import gradients as G
from pyrovae import objectives as E
from pyrovae import priors, schedules
from pyrovae.densities import log_densities

# What bounds are to each other, and to Pyro's -------------------------------------------------------------------------


@PROGRAMS
@pytest.mark.parametrize("k", [1, 4])
def test_analytic_kl_equals_trace_mean_field_elbo(program, k):
    module, model, guide, x = two_programs()[program]
    if program:  # the other way around, top down, so that the closed form is valid
        guide = top_down(module)
    pyros = TraceMeanField_ELBO(k, vectorize_particles=True, max_plate_nesting=1)
    ours = E.ELBO(k, analytic_kl=True)
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
    ours = [E.Renyi(alpha, 5)] + ([E.IWAE(5)] if alpha == 0 else [])
    for objective in ours:
        assert_same(gradients_of(objective, model, guide, x, module), expected)


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
    full = Line().values(E.IWAE(10), x, 200)
    line = Line(size, scale)
    ours, pyros = (
        line.values(elbo, x, 500 if size else 200)
        for elbo in (E.IWAE(10), RenyiELBO(0, num_particles=10, vectorize_particles=True, max_plate_nesting=1))
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
    assert E.IWAE(3).bound(model, guide, x).shape == (24,)  # which has no scales
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
        loss = E.IWAE(k).loss(model, guide, x)
        pyro.set_rng_seed(0)
        assert loss == pytest.approx(-0.1 * E.IWAE(k).bound(model, guide, x).sum().item(), rel=1e-5)


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
        E.ELBO(max_plate_nesting=2).loss(model, guide, torch.randn(5, 3))


def test_a_site_outside_of_the_plate_is_refused_for_iwae():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(w, 1.0)))

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    refused(model, guide, "in one plate, found: .*'w' in none", E.IWAE(3))


# Closed forms of the KL (pitfalls A7) ---------------------------------------------------------------------------------


def test_a_closed_form_is_taken_only_where_it_is_valid():
    two, x, k = TwoSites(), torch.randn(5).double(), 20_000
    expected = two.expectation(lambda log_w: log_w.mean(0), x, draws=1, nodes=30).detach().numpy()
    objective = E.ELBO(k, analytic_kl=True)
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
    terms = E.ELBO(analytic_kl=True).kl_terms(vae.model, vae.guide, x)
    assert terms["z"].startswith("sampled: no closed form for Normal and Mixture")
    assert E.ELBO().kl_terms(vae.model, vae.guide, x) == {"z": "sampled: analytic_kl is off"}
    results = [gradients_of(E.ELBO(3, analytic_kl=a), vae.model, vae.guide, x, vae) for a in (False, True)]
    assert_same(*results)


# Values against exact answers ----------------------------------------------------------------------------------------

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
