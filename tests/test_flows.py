"""Flows: the log-determinant is autograd's, batches are their elements, and inverses invert."""

import pytest
import torch
from encoder_cases import randn

from pyrovae import flows

D = 3


def autoregressive(g, *sizes):
    """Parameters of a dimension that depend on those before it, in a batch of 6."""
    weights = [randn(D, *((size,) if size else ()), D) for size in sizes]
    biases = [randn(6, *w.shape[:-1]) for w in weights]

    def parameters(x):
        lower = [torch.tril(torch.ones(D, D).double(), -1).reshape(D, *(1,) * (w.dim() - 2), D) * w for w in weights]
        return [
            b + torch.einsum("...j,i...j->...i", x, w) if w.dim() == 2 else b + _each(x, w)
            for b, w in zip(biases, lower, strict=True)
        ]

    return flows.Autoregressive(g, parameters)


def _each(x, w):
    return torch.einsum("...j,imj->...im", x, w)


def affine(x, loc, a, inverse=False):
    return flows.affine(x, loc, a / 4, inverse)


FLOWS = {
    "planar": lambda: flows.Planar(3 * randn(6, D), randn(6, D), randn(6, 1)),
    "radial": lambda: flows.Radial(randn(6, D), randn(6, 1).exp(), randn(6, 1).exp()),
    "sylvester": lambda: flows.Sylvester(randn(6, D, D), randn(6, D, D), randn(6, D)),
    "sylvester backwards": lambda: flows.Sylvester(randn(6, D, D), randn(6, D, D), randn(6, D), backwards=True),
    "affine": lambda: autoregressive(affine, 0, 0),
    "spline": lambda: autoregressive(flows.spline, 8, 8, 7),
}
over_flows = pytest.mark.parametrize("name", list(FLOWS))
over_inverses = pytest.mark.parametrize("name", ["affine", "spline"])


@over_flows
@pytest.mark.parametrize("draws", [(), (4,)])
def test_log_determinant_is_that_of_the_jacobian(name, draws):
    flow, x = FLOWS[name](), 2 * randn(*draws, 6, D)
    y = flow(x)
    log_det = flow.log_abs_det_jacobian(x, y)
    assert (y.shape, log_det.shape) == ((*draws, 6, D), (*draws, 6))
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.evaluate(x)[0].flatten(0, -2).sum(0), x)
    sign, expected = torch.linalg.slogdet(jacobian.movedim(0, -2))
    assert (sign == 1).all()
    torch.testing.assert_close(log_det, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.log_abs_det_jacobian(x.clone(), y.clone()), expected, rtol=1e-9, atol=1e-9)


@over_inverses
def test_inverse_inverts_and_has_its_log_determinant(name):
    flow, x = FLOWS[name](), 3 * randn(50, 6, D)
    y = flow(x)
    log_det = flow.log_abs_det_jacobian(x, y)
    copy = y.clone()
    back = flow.inv(copy)
    assert back is not x
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow.log_abs_det_jacobian(back, copy), log_det, rtol=1e-5, atol=1e-5)
    assert flow.inv(copy) is back


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_flow_without_an_inverse_says_so(name):
    flow, x = FLOWS[name](), randn(6, D)
    y = flow(x)
    assert flow.inv(y) is x
    with pytest.raises(NotImplementedError, match="no analytic inverse"):
        flow.inv(y.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planar_is_invertible_and_finite_for_any_parameters(dtype):
    """w . u' > -1, which makes the map rise along w; also where w . u is far below, or w is 0."""
    u, w = 1e4 * torch.randn(200, D, dtype=dtype), 1e2 * torch.randn(200, D, dtype=dtype)
    w[:10] = 0
    u.requires_grad_()
    w.requires_grad_()
    flow = flows.Planar(u, w, torch.zeros(200, 1, dtype=dtype))
    assert (flow.steepest > 0).all()
    x = torch.zeros(200, D, dtype=dtype)
    y, log_det = flow.evaluate(x)
    gradients = torch.autograd.grad((y.sum() + log_det.sum()), [u, w])
    assert all(t.isfinite().all() for t in (y, log_det, *gradients))
    slope = 1 + (w * flow.u).sum(-1)
    safe = slope > 1e-2
    torch.testing.assert_close(flow.steepest.squeeze(-1)[safe], slope[safe], rtol=1e-2, atol=1e-2)


def test_radial_is_the_papers():
    """y = x + beta (x - c) / (a + r), beta = s - a."""
    c, a, s, x = randn(6, D), randn(6, 1).exp(), randn(6, 1).exp(), randn(6, D)
    expected = x + (s - a) * (x - c) / (a + (x - c).norm(dim=-1, keepdim=True))
    torch.testing.assert_close(flows.Radial(c, a, s)(x), expected)


def test_spline_rises_through_its_knots_and_is_the_identity_outside():
    """With the knots and slopes that the logits ask for, from Durkan et al.'s definition."""
    widths, heights, slopes = randn(1, 8), randn(1, 8), randn(1, 7)
    ends = [10 * torch.cumsum(1e-3 + 0.992 * t.softmax(-1), -1)[0] - 5 for t in (widths, heights)]
    y, log_slope = flows.spline(ends[0][:7, None], *(t.expand(7, 1, -1) for t in (widths, heights, slopes)))
    torch.testing.assert_close(y[:, 0], ends[1][:7])
    torch.testing.assert_close(log_slope[:, 0].exp(), 1e-3 + torch.nn.functional.softplus(slopes[0]))
    x = torch.linspace(-7, 7, 20001).double()[:, None]
    y, log_slope = flows.spline(x, *(t.expand(20001, 1, -1) for t in (widths, heights, slopes)))
    rise = (y[1:] - y[:-1])[:, 0] / (x[1] - x[0])
    middle = (log_slope[1:, 0].exp() + log_slope[:-1, 0].exp()) / 2
    assert (rise > 0).all()
    torch.testing.assert_close(rise, middle, rtol=2e-2, atol=2e-2)
    outside = x.abs() >= 5
    assert torch.equal(y[outside], x[outside])
    assert not log_slope[outside].any()


@pytest.mark.parametrize("inverse", [False, True])
def test_spline_in_float32_is_close_to_float64_and_finite(inverse):
    """Within 4 of the identity's parameters, as the encoder keeps them; the worst of 15,000 draws."""
    theta = [4 * torch.rand(5000, 3, n).double() * 2 - 4 for n in (8, 8, 7)]
    x = 11 * torch.rand(5000, 3).double() - 5.5
    single = [t.float().requires_grad_() for t in (x, *theta)]
    value, log_slope = flows.spline(*single, inverse=inverse)
    gradients = torch.autograd.grad(value.sum() + log_slope.sum(), single)
    assert all(t.isfinite().all() for t in (value, log_slope, *gradients))
    expected, _ = flows.spline(single[0].double(), *(t.double() for t in single[1:]), inverse=inverse)
    steep = (-log_slope if inverse else log_slope).exp().clamp(min=1)  # how much rounding of x is amplified
    error = ((value - expected).abs() / steep).flatten()
    assert error.quantile(0.999) < 2e-5
    assert error.max() < 3e-4
