"""Laws of every encoder: q(z | x), event (D,), its parameters computed by a network."""

import copy
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from encoder_cases import (
    CASES,
    CHARTS,
    IMPLICIT,
    LEADS,
    SHAPE,
    any_z,
    data,
    dims_of,
    draw,
    grid,
    is_discrete,
    kind,
    label,
    least_dim,
    make,
    make_vae,
    num_outputs,
    of_output,
    over,
    over_cases,
    randn,
    scores_any,
    states,
)
from pyro.infer import Trace_ELBO
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.special import logsumexp
from scipy.stats import bernoulli, chisquare, kstest, laplace, multivariate_normal, norm
from torch import nn

from pyrovae import encoders, networks

MIN_SCALE = 1e-4


def _kind_of(name, variant):
    """Whether q is discrete, scores any z, or its last draw alone (or no z, as it has no density)."""
    if is_discrete(name):
        return "discrete"
    output = randn(num_outputs(name, variant, least_dim(name)))
    return "any" if scores_any(of_output(name, variant, output).distribution(output)) else "last"


KIND = {(name, label(variant)): _kind_of(name, variant) for name, variant in CASES}
DENSE = over(lambda name, variant: KIND[name, label(variant)] == "any")
FLOWS = over(lambda name, variant: KIND[name, label(variant)] == "last" and name != "Delta")
DISCRETE = over(lambda name, variant: is_discrete(name))
REPEATABLE = over(lambda name, variant: name != "SemiAmortized")  # whose steps draw noise
over_leads = pytest.mark.parametrize("lead", LEADS, ids=str)


def q_of(name, variant, latent_dim, seed=0):
    """A member of the family at random parameters, by the network's output."""
    torch.manual_seed(seed)
    output = randn(num_outputs(name, variant, latent_dim))
    return of_output(name, variant, output).distribution(output)


# The distribution


@over_cases
@pytest.mark.parametrize("extra", [0, 3])
@over_leads
def test_event_is_the_latent_vector_for_any_leading_dimensions(name, variant, extra, lead):
    dim = least_dim(name) + extra
    encoder, x = make(name, variant, dim), data(*lead)
    q = encoder(x)
    assert (tuple(q.batch_shape), tuple(q.event_shape), encoder.event_shape) == (lead, (dim,), (dim,))
    z = draw(q)
    assert z.shape == (*lead, dim)
    assert q.support.check(z).all()
    assert encoder.support.check(z).all()
    assert q.log_prob(z).shape == lead
    many = draw(q, (7,))
    assert many.shape == (7, *lead, dim)
    assert q.log_prob(many).shape == (7, *lead)


@REPEATABLE
@over_leads
def test_each_datum_has_a_distribution_of_its_own(name, variant, lead):
    """The log-density of a batch is that of its data one by one."""
    encoder, x = make(name, variant, 3), data(*lead)
    q = encoder(x)
    if not scores_any(q):
        pytest.skip("scores its last draw alone")
    z = draw(q)
    pairs = zip(x.reshape(-1, *SHAPE), z.reshape(-1, 3), strict=True)
    one_by_one = torch.stack([encoder(a).log_prob(b) for a, b in pairs]).reshape(lead)
    torch.testing.assert_close(q.log_prob(z), one_by_one, rtol=1e-7, atol=1e-7)


@over_cases
def test_expanded_over_draws_and_data(name, variant):
    """As a plate of K draws around one of B data does it: each draw is another, and is scored by its datum's q."""
    q = make(name, variant, 3)(data(6))
    wide = q.expand((4, 6))
    z = draw(wide)
    assert (z.shape, tuple(wide.batch_shape), tuple(wide.event_shape)) == ((4, 6, 3), (4, 6), (3,))
    assert wide.log_prob(z).shape == (4, 6)
    if scores_any(q):
        torch.testing.assert_close(wide.log_prob(z), q.log_prob(z), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(wide.log_prob(z), q.log_prob(z.clone()), rtol=1e-7, atol=1e-7)
    if name != "Delta" and not is_discrete(name):
        assert len(torch.unique(z[:, 0, 0])) == 4


@DENSE
def test_scores_values_that_broadcast_with_its_batch(name, variant):
    """As a mixture of q(z | x_c) does it: z `(B, 1, D)`, batch `(C,)`."""
    q = make(name, variant, 3)(data(6))
    z = draw(q).detach()[:4, None]
    assert q.log_prob(z).shape == (4, 6)
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.expand(4, 6, 3)), rtol=1e-9, atol=1e-9)


