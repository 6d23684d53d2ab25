import contextlib
import itertools
import math
import re

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from discrete import Bits
from linear_gaussian import LinearGaussian
from objective_checks import assert_same, gradients_of, observed, refused, two_programs
from pyro import poutine
from pyro.distributions.transforms import AffineTransform, Planar
from pyro.infer import Trace_ELBO

from pyrovae import VAE, encoders, evaluation, likelihoods, priors
from pyrovae import baselines as B
from pyrovae import gradients as G
from pyrovae import objectives as E
from pyrovae.check import check
from pyrovae.gradient import Gradient
from pyrovae.networks import MLP
from pyrovae.objective import Objective

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
    with pytest.raises(NotImplementedError, match=r"Mean has no curvature, by which gradients.DReG weights: define it"):
        Mean(3, G.DReG()).differentiable_loss(model, guide, x)


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
        (lambda: E.Renyi(math.nan), "alpha must be a finite number"),
        (lambda: E.Renyi(math.inf), "alpha must be a finite number"),
        (lambda: E.ELBO(gradient=G.STL(), analytic_kl=True), "STL, as an analytic KL .*use gradients.Pathwise"),
        (lambda: E.ELBO(gradient=G.DReG(), analytic_kl=True), "DReG, as an analytic KL .*use gradients.Pathwise"),
        (lambda: E.ELBO(gradient=G.DReG(), beta=0.5), "DReG, as beta .*use gradients.Pathwise, gradients.STL"),
        (lambda: E.ELBO(gradient=G.STL(), free_bits=0.1), "STL, as free bits .*: use gradients.Pathwise$"),
        (lambda: E.ELBO(gradient=G.Enumerate(), capacity=0.1), "Enumerate, as free bits .*: use gradients.Pathwise$"),
        (lambda: E.ELBO(1, G.VIMCO()), "other draws: give num_particles of at least 2"),
        (lambda: E.MIWAE(1, 4, G.VIMCO()), "other draws: give num_particles of at least 2"),
        (lambda: E.ELBO(1, G.ScoreFunction(B.LeaveOneOut())), "LeaveOneOut.*other draws: give num_particles of .* 2"),
        (lambda: E.ELBO(beta=-1.0), "beta must be a finite number at least 0, not -1.0"),
        (lambda: E.ELBO(free_bits=-1.0), "free_bits must be a finite number at least 0, not -1.0"),
        (lambda: E.ELBO(capacity=-1.0), "capacity must be a finite number at least 0, not -1.0"),
        (lambda: E.ELBO(beta=math.nan), "beta must be a finite number at least 0, not nan"),
        (lambda: E.IWAE(2.5), "whole number of at least 1, not 2.5"),
        (lambda: E.IWAE(gradient="STL"), r"estimator such as gradients.STL\(\), not 'STL'"),
        (lambda: E.IWAE(gradient=G.STL), r"estimator such as gradients.STL\(\), not <class"),
        (lambda: G.ScoreFunction(B.LeaveOneOut), r"such as baselines.LeaveOneOut\(\), not <class"),
        (lambda: E.PIWAE(gradient=G.VIMCO()), "as each network has a bound of its own: use gradients.Pathwise"),
        (lambda: E.TMC(gradient=G.STL()), "combinations of draws, not draws: use gradients.Pathwise$"),
        (lambda: E.IWAE(gradient=G.Enumerate()), "Enumerate, which needs an expectation of one term"),
        (lambda: E.ELBO(free_bits=1.0, capacity=1.0), "give one of them"),
        (lambda: E.CIWAE(beta=1.5), "at least 0 and at most 1, not 1.5"),
        (lambda: E.TVO(partitions=0), "partitions must be a whole number of at least 1"),
        (lambda: E.TVO(first=1.0), "first must be a finite number above 0 and below 1"),
        (lambda: E.MIWAE(groups=0), "groups must be a whole number of at least 1"),
        (lambda: E.IWAE(0), "num_particles must be a whole number of at least 1"),
        (lambda: G.Concrete(0.0), "temperature must be a finite number above 0"),
        (lambda: G.StraightThrough(-1.0), "temperature must be a finite number above 0"),
        (lambda: G.REBAR(math.nan), "temperature must be a finite number above 0"),
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


def test_rebar_is_for_one_site():
    p = torch.nn.Parameter(torch.tensor(0.3))

    def model(x, guide=False):
        with pyro.plate("data", len(x)):
            z = [pyro.sample(name, dist.Bernoulli(p if guide else torch.tensor(0.5))) for name in ("a", "b")]
            if not guide:
                observed(x, sum(z))

    refused(model, lambda x: model(x, guide=True), "REBAR is for one latent site, not for 2: use", E.ELBO(2, G.REBAR()))


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


