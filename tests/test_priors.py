"""Laws of every prior: a density over vectors z of D dimensions, batch (), event (D,)."""

import copy

import numpy as np
import pyro
import pytest
import torch
from prior_quadrature import nodes
from pyro.infer import Trace_ELBO
from scipy.stats import multivariate_t
from torch.nn.functional import normalize, one_hot

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.priors.flow import AffineAutoregressive, AffineCoupling, SplineAutoregressive, SplineCoupling
from pyrovae.supports import describe, within

# Arguments of a prior beyond latent_dim: one case for each entry, the defaults for a prior that is not listed.
FLOWS = (AffineCoupling, SplineCoupling, AffineAutoregressive, SplineAutoregressive)
VARIANTS = {
    "MixtureOfNormals": [{}, {"components": 3}],
    "StudentT": [{}, {"df": 2.0}],
    "FlowPrior": [{"flow": flow, "layers": 2} for flow in FLOWS],
    "GaussianProcess": [{}, {"length_scale": 0.7, "period": 5.0}],
    "RelaxedBernoulli": [{}, {"temperature": 2.0}],
    "RelaxedOneHotCategorical": [{}, {"temperature": 2.0}],
    "VampPrior": [{"components": 3}, {"components": 4, "learned": False}],
}
CASES = [(name, variant) for name in priors.__all__ for variant in VARIANTS.get(name, [{}])]
EVENT = (1, 2, 3)  # of the data of a VAE


def label(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in value.items()) or "default"
    return None


def in_vae(prior):
    """A VAE with this prior and the first encoder that fits it."""
    support = encoders.DiagonalNormal.support if isinstance(prior, priors.VampPrior) else prior.support
    choices = ["DiagonalNormal", *encoders.__all__]  # the plainest first
    encoder = next(getattr(encoders, n) for n in choices if within(getattr(encoders, n).support, support))
    d = prior.latent_dim
    return VAE(
        prior,
        likelihoods.Bernoulli(networks.MLP(d, EVENT, hidden=(5,))),
        encoder(lambda outputs: networks.MLP(EVENT, outputs(d), hidden=(5,))),
    )


@torch.no_grad()
def perturb(module):
    """Move parameters away from where they start, weights the less the more inputs they have."""
    for parameter in module.parameters():
        inputs = parameter.shape[-1] if parameter.dim() == 2 else 1
        parameter.add_(0.4 * inputs**-0.5 * torch.randn_like(parameter))


def make(name, variant, latent_dim=2, seed=1):
    """A prior in float64, its parameters moved away from where they start; in a VAE if it needs one."""
    torch.manual_seed(seed)
    prior = getattr(priors, name)(latent_dim, **variant).double()
    if hasattr(prior, "join"):
        prior.vae = (in_vae(prior).double(),)  # keeps it alive; in a tuple it is no submodule
        perturb(prior.vae[0].encoder)
    perturb(prior)
    return prior


def low_dims(name, variant):
    """The least D, in which quadrature is cheap: couplings, and spheres and simplices of more than points, need 2."""
    if variant.get("flow") in (AffineCoupling, SplineCoupling):
        return (2,)
    return (2, 3) if name in ("HypersphericalUniform", "OneHotCategorical", "RelaxedOneHotCategorical") else (1, 2)


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)
over_low_dims = pytest.mark.parametrize(
    ("name", "variant", "latent_dim"), [(*c, d) for c in CASES for d in low_dims(*c)], ids=label
)
over_discrete = pytest.mark.parametrize(
    ("name", "variant"), [c for c in CASES if c[0] != "VampPrior" and make(*c).support.is_discrete], ids=label
)
over_vectors = pytest.mark.parametrize(
    ("name", "variant"), [c for c in CASES if describe(make(*c).support) == "R^D"], ids=label
)


def points(prior, *shape):
    """Vectors `(*shape, D)` from all over the support."""
    u = torch.randn(*shape, prior.latent_dim, dtype=torch.float64)
    maps = {
        "R^D": lambda: u,
        "{0, 1}^D": lambda: (u > 0).double(),
        "the one-hot vectors": lambda: one_hot(u.argmax(-1), prior.latent_dim).double(),
        "the unit sphere": lambda: normalize(u, dim=-1),
        "a cube": u.sigmoid,
        "the simplex": lambda: u.softmax(-1),
    }
    return maps[describe(prior.support)]()


@torch.no_grad()
def density(prior, z):
    """p(z) of an array `(n, D)`, as an array."""
    return prior().log_prob(torch.from_numpy(z)).exp().numpy()


# The distribution


@over_cases
def test_batch_is_empty_and_event_is_the_latent_vector(name, variant):
    for latent_dim in {*low_dims(name, variant), 7}:
        prior = make(name, variant, latent_dim)
        assert prior.latent_dim == latent_dim
        assert prior().batch_shape == ()
        assert prior().event_shape == (latent_dim,)
        for shape in ((), (3,), (4, 3)):
            z = prior().sample(shape)
            assert z.shape == (*shape, latent_dim)
            assert prior().log_prob(z).shape == shape
            assert prior.support.check(z).all()
        batch = prior().expand((4, 3))
        assert batch.batch_shape == (4, 3)
        assert batch.sample((2,)).shape == (2, 4, 3, latent_dim)
        z = points(prior, 4, 3)
        torch.testing.assert_close(batch.log_prob(z), prior().log_prob(z), rtol=1e-12, atol=1e-12)