@DENSE
@pytest.mark.parametrize("coordinates", [1, 2])
def test_density_integrates_to_one_and_samples_follow_it(name, variant, coordinates):
    """Kolmogorov-Smirnov tests of each coordinate at level 1e-3, against the integral of the density."""
    q = q_of(name, variant, dims_of(name, coordinates))
    axes, z, log_volume = grid(name, coordinates)
    with torch.no_grad():
        p = (q.log_prob(z) + log_volume).exp().numpy()
        t = CHARTS[kind(name)][1](q.sample((4000,))).numpy()
    for axis, points in enumerate(axes):
        other = [i for i in range(coordinates) if i != axis]
        marginal = trapezoid(p, axes[other[0]], axis=other[0]) if other else p
        assert trapezoid(marginal, points) == pytest.approx(1, abs=1e-2 if coordinates == 2 else 1e-4)
        cdf = cumulative_trapezoid(marginal, points, initial=0)
        assert kstest(t[:, axis], lambda v, x=points, y=cdf: np.interp(v, x, y)).pvalue > 1e-3


@FLOWS
def test_last_draws_of_a_flow_have_the_density_of_the_change_of_variables(name, variant):
    """In one dimension by the integral over z, and a Kolmogorov-Smirnov test; in three by autograd's Jacobian."""
    q = q_of(name, variant, 1)

    def push(q, u):
        for transform in q.transforms:
            u = transform(u)
        return u

    with torch.no_grad():
        z = push(q, torch.linspace(-12, 12, 40001).double()[:, None])
        p = q.log_prob(z).exp().numpy()
    z = z[:, 0].numpy()
    assert (np.diff(z) > 0).all()
    assert trapezoid(p, z) == pytest.approx(1, abs=1e-6)
    cdf = cumulative_trapezoid(p, z, initial=0)
    assert kstest(q.sample((4000,))[:, 0].numpy(), lambda v: np.interp(v, z, cdf)).pvalue > 1e-3

    q = q_of(name, variant, 3)
    for _ in range(5):
        u = randn(3)
        jacobian = torch.autograd.functional.jacobian(lambda u: push(q, u), u)
        expected = norm.logpdf(u.numpy()).sum() - torch.linalg.slogdet(jacobian).logabsdet.item()
        assert q.log_prob(push(q, u)).item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(NotImplementedError, match="last draw"):
        q.log_prob(randn(3))


@DISCRETE
@pytest.mark.parametrize("latent_dim", [2, 4])
def test_probabilities_of_all_states_add_up_to_one_and_samples_follow_them(name, variant, latent_dim):
    """Chi-square test at level 1e-3 of how often each state is drawn."""
    q, n, all_states = q_of(name, variant, latent_dim), 20_000, states(name, latent_dim)
    p = q.log_prob(all_states).exp().numpy()
    assert p.sum() == pytest.approx(1, rel=1e-12)
    z = q.sample((n,))
    counts = [(z == state).all(1).sum().item() for state in all_states]
    assert sum(counts) == n
    assert chisquare(counts, n * p).pvalue > 1e-3
    assert not q.has_rsample
    assert not z.requires_grad


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@over_leads
@pytest.mark.parametrize("name", list(encoders.__all__))
def test_density_is_scipys(name, latent_dim, lead):
    """The order of the network's outputs, and what each means."""
    if name not in SCIPY or latent_dim < least_dim(name):
        pytest.skip("has no twin in SciPy")
    output = randn(num_outputs(name, {}, latent_dim))
    q = of_output(name, {}, output)(randn(*lead, 3))
    z = draw(q)
    expected = np.array([SCIPY[name](output.numpy(), v) for v in z.detach().reshape(-1, latent_dim).numpy()])
    assert q.log_prob(z).detach().numpy() == pytest.approx(expected.reshape(lead), rel=1e-9)


def sigma(a):
    return np.logaddexp(0, a) + MIN_SCALE


def _full_rank(output, z):
    d = len(z)
    lower = np.eye(d)
    lower[np.tril_indices(d, -1)] = np.arcsinh(output[2 * d :])
    lower = sigma(output[d : 2 * d])[:, None] * lower
    return multivariate_normal(output[:d], lower @ lower.T).logpdf(z)


def _low_rank(output, z):
    d = len(z)
    s, c = np.diag(sigma(output[d : 2 * d])), np.arcsinh(output[2 * d :].reshape(2, d).T)
    return multivariate_normal(output[:d], s @ (np.eye(d) + c @ c.T) @ s).logpdf(z)


def _mixture(output, z):
    logits, (loc, a) = output[:5], output[5:].reshape(2, 5, len(z))
    return logsumexp(logits - logsumexp(logits) + norm(loc, sigma(a)).logpdf(z).sum(-1))


