"""Flows: invertible maps y = f(x) of vectors, with their log |det dy/dx|, for `TransformedDistribution`.

Each keeps the last x and y, so that a draw is scored without an inverse.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import pad, softmax, softplus

__all__ = ["Autoregressive", "Planar", "Radial", "Sylvester", "affine", "spline"]


class Flow(Transform):
    """Abstract: y = f(x), for x and y in R^D, with `evaluate(x)` that gives y and log |det dy/dx|."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)

    @abstractmethod
    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, and log |det dy/dx|, `(...)`."""

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_det = self.evaluate(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no analytic inverse: it can score none but its last draw")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log |det dy/dx|, `(...)`."""
        if x is not self._cached_x_y[0] or y is not self._cached_x_y[1]:
            self._call(x)
            self._cached_x_y = x, y
        return self._log_det


class Autoregressive(Flow):
    """y_i = g(x_i; theta_i(x_<i)): triangular, so that log |det dy/dx| = sum_i log g'(x_i).

    Args:
        g: the map of one dimension, `affine` or `spline`: `g(x, *theta)` gives y and log g'(x), both `(..., D)`, and
            `g(y, *theta, inverse=True)` x and log g'(x).
        parameters: maps x `(..., D)` to theta, of which the part for x_i depends on those before it in some order.
    """

    def __init__(
        self, g: Callable[..., tuple[Tensor, Tensor]], parameters: Callable[[Tensor], Sequence[Tensor]]
    ) -> None:
        super().__init__()
        self.g, self.parameters = g, parameters

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, and log |det dy/dx|, `(...)`."""
        y, log_slope = self.g(x, *self.parameters(x))
        return y, log_slope.sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # the i-th pass makes the i-th dimension right
            x, log_slope = self.g(y, *self.parameters(x), inverse=True)
        self._log_det = log_slope.sum(-1)
        return x


class Planar(Flow):
    """y = x + u' tanh(w . x + b), with u' = u / (1 + max(0, -w . u)), so that w . u' > -1 and y is invertible in x.

    Unlike the u' of the paper, of the same range, it has no pole where w = 0.

    Args:
        u: `(..., D)`.
        w: `(..., D)`.
        b: `(..., 1)`.

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        a = (w * u).sum(-1, keepdim=True)
        least = 1 - a.clamp(max=0)  # 1 + max(0, -a)
        self.u, self.w, self.b = u / least, w, b
        self.steepest = torch.where(a < 0, 1 / least, 1 + a)  # 1 + w . u', without cancellation

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, and log |det dy/dx| = log(1 + tanh'(w . x + b) w . u'), `(...)`."""
        h = torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        det = h.square() + (1 - h.square()) * self.steepest
        return x + self.u * h, det.log().squeeze(-1)


class Radial(Flow):
    """y = c + (x - c) (s + r) / (a + r), with r = |x - c|: away from c if s > a, towards it if s < a.

    That is the paper's x + beta (x - c) / (a + r) for beta = s - a, invertible for all positive a and s.

    Args:
        center: c, `(..., D)`.
        a: positive, `(..., 1)`.
        s: positive, `(..., 1)`.

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, https://arxiv.org/abs/1505.05770
    """

    def __init__(self, center: Tensor, a: Tensor, s: Tensor) -> None:
        super().__init__()
        self.center, self.a, self.s = center, a, s

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, and log |det dy/dx|, `(...)`: D - 1 times across and once along x - c."""
        d, a, s = x - self.center, self.a, self.s
        r = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        across, along = (s + r) / (a + r), (r.square() + 2 * a * r + a * s) / (a + r).square()
        return self.center + d * across, ((x.shape[-1] - 1) * across.log() + along.log()).squeeze(-1)