@pytest.mark.parametrize("gradient", [G.STL, G.DReG, G.ScoreFunction, G.VIMCO])
@pytest.mark.parametrize("family", ["Uniform", "Delta"])
def test_a_guide_whose_score_is_not_zero_on_average(family, gradient):
    """As the support moves with the parameters."""
    bound = E.ELBO if family == "Delta" else E.IWAE
    a = torch.nn.Parameter(torch.ones(()))

    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 3.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - a, x + a) if family == "Uniform" else dist.Delta(a * x))

    with pytest.raises(
        ValueError, match=rf"'z' \({family}.*so {gradient.__name__} has no gradient.*use gradients.Pathwise"
    ):
        bound(3, gradient()).differentiable_loss(model, guide, torch.randn(5))
    assert torch.isfinite(bound(3).differentiable_loss(model, guide, torch.randn(5)))


@pytest.mark.parametrize("gradient", [G.STL, G.DReG])
def test_a_density_that_does_not_tell_where_z_lies_has_no_gradient_through_it(gradient):
    """Of a uniform q whose ends move by an affine map."""
    scale = torch.nn.Parameter(torch.ones(()))

    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 3.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            u = dist.Uniform(torch.zeros(()), 1.0).expand(x.shape)
            pyro.sample("z", dist.TransformedDistribution(u, [AffineTransform(x, scale)]))

    refused(model, guide, "log q at guide site 'z' .*use gradients.Pathwise", E.IWAE(3, gradient()))
    assert torch.isfinite(E.IWAE(3).differentiable_loss(model, guide, torch.randn(5)))


class Silent(dist.Normal):
    """A normal distribution that does not state its support."""

    @property
    def support(self):
        raise NotImplementedError


@pytest.mark.parametrize("gradient", [G.Pathwise, G.STL, G.ScoreFunction])
def test_a_distribution_that_does_not_state_its_support_is_as_any_other(gradient):
    holder, x = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(0.3))]), torch.randn(6)

    def programs(normal):
        def model(x):
            with pyro.plate("data", len(x)):
                observed(x, pyro.sample("z", normal(torch.zeros(()), 1.0, validate_args=False)))

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(holder[0] * x, 0.7, validate_args=False))

        assert [*check(model, guide, x)] == ["z"]
        return model, guide

    silent, plain = (gradients_of(E.IWAE(3, gradient()), *programs(of), x, holder) for of in (Silent, dist.Normal))
    assert_same(silent, plain)


def test_a_variable_is_discrete_in_both_programs_or_in_none():
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(MLP(2, 3)), encoders.DiagonalNormal(MLP(3, 4)))
    vae.encoder = encoders.Bernoulli(MLP(3, 2))
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
@pytest.mark.parametrize("dim", [None, -2])
def test_more_plates_than_stated_are_refused(dim, k):
    """With k = 3, as many draws as pixels, shapes would fit; -2 is where the draws' own plate is."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 3, dim=dim):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    with pytest.raises(ValueError, match=r"nest more than 1 plates\? then say how many by max_plate_nesting"):
        E.IWAE(k).bound(model, guide, torch.randn(6, 3))
    assert E.IWAE(k, max_plate_nesting=2).bound(model, guide, torch.randn(6, 3)).shape == (6,)


def test_auxiliary_variables_of_the_guide_are_refused():
    """Their density counts, so that the bound would lie above log p(x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.LogNormal(0.0, 1.0)))

    guide = pyro.infer.autoguide.AutoNormal(model)
    guide(torch.ones(5))
    refused(model, guide, "'z_unconstrained' is auxiliary.*use pyro.infer.Trace_ELBO")


def test_a_map_guide_has_a_log_joint_but_no_bound():
    def model(x):
        with pyro.plate("data", len(x)):
            observed(x, pyro.sample("z", dist.Normal(0.0, 1.0)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2))

    x = torch.randn(5)
    expected = dist.Normal(0.0, 1.0).log_prob(x / 2) + dist.Normal(x / 2, 1.0).log_prob(x)
    for objective in (E.ELBO(), E.ELBO(analytic_kl=True)):
        assert objective.loss(model, guide, x) == pytest.approx(-expected.sum().item())
        assert objective.bound(model, guide, x).isnan().all()
    for objective in (E.IWAE(3), E.Renyi(0.5, 3), E.RWS(3), E.TMC(3)):
        with pytest.raises(ValueError, match=r"'z' \(Delta\) has no density.*use objectives.ELBO"):
            objective.loss(model, guide, x)
    assert E.ELBO(analytic_kl=True).kl_terms(model, guide, x) == {
        "z": "sampled: Delta has no density, so no divergence from one"
    }


@pytest.mark.parametrize("mask", [True, False])
def test_masks_leave_the_covariance_gradient_that_of_the_bound(mask):
    a, x = torch.nn.Parameter(torch.tensor(0.3).double()), torch.randn(6).double().repeat(500)
    holder, mask = torch.nn.ParameterList([a]), torch.full((len(x),), mask)

    def model(x):
        data = pyro.plate("data", len(x))
        with data, poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        with data:
            observed(x, z)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(a * x, torch.ones(()).double()))

    covariance, pathwise = (
        gradients_of(E.TVO(100, gradient=g), model, guide, x, holder)[1][0] for g in (G.Covariance(), G.Pathwise())
    )
    assert covariance.item() == pytest.approx(pathwise.item(), rel=0.05, abs=1e-9)


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