SCIPY = {
    "Bernoulli": lambda output, z: bernoulli(1 / (1 + np.exp(-output))).logpmf(z).sum(),
    "OneHotCategorical": lambda output, z: output[z.argmax()] - logsumexp(output),
    "DiagonalNormal": lambda output, z: norm(output[: len(z)], sigma(output[len(z) :])).logpdf(z).sum(),
    "Laplace": lambda output, z: laplace(output[: len(z)], sigma(output[len(z) :])).logpdf(z).sum(),
    "FullRankNormal": _full_rank,
    "LowRankNormal": _low_rank,
    "MixtureOfNormals": _mixture,
}


@over_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [2, 5])
def test_extreme_outputs_stay_finite(name, variant, dtype, latent_dim):
    """Value and gradient, of a draw and of another z, at outputs that are all extreme, and extreme on either side."""
    n = num_outputs(name, variant, latent_dim)
    mixed = (2 * (torch.rand(20, n) > 0.5) - 1).to(dtype)
    for size in (100.0, 1e4):
        outputs = torch.cat([size * mixed, size * torch.tensor([[1.0], [-1.0], [0.0]]).to(dtype).expand(3, n)])
        outputs.requires_grad_()
        encoder = of_output(name, variant, outputs.detach()[0])
        q = encoder.distribution(outputs)
        others = [any_z(name, latent_dim, dtype)] if scores_any(q) else []
        for z in (draw(q), *others):
            log_prob = q.log_prob(z)
            assert log_prob.dtype == dtype
            assert z.isfinite().all()
            assert log_prob.isfinite().all()
            inputs = [outputs, *(p for key, p in encoder.named_parameters() if "network" not in key)]
            if log_prob.requires_grad:
                for g in torch.autograd.grad(log_prob.sum(), inputs, allow_unused=True, retain_graph=True):
                    assert g is None or g.isfinite().all()


# Gradients


@over_cases
@pytest.mark.parametrize("particles", [1, 3])
def test_gradient_of_the_elbo_reaches_every_parameter(name, variant, particles):
    """By Pyro's own ELBO, which scores draws that have no path; its particles are a plate around that of the data."""
    vae = make_vae(name, variant, 3)
    x = data(20)
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    elbo.differentiable_loss(vae.model, vae.guide, x).backward()
    assert list(vae.encoder.parameters())
    for key, parameter in vae.encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def f(z):
    """Smooth and bounded, and not the same for any two dimensions."""
    return torch.sin(z + torch.arange(z.shape[-1])).sum(-1) + torch.cos(z.prod(-1))


@DENSE
@pytest.mark.parametrize("coordinates", [1, 2])
def test_pathwise_gradient_is_unbiased(name, variant, coordinates):
    """d/d output of E[f(z)] by 20,000 draws, against that of the integral: each within 5 standard errors."""
    dim = dims_of(name, coordinates)
    output, n = randn(num_outputs(name, variant, dim)), 20_000
    encoder = of_output(name, variant, output)
    _, z, log_volume = grid(name, coordinates, 201 if coordinates == 2 else 40001)
    one = output.clone().requires_grad_()
    p = (encoder.distribution(one).log_prob(z) + log_volume).exp()
    (expected,) = torch.autograd.grad((p * f(z)).sum() / p.sum().detach() - p.sum() * _mean(p, f(z)), one)
    each = output.expand(n, -1).clone().requires_grad_()
    (g,) = torch.autograd.grad(f(encoder.distribution(each).rsample()).sum(), each)
    error = (g.mean(0) - expected).abs()
    assert (error <= 5 * g.std(0) / n**0.5 + 1e-5).all(), (g.mean(0), expected)
    assert expected.abs().max() > 20 * (g.std(0) / n**0.5).min()  # else nothing would be tested


def _mean(p, values):
    return ((p * values).sum() / p.sum().square()).detach()


@over(lambda name, variant: not is_discrete(name) and name not in IMPLICIT)
def test_gradient_of_samples_and_their_log_prob_is_that_of_finite_differences(name, variant):
    """The same noise at shifted outputs, the density of the draw included."""
    dim = least_dim(name) + 1
    output = randn(num_outputs(name, variant, dim))

    def value(output):
        q = of_output(name, variant, output.detach()).distribution(output)
        torch.manual_seed(3)
        z = q.rsample()
        return f(z) + (0 if name == "Delta" else q.log_prob(z))

    output.requires_grad_()
    (g,) = torch.autograd.grad(value(output), output)
    steps = 1e-6 * torch.eye(len(output)).double()
    expected = [(value(output + step) - value(output - step)).item() / 2e-6 for step in steps]
    assert g.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@over(lambda name, variant: KIND[name, label(variant)] != "last")
