"""Quadrature nodes on the supports of priors, by formulas independent of the library."""

from itertools import product

import numpy as np
from numpy.polynomial.legendre import leggauss

from pyrovae.supports import describe


def panels(low, high, number, order=8):
    """Nodes and weights of the Gauss-Legendre rule on each of equal parts of an interval."""
    x, w = leggauss(order)
    edges = np.linspace(low, high, number + 1)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def line(number):
    """The real line: equal parts of [-8, 8], with an edge at 0, where densities may bend, and sinh for heavy tails."""
    x, w = panels(-8, 8, number, order=4)
    u, v = panels(np.arcsinh(8), 13, 12, order=4)
    tail, v = np.sinh(u), v * np.cosh(u)
    return np.concatenate([-tail, x, tail]), np.concatenate([v, w, v])


def square(x, w, latent_dim):
    """Product rule: nodes `(n, D)` and weights `(n,)`."""
    grids = np.meshgrid(*[x] * latent_dim, indexing="ij"), np.meshgrid(*[w] * latent_dim, indexing="ij")
    return np.stack(grids[0], -1).reshape(-1, latent_dim), np.prod(grids[1], 0).ravel()


def reals(latent_dim):
    return square(*line({1: 800, 2: 80}[latent_dim]), latent_dim)


def cube(latent_dim):
    u, w = panels(-36, 36, 40)  # in logits
    z = 1 / (1 + np.exp(-u))
    return square(z, w * z / (1 + np.exp(u)), latent_dim)


def simplex(latent_dim):
    """Breaking a stick: one part broken off in two dimensions, two in three, each as a logit."""
    u, w = square(*panels(-36, 36, 40), latent_dim - 1)
    part, rest = 1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))
    left = np.cumprod(np.concatenate([np.ones_like(u[:, :1]), rest], 1), 1)  # before each is broken off
    return np.concatenate([left[:, :-1] * part, left[:, -1:]], 1), w * (part * rest * left[:, :-1]).prod(1)


def sphere(latent_dim):
    angle, w = panels(-np.pi, np.pi, 20)
    if latent_dim == 2:
        return np.stack([np.cos(angle), np.sin(angle)], -1), w
    height, v = panels(-1, 1, 20)  # the area of a belt is as its height
    angle, height, w = (a.ravel() for a in (*np.meshgrid(angle, height), np.outer(v, w)))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1), w


def bits(latent_dim):
    z = np.array(list(product([0.0, 1.0], repeat=latent_dim)))
    return z, np.ones(len(z))


def one_hot(latent_dim):
    return np.eye(latent_dim), np.ones(latent_dim)


_RULES = {
    "R^D": reals,
    "{0, 1}^D": bits,
    "the one-hot vectors": one_hot,
    "the unit sphere": sphere,
    "a cube": cube,
    "the simplex": simplex,
}


def nodes(support, latent_dim):
    """Nodes z `(n, D)` and weights `(n,)`: a sum over them is the integral over the support."""
    return _RULES[describe(support)](latent_dim)
