"""Every encoder with a network for it, and charts of where z lies, for the laws that each must obey."""

from itertools import product

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.supports import element

# Arguments of an encoder beyond its network: one case for each entry, the defaults for one that is not listed.
SMALL = {"context_dim": 3, "hidden": (8,)}
VARIANTS = {
    "IAF": [SMALL, {**SMALL, "layers": 1}],
    "Spline": [SMALL],
    "MixtureOfNormals": [{"components": 1}, {"components": 3}],
    "LowRankNormal": [{"rank": 1}, {}],
    "SemiAmortized": [{}, {"family": encoders.Planar, "steps": 1}],
}
CASES = [(name, variant) for name in encoders.__all__ for variant in VARIANTS.get(name, [{}])]
SHAPE = (2, 3, 4)
LEADS = [(), (6,), (2, 6)]
# Of draws with implicit gradients: at fixed noise a draw is no function of the parameters.
IMPLICIT = ("MixtureOfNormals", "PowerSpherical")
PRIORS = {
    "Real": priors.StandardNormal,
    "Boolean": priors.Bernoulli,
    "OneHot": priors.OneHotCategorical,
    "Interval": priors.RelaxedBernoulli,
    "Simplex": priors.RelaxedOneHotCategorical,
    "Sphere": priors.HypersphericalUniform,
}


class Constant(nn.Module):
    """A network that gives the same output whatever its input."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)
        self.out_shape = tuple(output.shape)

    def forward(self, x):
        return self.output.expand(*x.shape[:-1], *self.output.shape)


def label(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in value.items()) or "default"
    return str(value)


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def data(*lead):
    """Bits of random data."""
    return (randn(*lead, *SHAPE) > 0).double()


def kind(name):
    """Where z lies: the name of the constraint on its smallest part."""
    return type(element(getattr(encoders, name).support)).__name__.removeprefix("_")


def is_discrete(name):
    return getattr(encoders, name).support.is_discrete


def least_dim(name):
    return 2 if kind(name) in ("Sphere", "Simplex", "OneHot") else 1


def make_vae(name, variant, latent_dim, shape=SHAPE):
    """A VAE of the encoder in float64, all parameters moved away from where they start."""
    vae = VAE(
        PRIORS[kind(name)](latent_dim),
        likelihoods.Bernoulli(lambda n: networks.MLP(latent_dim, (n(shape[0]), *shape[1:]), hidden=())),
        getattr(encoders, name)(lambda n: networks.MLP(shape, n(latent_dim), hidden=(16,)), **variant),
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def make(name, variant, latent_dim, shape=SHAPE):
    return make_vae(name, variant, latent_dim, shape).encoder


def of_output(name, variant, output):
    """An encoder whose network gives this output, and its weights, if it has any, the same in each call."""
    torch.manual_seed(7)
    return getattr(encoders, name)(Constant(output), **variant).to(output.dtype)


def num_outputs(name, variant, latent_dim):
    return make(name, variant, latent_dim).num_outputs(latent_dim)


def draw(q, shape=()):
    """Samples, with a pathwise gradient where the family has one."""
    return q.rsample(shape) if q.has_rsample else q.sample(shape)


def scores_any(q):
    """Whether q has a density, and gives it for a z that is not its last draw."""
    if isinstance(getattr(q, "base_dist", q), dist.Delta):
        return False
    try:
        q.log_prob(q.sample().clone())
    except NotImplementedError:
        return False
    return True


def any_z(name, latent_dim, dtype):
    """A z of the support, whatever the parameters."""
    z = torch.full((latent_dim,), {"Interval": 0.3, "Simplex": 1 / latent_dim}.get(kind(name), 0.0), dtype=dtype)
    if kind(name) in ("OneHot", "Sphere"):
        z[-1] = 1
    return z


def states(name, latent_dim):
    """All values of a discrete z."""
    if kind(name) == "OneHot":
        return torch.eye(latent_dim).double()
    return torch.tensor(list(product([0.0, 1.0], repeat=latent_dim))).double()


def _unchanged(t):
    return t, torch.zeros_like(t[..., 0])


def _cube(t):
    z = t.sigmoid()
    return z, (nn.functional.logsigmoid(t) + nn.functional.logsigmoid(-t)).sum(-1)


def _simplex(t):
    log_z = nn.functional.pad(t, (0, 1)).log_softmax(-1)
    return log_z.exp(), log_z.sum(-1)


def _sphere(t):
    """By the angle, and in three dimensions the height."""
    circle = torch.stack([t[..., 0].cos(), t[..., 0].sin()], -1)
    if t.shape[-1] == 2:
        circle = torch.cat([circle * (1 - t[..., 1:].square()).sqrt(), t[..., 1:]], -1)
    return circle, torch.zeros_like(t[..., 0])


# For each kind of support: (z, log |dz/dt|) of coordinates t, the coordinates of z, and their ranges.
CHARTS = {
    "Real": (_unchanged, lambda z: z, [(-16, 16)] * 2),
    "Interval": (_cube, torch.logit, [(-33, 33)] * 2),
    "Simplex": (_simplex, lambda z: z[..., :-1].log() - z[..., -1:].log(), [(-60, 60)] * 2),
    "Sphere": (
        _sphere,
        lambda z: torch.cat([torch.atan2(z[..., 1:2], z[..., :1]), z[..., 2:]], -1),
        [(-np.pi, np.pi), (-1, 1)],
    ),
}
POINTS = {1: 8001, 2: 401}


def grid(name, coordinates, points=None):
    """Axes of the coordinates, z of all points, and log |dz/dt|."""
    chart, _, ranges = CHARTS[kind(name)]
    axes = [np.linspace(*limits, points or POINTS[coordinates]) for limits in ranges[:coordinates]]
    t = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    return axes, *chart(t)


def dims_of(name, coordinates):
    """Dimensions of z that has as many coordinates."""
    return coordinates + (kind(name) in ("Sphere", "Simplex"))


over_cases = pytest.mark.parametrize(("name", "variant"), CASES, ids=label)


def over(condition):
    return pytest.mark.parametrize(("name", "variant"), [case for case in CASES if condition(*case)], ids=label)