@over_cases
def test_log_prob_of_many_is_that_of_each(name, variant):
    prior = make(name, variant, 3)
    z = points(prior, 4, 5)
    one_by_one = torch.stack([prior().log_prob(v) for v in z.reshape(-1, 3)])
    torch.testing.assert_close(prior().log_prob(z), one_by_one.reshape(4, 5), rtol=1e-12, atol=1e-12)


@over_low_dims
def test_density_integrates_to_one_and_samples_follow_it(name, variant, latent_dim):
    """The characteristic function at 16 frequencies, from samples and by quadrature: z-tests, each at level 6e-7."""
    prior, n = make(name, variant, latent_dim), 20_000
    z, weights = nodes(prior.support, latent_dim)
    p = weights * density(prior, z)
    bent = variant.get("flow") in (SplineCoupling, SplineAutoregressive)  # at knots of which the rule knows nothing
    assert p.sum() == pytest.approx(1, abs=2e-3 if bent else 1e-6)
    drawn = prior().sample((n,)).numpy()
    for first, last in ((1, 0), (0, 1), (1, 0.7), (1, -1.3)):
        for frequency in (0.5, 1, 2, 4):
            t, u = (frequency * (first * v[:, 0] + last * v[:, -1]) for v in (z, drawn))
            for f in (np.cos, np.sin):
                assert abs(f(u).mean() - p @ f(t)) < 5 * (f(u).std() + 1e-3) / n**0.5


@over_vectors
def test_dimensions_beyond_two_are_sampled_as_the_density_says(name, variant):
    """Means of samples agree with importance sums of the density: z-tests, each two-sided at level 1e-3."""
    prior, n = make(name, variant, 4), 20_000
    proposal = multivariate_t(np.zeros(4), 3 * np.eye(4), df=2)
    u = proposal.rvs(n, random_state=3)
    weights = density(prior, u) / proposal.pdf(u)
    z = prior().sample((n,)).numpy()
    for statistic in (lambda v: np.ones(len(v)), lambda v: np.cos(v[:, 0] - v[:, 3]), lambda v: np.tanh(v.sum(1))):
        a, b = statistic(z), weights * statistic(u)
        assert abs(a.mean() - b.mean()) < 3.29 * ((a.var() + b.var()) / n) ** 0.5


@over_discrete
def test_what_is_no_state_is_refused(name, variant):
    with pytest.raises(ValueError, match="support"):
        make(name, variant)().log_prob(torch.full((2,), 0.5, dtype=torch.float64))


# The module


@over_cases
def test_gradient_of_the_elbo_reaches_every_parameter(name, variant):
    prior = make(name, variant, 3)
    vae = prior.vae[0] if hasattr(prior, "vae") else in_vae(prior).double()
    x = torch.rand(20, *EVENT, dtype=torch.float64).round()
    Trace_ELBO(num_particles=3, vectorize_particles=True).differentiable_loss(vae.model, vae.guide, x).backward()
    for key, parameter in vae.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@over_cases
def test_state_dict_round_trip_gives_the_same_log_prob_bit_for_bit(name, variant):
    prior, other = make(name, variant, 3, seed=1), make(name, variant, 3, seed=2)
    z = points(prior, 20)
    if prior.state_dict():
        assert not torch.equal(prior().log_prob(z), other().log_prob(z))
    if name == "VampPrior":
        prior, other = prior.vae[0], other.vae[0]
    other.load_state_dict(prior.state_dict())
    prior, other = (getattr(p, "prior", p) for p in (prior, other))
    assert torch.equal(prior().log_prob(z), other().log_prob(z))