class Sylvester(Flow):
    """y = x + R tanh(S x + b), R and S upper triangular with |R_ii S_ii| < 1, so that y is invertible in x.

    Args:
        r: of whose triangle R is made, its diagonal by 0.999 tanh, `(..., D, D)`.
        s: of whose triangle S is made in the same way, `(..., D, D)`.
        b: `(..., D)`.
        backwards: whether the triangles are lower ones, that is, the dimensions in reverse order.

    References:
        van den Berg et al. (2018), Sylvester normalizing flows for variational inference, https://arxiv.org/abs/1803.05649
    """

    def __init__(self, r: Tensor, s: Tensor, b: Tensor, backwards: bool = False) -> None:
        super().__init__()
        triangle = torch.tril if backwards else torch.triu
        self.diagonals = [0.999 * t.diagonal(dim1=-2, dim2=-1).tanh() for t in (r, s)]
        strict = (triangle(t, -1 if backwards else 1) for t in (r, s))
        self.r, self.s = (t + d.diag_embed() for t, d in zip(strict, self.diagonals, strict=True))
        self.b = b

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The y of x `(..., D)`, and log |det dy/dx| = sum_i log(1 + tanh'(.) R_ii S_ii), `(...)`."""
        h = torch.tanh((self.s @ x.unsqueeze(-1)).squeeze(-1) + self.b)
        r, s = self.diagonals
        return x + (self.r @ h.unsqueeze(-1)).squeeze(-1), torch.log1p((1 - h.square()) * r * s).sum(-1)


def affine(x: Tensor, loc: Tensor, log_scale: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """g(x) = loc + exp(log_scale) x, and log g'; of y its x, and log g', if `inverse`."""
    return (x - loc) * (-log_scale).exp() if inverse else loc + log_scale.exp() * x, log_scale


def spline(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float = 5.0, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """g(x), rising and rational quadratic in each of M bins of [-bound, bound], g(x) = x outside; and log g'(x).

    Args:
        x: points, `(..., D)`; values of g, of which the points are wanted, if `inverse`.
        widths: bins' widths as logits, `(..., D, M)`.
        heights: by how much g rises in each bin, as logits, `(..., D, M)`.
        slopes: g' between the bins, as inputs of softplus, `(..., D, M - 1)`; at both ends g' = 1.
        bound: half the width of the square that holds the spline.
        inverse: whether to find x given g(x).

    References:
        Durkan et al. (2019), Neural spline flows, equations 4 to 8, https://arxiv.org/abs/1906.04032
    """
    slopes = pad(1e-3 + softplus(slopes), (1, 1), value=1.0)  # (..., D, M + 1)
    x_knots, y_knots = _knots(widths, bound), _knots(heights, bound)  # (..., D, M + 1)
    v = x.clamp(-bound, bound)  # so that all is finite outside, too
    k = ((y_knots if inverse else x_knots)[..., 1:-1] <= v[..., None]).sum(-1, keepdim=True)
    x0, x1, y0, y1, d0, d1 = (t.gather(-1, k + i).squeeze(-1) for t in (x_knots, y_knots, slopes) for i in (0, 1))
    s = (y1 - y0) / (x1 - x0)
    c = d0 + d1 - 2 * s
    if inverse:  # of the quadratic's roots the one in [0, 1], in the form without cancellation
        rise = (v - y0) / (y1 - y0)
        a, b = s - d0 + rise * c, d0 - rise * c
        root = (b.square() + 4 * a * s * rise).clamp(min=torch.finfo(x.dtype).eps ** 2).sqrt()
        t = (2 * s * rise / (b + root)).clamp(0, 1)
        value = x0 + t * (x1 - x0)
    else:
        t = (v - x0) / (x1 - x0)
        value = y0 + (y1 - y0) * (s * t.square() + d0 * t * (1 - t)) / (s + c * t * (1 - t))
    slope = d1 * t.square() + 2 * s * t * (1 - t) + d0 * (1 - t).square()
    log_slope = 2 * s.log() + slope.log() - 2 * (s + c * t * (1 - t)).log()
    inside = x.abs() < bound
    return torch.where(inside, value, x), torch.where(inside, log_slope, 0.0)


def _knots(logits: Tensor, bound: float) -> Tensor:
    """Where bins begin and end, from -bound to bound, each at least a thousandth of the whole."""
    bins = 1e-3 + (1 - 1e-3 * logits.shape[-1]) * softmax(logits, -1)
    inner = bound * (2 * bins[..., :-1].cumsum(-1) - 1)
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
