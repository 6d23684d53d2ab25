"""The continuous Bernoulli against 40 digits: its normaliser and mean are integrals of exp(a x) over [0, 1]."""

import mpmath
import pytest
import torch
from scipy import stats

from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli, logits_of_mean

LOGITS = [0.0, 1e-8, 1e-4, 0.01, 0.049, 0.051, 0.1, 0.5, 0.999, 1.001, 3.0, 16.0, 20.0, 60.0]
LOGITS = sorted({sign * a for a in LOGITS for sign in (-1, 1)})
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
X = [0.0, 1e-3, 0.2, 0.5, 0.7, 0.999, 1.0]

over_logits = pytest.mark.parametrize("logit", LOGITS)
over_dtypes = pytest.mark.parametrize(("dtype", "rel"), DTYPES, ids=["float32", "float64"])


def moments(a):
    """int exp(a x) dx, and mean and variance under it, by quadrature."""

    def integral(k):
        return mpmath.quad(lambda x: x**k * mpmath.exp(a * x), mpmath.linspace(0, 1, 5))

    total, first, second = map(integral, range(3))
    return total, first / total, second / total - (first / total) ** 2


@over_logits
@over_dtypes
def test_density_and_gradient_mean_and_variance_are_exact(logit, dtype, rel):
    logits = torch.tensor(logit, dtype=dtype).expand(len(X)).clone().requires_grad_()
    x = torch.tensor(X, dtype=dtype)
    p = ContinuousBernoulli(logits)
    log_prob = p.log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    with mpmath.workdps(40):
        a = mpmath.mpf(logits[0].item())
        total, mean, variance = moments(a)
        for i, value in enumerate(map(mpmath.mpf, x.tolist())):
            # Where log p passes through 0 no format holds it to a relative error: a rounding of its two terms then.
            exact = float(a * value - mpmath.log(total))
            assert log_prob[i].item() == pytest.approx(exact, rel=rel, abs=rel * min(1, logit**2 / 100))
            assert gradient[i].item() == pytest.approx(float(value - mean), rel=rel, abs=rel * 1e-3)
    assert p.mean[0].item() == pytest.approx(float(mean), rel=rel)
    assert p.variance[0].item() == pytest.approx(float(variance), rel=rel)


@over_dtypes
@pytest.mark.parametrize("logit", [-1e4, -300.0, 300.0, 1e4])
def test_density_and_gradient_are_exact_far_out(logit, dtype, rel):
    """log p = log|a| - |a| d and its slope 1 / a - d, where d is the distance to the end that a points to."""
    for x in (0.0, 0.25, 1.0):
        logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
        p = ContinuousBernoulli(logits)
        log_prob = p.log_prob(torch.tensor(x, dtype=dtype))
        log_prob.backward()
        d = 1 - x if logit > 0 else x
        assert log_prob.item() == pytest.approx(torch.tensor(abs(logit)).log().item() - abs(logit) * d, rel=1e-6)
        assert logits.grad.item() == pytest.approx(1 / logit - d * (1 if logit > 0 else -1), rel=rel)
        assert 0 <= p.sample((1000,)).min() <= p.sample((1000,)).max() <= 1


@over_logits
@over_dtypes
def test_cdf_and_its_inverse_are_exact(logit, dtype, rel):
    p, x = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)), torch.tensor(X, dtype=dtype)
    with mpmath.workdps(40):
        a = mpmath.mpf(p.logits.item())
        for value in x:
            v = mpmath.mpf(value.item())
            u = v if a == 0 else mpmath.expm1(a * v) / mpmath.expm1(a)
            assert p.cdf(value).item() == pytest.approx(float(u), rel=rel)
            assert torch.equal(ContinuousBernoulli(p.logits, validate_args=False).cdf(value), p.cdf(value))
            u = torch.tensor(float(u), dtype=dtype)  # rounded; its inverse is that of the rounded number
            v = mpmath.mpf(u.item())
            back = v if a == 0 else mpmath.log1p(v * mpmath.expm1(a)) / a
            assert p.icdf(u).item() == pytest.approx(float(back), rel=10 * rel, abs=rel)


@over_logits
def test_draws_follow_the_density(logit):
    """The test of Kolmogorov and Smirnov at level 1e-4."""
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    assert stats.kstest(p.cdf(p.sample((5000,))).numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-3), (torch.float64, 1e-7)])
def test_gradient_of_draws_is_that_of_the_implicit_function(logit, dtype, rel):
    """dx/da = -(dF/da) / p(x), by 40 digits at the point drawn."""
    logits = torch.tensor(logit, dtype=dtype).expand(5).clone().requires_grad_()
    x = ContinuousBernoulli(logits).rsample()
    (gradient,) = torch.autograd.grad(x.sum(), logits)
    with mpmath.workdps(40):
        a = mpmath.mpf(logit)
        for value, slope in zip(x.tolist(), gradient.tolist(), strict=True):
            v = mpmath.mpf(value)
            u = v if a == 0 else mpmath.expm1(a * v) / mpmath.expm1(a)
            quantile = lambda b, u=u: u if b == 0 else mpmath.log1p(u * mpmath.expm1(b)) / b  # noqa: E731
            expected = float(mpmath.diff(quantile, a, h=mpmath.mpf("1e-12")))
            assert slope == pytest.approx(expected, rel=rel, abs=rel * 1e-2)


def test_logit_of_a_mean_is_found():
    mean = torch.tensor([0.002, 0.1, 0.4999, 0.5, 0.7, 0.998], dtype=torch.float64)
    torch.testing.assert_close(ContinuousBernoulli(logits_of_mean(mean)).mean, mean, rtol=1e-12, atol=0)
    assert logits_of_mean(torch.tensor([0.0, 1.0])).abs().max() <= 1000
