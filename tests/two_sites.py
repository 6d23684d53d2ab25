"""A user's own programs with two latent sites, whose bounds and their gradients are known by quadrature.

Model: z2 ~ N(m, 1), z1 ~ N(a z2, 0.8^2), x ~ N(c z1 + d z2, 0.6^2). Guide, bottom up: q(z1 | x) q(z2 | z1, x).
"""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

THETA, PHI = ("m", "a", "c", "d"), ("u", "v", "r", "h", "k", "t")


class TwoSites(nn.Module):
    """The programs, in float64."""

    def __init__(self):
        super().__init__()
        values = dict(m=2.0, a=0.7, c=1.1, d=-0.4, u=0.3, v=0.4, r=-0.5, h=0.9, k=-0.3, t=-0.1)
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        pyro.module("two_sites", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.m, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.8))
            pyro.sample("x", dist.Normal(self.c * z1 + self.d * z2, 0.6), obs=x)

    def guide(self, x):
        pyro.module("two_sites", self)
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.u * x + self.v, self.r.exp()))
            pyro.sample("z2", dist.Normal(self.h * z1 + self.k * x, self.t.exp()))

    def log_weights(self, x, e1, e2):
        """Log w of draws made from standard normal noise, by the formulas of the densities alone."""
        z1 = self.u * x + self.v + self.r.exp() * e1
        z2 = self.h * z1 + self.k * x + self.t.exp() * e2

        def log_normal(y, mean, scale):
            return -0.5 * ((y - mean) / scale) ** 2 - torch.as_tensor(scale).log() - 0.5 * np.log(2 * np.pi)

        log_p = log_normal(z2, self.m, 1.0) + log_normal(z1, self.a * z2, 0.8)
        log_p = log_p + log_normal(x, self.c * z1 + self.d * z2, 0.6)
        log_q = log_normal(z1, self.u * x + self.v, self.r.exp())
        return log_p - log_q - log_normal(z2, self.h * z1 + self.k * x, self.t.exp())

    def expectation(self, function, x, draws, nodes):
        """E[F(log w_1, ..., log w_K)] by quadrature over the noise of all draws, `(B,)`."""
        e1, e2, weight = noise(draws, nodes)
        return torch.stack([(weight * function(self.log_weights(b, e1, e2))).sum() for b in x])


def noise(draws, nodes):
    """Gauss-Hermite nodes of the noise of both sites, `(K, nodes^(2 K))` each, and their weights."""
    e, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    grid = torch.tensor(list(itertools.product(e, repeat=2 * draws))).T
    return grid[:draws], grid[draws:], torch.tensor(list(itertools.product(weight, repeat=2 * draws))).prod(1)
