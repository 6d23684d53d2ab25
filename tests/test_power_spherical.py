"""The power spherical distribution against quadrature over the cosine, closed forms and high precision."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import betaln, gammaln
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from pyrovae.distributions.hyperspherical_uniform import HypersphericalUniform
from pyrovae.distributions.power_spherical import PowerSpherical

DIMS = pytest.mark.parametrize("dim", [2, 3, 10])
CONCENTRATIONS = pytest.mark.parametrize("kappa", [1e-3, 1.0, 30.0, 1e4])


def make(dim, kappa, dtype=torch.float64):
    loc = normalize(torch.arange(1, dim + 1).to(dtype), dim=-1)
    return PowerSpherical(loc, torch.tensor(kappa, dtype=dtype))


def expectation(g, dim, kappa):
    """E[g(s)] of s = (1 + mu . z) / 2, whose density is that of the surface at this height: Beta, by quadrature."""
    b = (dim - 1) / 2
    a = b + kappa
    # s = 1 - r^2 takes away the singularity of b = 1/2 at s = 1, s = sin^2 that at s = 0
    density = lambda u: np.exp(  # noqa: E731
        (2 * a - 1) * np.log(np.sin(u)) + (2 * b - 1) * np.log(np.cos(u)) + np.log(2) - betaln(a, b)
    )
    peak = np.arctan(np.sqrt(a / b))
    width = 12 / np.sqrt(a + b)
    low, high = max(0, peak - width), min(np.pi / 2, peak + width)
    return quad(lambda u: g(np.sin(u) ** 2) * density(u), low, high, epsabs=1e-13, epsrel=1e-11, limit=500)[0]


@DIMS
@CONCENTRATIONS
def test_density_mean_variance_and_entropy_are_those_of_quadrature(dim, kappa):
    """The surface at height t is that of a sphere of one dimension less and radius sqrt(1 - t^2)."""
    p = make(dim, kappa)
    assert expectation(lambda s: 1.0, dim, kappa) == pytest.approx(1, rel=1e-8)
    # p(z) = Beta density of s / |ds/dt|^-1 / (area of S^(D-2) (1 - t^2)^((D - 3) / 2)), in logarithms
    b = (dim - 1) / 2
    log_area = np.log(2) + b * np.log(np.pi) - gammaln(b)
    across = normalize(torch.tensor([float(dim), *[0.0] * (dim - 2), -1.0]).double(), dim=-1)  # orthogonal to mu
    across = normalize(across - (across @ p.loc) * p.loc, dim=-1)

    def log_p(t):
        s = (1 + t) / 2
        beta = (b + kappa - 1) * np.log(s) + (b - 1) * np.log1p(-s) - betaln(b + kappa, b)
        return beta - np.log(2) - log_area - (dim - 3) / 2 * np.log1p(-(t**2))

    for t in (0.999, 0.5, -0.3, -0.9):
        z = t * p.loc + (1 - t**2) ** 0.5 * across
        assert p.log_prob(z).item() == pytest.approx(log_p(t), rel=1e-9, abs=1e-9)
    entropy = -expectation(lambda s: log_p(2 * min(s, 1 - 1e-15) - 1), dim, kappa)
    assert p.entropy().item() == pytest.approx(entropy, rel=1e-5, abs=1e-5)
    mean = expectation(lambda s: 2 * s - 1, dim, kappa)
    assert (p.mean / p.loc).tolist() == pytest.approx([mean] * dim, rel=1e-7)
    along = expectation(lambda s: (2 * s - 1 - mean) ** 2, dim, kappa)
    around = expectation(lambda s: 4 * s * (1 - s), dim, kappa) / (dim - 1)
    expected = around + (along - around) * p.loc.square()
    assert p.variance.tolist() == pytest.approx(expected.tolist(), rel=1e-7)


@DIMS
@CONCENTRATIONS
def test_draws_have_these_moments(dim, kappa):
    """Within 5 standard errors."""
    p, n = make(dim, kappa), 20_000
    z = p.sample((n,))
    assert ((z.mean(0) - p.mean).abs() < 5 * (p.variance / n) ** 0.5).all()
    square = (z - p.mean).square()
    assert ((square.mean(0) - p.variance).abs() < 5 * square.std(0) / n**0.5).all()


@DIMS
@CONCENTRATIONS
def test_divergence_from_the_uniform(dim, kappa):
    """In closed form, against draws, within 5 standard errors, and 0 without concentration."""
    p, uniform, n = make(dim, kappa), HypersphericalUniform(dim), 20_000
    z = p.sample((n,))
    ratio = p.log_prob(z) - uniform.log_prob(z)
    kl = kl_divergence(p, uniform)
    assert (ratio.mean() - kl).abs() < 5 * ratio.std() / n**0.5 + 1e-9
    assert kl_divergence(make(dim, 1e-9), uniform).item() == pytest.approx(0, abs=1e-8)


def test_the_entropy_of_the_uniform_is_the_logarithm_of_the_area():
    for dim, area in ((2, 2 * np.pi), (3, 4 * np.pi), (4, 2 * np.pi**2)):
        entropy = HypersphericalUniform(dim).expand((2,)).entropy()
        assert entropy.tolist() == pytest.approx([np.log(area)] * 2)


@DIMS
@CONCENTRATIONS
def test_float32_is_close_to_float64(dim, kappa):
    """Of the same z: its rounding by 6e-8 alone moves the log-density by as much times kappa's root."""
    single, double = make(dim, kappa, torch.float32), make(dim, kappa)
    z = single.sample((1000,))
    assert single.support.check(z).all()
    same = PowerSpherical(normalize(single.loc.double(), dim=-1), double.concentration)
    error = (single.log_prob(z) - same.log_prob(normalize(z.double(), dim=-1))).abs()
    assert error.max() < 2e-5 * (1 + kappa**0.5)
    assert single.entropy().item() == pytest.approx(double.entropy().item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@CONCENTRATIONS
@DIMS
def test_any_direction_has_finite_gradients(dtype, kappa, dim):
    """At the first axis, next to it and opposite to it, where a reflection from the axis to mu would be undefined."""
    axis = torch.eye(dim, dtype=dtype)[0]
    near = normalize(axis + 1e-4 * torch.eye(dim, dtype=dtype)[1], dim=-1)
    loc = torch.stack([axis, -axis, near, -near]).requires_grad_()
    concentration = torch.tensor(kappa, dtype=dtype, requires_grad=True)
    p = PowerSpherical(loc, concentration)
    z = p.rsample((200,))
    assert ((z * loc).sum(-1).mean(0) - p.mean.norm(dim=-1)).abs().max() < 0.3
    values = (z, p.log_prob(z), p.log_prob(axis), p.log_prob(-axis), p.entropy())
    gradients = torch.autograd.grad(sum(v.sum() for v in values), [loc, concentration])
    assert all(t.isfinite().all() for t in (*values, *gradients))