@over_cases
def test_a_copy_is_independent_and_follows_its_own_parameters(name, variant):
    prior = make(name, variant)
    z = points(prior, 20)
    before = prior().log_prob(z)
    before.sum()  # a graph that no copy may need
    other = copy.deepcopy(prior)
    assert torch.equal(other().log_prob(z), before)
    changing = [t for t in (*other.parameters(), *other.buffers()) if t.is_floating_point() and t.numel()]
    with torch.no_grad():
        for tensor in changing:
            tensor.add_(torch.rand_like(tensor))
    assert torch.equal(other().log_prob(z), before) == (not changing)
    assert torch.equal(prior().log_prob(z), before)


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name, variant, dtype):
    prior = make(name, variant)
    prior = prior.vae[0].to(dtype).prior if name == "VampPrior" else prior.to(dtype)
    assert prior().sample().dtype == dtype
    assert prior().log_prob(points(prior, 5).to(dtype)).dtype == dtype


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [0.0, -200.0, 200.0, "signs"])
def test_extremes_stay_finite(name, variant, dtype, extreme):
    prior = make(name, variant).to(dtype)
    changed = prior.vae[0].to(dtype).encoder if name == "VampPrior" else prior
    with torch.no_grad():
        for parameter in changed.parameters():
            signs = extreme == "signs"
            parameter.copy_(200 * torch.randn_like(parameter).sign() if signs else torch.full_like(parameter, extreme))
    z = points(prior, 20).to(dtype)
    for size in (0.0, 1e3, 1e6) if describe(prior.support) == "R^D" else (1.0,):
        leaf = (size * z).requires_grad_()
        log_prob = prior().log_prob(leaf)
        if log_prob.requires_grad:  # that of a uniform distribution depends on nothing
            log_prob.sum().backward()
        assert log_prob.isfinite().all()
        assert all(t.grad is None or t.grad.isfinite().all() for t in (leaf, *changed.parameters()))
    drawn = prior().sample((100,))
    assert drawn.isfinite().all()
    assert prior().log_prob(drawn).isfinite().all()


@over_cases
@pytest.mark.parametrize("latent_dim", [0, -1])
def test_latent_dim_below_one_is_refused(name, variant, latent_dim):
    with pytest.raises(ValueError, match=rf"latent_dim.*{latent_dim}"):
        getattr(priors, name)(latent_dim, **variant)


@pytest.mark.parametrize(
    ("make_it", "match"),
    [
        (lambda: priors.MixtureOfNormals(2, components=0), "components.*0"),
        (lambda: priors.VampPrior(2, components=-1), "components.*-1"),
        (lambda: priors.FlowPrior(2, layers=0), "layers.*0"),
        (lambda: priors.FlowPrior(1), "use AffineAutoregressive or SplineAutoregressive"),
        (lambda: priors.FlowPrior(65, flow=AffineAutoregressive), "latent_dim = 65 units"),
        (lambda: priors.HypersphericalUniform(1), "at least 2 dimensions"),
        (lambda: priors.StudentT(2, df=0.0), "df.*0"),
        (lambda: priors.RelaxedBernoulli(2, temperature=0.0), "temperature.*0"),
        (lambda: priors.RelaxedOneHotCategorical(2, temperature=-1.0), "temperature.*-1"),
        (lambda: priors.GaussianProcess(7, index=range(3)), r"multiple of T.*\(3, 1\).*7"),
        (lambda: priors.GaussianProcess(2, index=3), "index must be numbers, or a tensor of them, not 3"),
        (lambda: priors.GaussianProcess(2, length_scale=0.0), "length_scale.*0"),
        (lambda: priors.GaussianProcess(2, period=-1.0), "period.*-1"),
    ],
)
def test_what_makes_no_prior_is_refused(make_it, match):
    with pytest.raises(ValueError, match=match):
        make_it()


@pytest.mark.parametrize("kind", FLOWS)
def test_flow_scores_its_own_draw_with_the_gradient_of_any_other(kind):
    """Against central differences, at a z that the same distribution drew: caches must not be in the way."""
    prior = make("FlowPrior", {"flow": kind, "layers": 2}, 3)
    p = prior()
    z = p.sample()
    p.log_prob(z).backward()
    for parameter in prior.parameters():
        i = parameter.grad.abs().argmax()
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter.view(-1)[i] += step
            values.append(prior().log_prob(z).item())
        with torch.no_grad():
            parameter.view(-1)[i] += 1e-5
        assert parameter.grad.view(-1)[i].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", FLOWS)
def test_flow_starts_near_the_standard_normal(kind):
    prior = priors.FlowPrior(4, flow=kind).double()
    z = points(prior, 500)
    difference = prior().log_prob(z) - priors.StandardNormal(4).double()().log_prob(z)
    assert difference.std() < 0.5


def test_mixture_summed_out_is_the_mixture_enumerated_by_pyro():
    """The ELBO and its gradients, from the same draws of z, in float64: marginal prior against a discrete site."""
    prior = make("MixtureOfNormals", {"components": 4}, 3)
    vae = in_vae(prior).double()
    x = torch.rand(7, *EVENT, dtype=torch.float64).round()

    def model(x):
        pyro.module(vae.name, vae)
        mixture = prior()
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", mixture.mixture_distribution, infer={"enumerate": "parallel"})
            normal = mixture.component_distribution.base_dist
            z = pyro.sample("z", pyro.distributions.Normal(normal.loc[c], normal.scale[c]).to_event(1))
            pyro.sample("x", vae.likelihood(z), obs=x)

    results = []
    for program, elbo in ((vae.model, Trace_ELBO()), (model, pyro.infer.TraceEnum_ELBO(max_plate_nesting=1))):
        vae.zero_grad()
        pyro.set_rng_seed(3)
        loss = elbo.differentiable_loss(program, vae.guide, x)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in vae.parameters())])
    for marginal, enumerated in zip(*results, strict=True):
        torch.testing.assert_close(marginal, enumerated, rtol=1e-11, atol=1e-12)
