"""Small models for the tests, and ways to train them."""

import pyro
import pyro.infer
import torch
from pyro.infer import Trace_ELBO

from pyrovae import SVI, VAE, encoders, likelihoods, networks, priors

SHAPE = (1, 4, 4)


def make_vae(seed=0, latent_dim=3, prior=priors.StandardNormal, likelihood=likelihoods.Bernoulli):
    """A small VAE of binary images; the same seed gives the same one."""
    pyro.set_rng_seed(seed)
    return VAE(
        prior=prior(latent_dim),
        likelihood=likelihood(lambda n: networks.MLP(latent_dim, (n(1), *SHAPE[1:]), hidden=(16,))),
        encoder=encoders.DiagonalNormal(networks.MLP(SHAPE, 2 * latent_dim, hidden=(16,))),
    )


def make_data(n=24):
    """Binary images, half of them bright on the left, half on the right."""
    generator = torch.Generator().manual_seed(5)
    intensity = torch.full((n, *SHAPE), 0.1)
    intensity[: n // 2, ..., :2] = intensity[n // 2 :, ..., 2:] = 0.9
    return torch.bernoulli(intensity, generator=generator)


def train_by_pyro(vae, x, steps=20, seed=1):
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2, "fused": True}), Trace_ELBO())
    pyro.set_rng_seed(seed)
    return [svi.step(x) for _ in range(steps)]


def train_by_torch(vae, x, steps=20, seed=1):
    optim, elbo = torch.optim.Adam(vae.parameters(), lr=1e-2, fused=True), Trace_ELBO()
    pyro.set_rng_seed(seed)
    losses = []
    for _ in range(steps):
        optim.zero_grad()
        loss = elbo.differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        optim.step()
        losses.append(loss.item())
    return losses


def train_by_svi(vae, x, steps=20, seed=1, optim=None, loss=None):
    optim = optim or torch.optim.Adam(vae.parameters(), lr=1e-2)
    svi = SVI(vae.model, vae.guide, optim, loss or Trace_ELBO())
    pyro.set_rng_seed(seed)
    return [svi.step(x) for _ in range(steps)]


def parameters(vae):
    """A copy of the parameters by name."""
    return {name: p.detach().clone() for name, p in vae.named_parameters()}


def same(a, b):
    """Whether two sets of parameters are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def in_step(vae, step, do):
    """Do something in the midst of a step, counted from 1."""
    steps = iter(range(1, 10**6))
    next(vae.encoder.parameters()).register_hook(lambda gradient: do() if next(steps) == step else None)
