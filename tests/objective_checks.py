"""What the tests of objectives share."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from programs import make_data, make_vae
from two_sites import TwoSites

from pyrovae import objectives as E

DEFAULTS = [getattr(E, name)() for name in E.__all__]


def gradients_of(elbo, model, guide, x, module):
    """The loss and its gradient, from one seed."""
    module.zero_grad()
    pyro.set_rng_seed(7)
    loss = elbo.loss_and_grads(model, guide, x)
    return loss, [p.grad.clone() for p in module.parameters()]


def assert_same(a, b, rtol=1e-10):
    assert a[0] == pytest.approx(b[0], rel=rtol)
    assert all(torch.allclose(u, v, rtol=rtol, atol=1e-10) for u, v in zip(a[1], b[1], strict=True))


def two_programs():
    """Module, programs and data of a VAE and of a user's own program with two sites."""
    vae, two = make_vae().double(), TwoSites()
    return [(vae, vae.model, vae.guide, make_data().double()), (two, two.model, two.guide, torch.randn(6).double())]


PROGRAMS = pytest.mark.parametrize("program", [0, 1], ids=["vae", "two_sites"])


def refused(model, guide, message, objective=None):
    with pytest.raises(ValueError, match=message):
        (objective or E.ELBO()).differentiable_loss(model, guide, torch.randn(5, requires_grad=True))


def observed(x, mean):
    pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