def test_gradient_of_log_prob_is_that_of_finite_differences(name, variant):
    """At a given z, for each output of the network."""
    dim = least_dim(name) + 1
    output = randn(num_outputs(name, variant, dim))
    z = of_output(name, variant, output).distribution(output).sample()

    def log_prob(output):
        return of_output(name, variant, output.detach()).distribution(output).log_prob(z)

    output.requires_grad_()
    (g,) = torch.autograd.grad(log_prob(output), output)
    steps = 1e-6 * torch.eye(len(output)).double()
    expected = [(log_prob(output + step) - log_prob(output - step)).item() / 2e-6 for step in steps]
    assert g.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# The module


def same(one, other, x):
    """Whether draws and their log-densities are the same bit for bit, from the same seed."""
    pairs = []
    for encoder in (one, other):
        torch.manual_seed(1)
        q = encoder(x)
        z = draw(q)
        pairs.append((z, q.log_prob(z)))
    return all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


@over_cases
def test_state_dict_round_trip_and_deep_copy_give_the_same_bit_for_bit(name, variant):
    vae, other = make_vae(name, variant, 3), make_vae(name, variant, 3)
    x = data(6)
    assert not same(vae.encoder, other.encoder, x)
    other.load_state_dict(vae.state_dict())
    assert same(vae.encoder, other.encoder, x)
    twin = copy.deepcopy(vae)
    assert same(vae.encoder, twin.encoder, x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert same(vae.encoder, other.encoder, x)
    assert not same(vae.encoder, twin.encoder, x)


@over_cases
def test_builder_is_asked_for_a_size_that_rises_with_the_latent_dimension(name, variant):
    sizes = [num_outputs(name, variant, n) for n in range(least_dim(name), 7)]
    assert all(b > a for a, b in pairwise(sizes))
    for n, size in enumerate(sizes, least_dim(name)):
        assert of_output(name, variant, randn(size)).event_shape == (n,)


@over_cases
def test_output_of_another_size_is_refused_with_the_shape_to_build(name, variant):
    sizes = [num_outputs(name, variant, n) for n in range(least_dim(name), 5)]
    bad = sizes[1] - 1
    if bad in sizes:
        pytest.skip("every size fits")
    with pytest.raises(ValueError, match=rf"{re.escape(str((bad,)))}.*{re.escape(str((sizes[1],)))}"):
        of_output(name, variant, randn(bad))


@over_cases
def test_output_that_is_no_vector_is_refused(name, variant):
    n = num_outputs(name, variant, 2)
    with pytest.raises(ValueError, match=re.escape(str((n, 4)))):
        getattr(encoders, name)(networks.MLP(SHAPE, (n, 4)), **variant)


@over_cases
def test_network_without_out_shape_works_or_is_refused_with_the_remedy(name, variant):
    network = nn.Linear(5, num_outputs(name, variant, 3)).double()
    if name in ("IAF", "Spline"):  # their own weights depend on D
        with pytest.raises(ValueError, match=r"give it an attribute out_shape"):
            getattr(encoders, name)(network, **variant)
        return
    encoder = getattr(encoders, name)(network, **variant)
    q = encoder.distribution(encoder.output(randn(6, 5), dim=-1))
    assert encoder.event_shape is None
    assert (tuple(q.batch_shape), tuple(q.event_shape)) == ((6,), (3,))
    bad = num_outputs(name, variant, 3) - 1
    if bad != num_outputs(name, variant, 2):
        with pytest.raises(ValueError, match=re.escape(str((bad,)))):
            getattr(encoders, name)(nn.Linear(5, bad), **variant).output(torch.zeros(6, 5), dim=-1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("LowRankNormal", {"rank": 0}, "rank must be a whole number of at least 1"),
        ("MixtureOfNormals", {"components": 0}, "components must be a whole number of at least 1"),
        ("RelaxedBernoulli", {"temperature": 0.0}, "temperature must be a finite number above 0"),
        ("RelaxedOneHotCategorical", {"temperature": -1.0}, "temperature must be a finite number above 0"),
        ("Planar", {"layers": 0}, "layers must be a whole number of at least 1"),
        ("IAF", {"layers": 0}, "layers must be a whole number of at least 1"),
        ("Spline", {"context_dim": 0}, "context_dim must be a whole number of at least 1"),
        ("IAF", {"hidden": (2,)}, "at least one unit for each of the 3"),
        ("SemiAmortized", {"steps": -1}, "steps must be a whole number of at least 0"),
        ("SemiAmortized", {"lr": 0.0}, "lr must be a finite number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(encoders, name)(lambda n: networks.MLP(SHAPE, n(3)), **options)


def test_sphere_of_one_dimension_is_refused():
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        encoders.PowerSpherical(lambda n: networks.MLP(SHAPE, n(1)))
