"""Programs with discrete latent variables, small enough that every value can be summed over in numpy."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyrovae import VAE, encoders, likelihoods, networks, priors


class Bits(nn.Module):
    """Two bits with logits a, x | z ~ N(W z, I) in three dimensions, q(z | x) of two bits with logits V x; float64."""

    def __init__(self, scale=1.0, mask=None):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.3, -0.4]).double())
        self.w = nn.Parameter(torch.tensor([[1.0, -1.0], [0.5, 0.7], [0.2, 0.3]]).double())
        self.v = nn.Parameter(torch.tensor([[0.4, -0.3, 0.1], [0.2, 0.5, -0.6]]).double())
        self.scale, self.mask = scale, mask

    def model(self, x):
        pyro.module("bits", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.scale):
            with poutine.mask(mask=True if self.mask is None else self.mask):
                z = pyro.sample("z", dist.Bernoulli(logits=self.a).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("bits", self)
        with (
            pyro.plate("data", len(x)),
            poutine.scale(scale=self.scale),
            poutine.mask(mask=True if self.mask is None else self.mask),
        ):
            pyro.sample("z", dist.Bernoulli(logits=x @ self.v.T).to_event(1))

    def table(self, x):
        """Log w and q of every z, `(4, B)` each, in numpy, with the mask on z alone."""
        a, w, v = (p.detach().numpy() for p in (self.a, self.w, self.v))
        x, kept = x.numpy(), 1.0 if self.mask is None else self.mask.numpy()
        log_w, q = [], []
        for z in itertools.product([0.0, 1.0], repeat=2):
            sign = 2 * np.array(z) - 1
            log_q = -np.logaddexp(0, -sign * (x @ v.T)).sum(1)
            log_p = -np.logaddexp(0, -sign * a).sum()
            log_x = -0.5 * ((x - np.array(z) @ w.T) ** 2).sum(1) - 1.5 * np.log(2 * np.pi)
            log_w.append(log_x + kept * (log_p - log_q))
            q.append(np.exp(log_q))
        return np.array(log_w), np.array(q)


class Mixture(nn.Module):
    """A bit b, then one of three classes c given b, then y ~ N given both if there is to be one; x; in float64."""

    def __init__(self, continuous=False):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        shapes = {"a": (), "r": (2, 3), "m": (2, 3), "u": (), "s": (2, 3), "t": (2, 3), "h": ()}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator).double()))
        self.continuous = continuous

    def model(self, x):
        pyro.module("mixture", self)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.a))
            rows = torch.stack([1 - b, b], -1)
            c = pyro.sample("c", dist.OneHotCategorical(logits=rows @ self.r))
            mean = (rows @ self.m * c).sum(-1)
            y = pyro.sample("y", dist.Normal(mean, 0.7)) if self.continuous else mean
            pyro.sample("x", dist.Normal(y, 0.5), obs=x)

    def guide(self, x):
        pyro.module("mixture", self)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.u * x))
            rows = torch.stack([1 - b, b], -1)
            c = pyro.sample("c", dist.OneHotCategorical(logits=rows @ self.s + x.unsqueeze(-1) * (rows @ self.t)))
            if self.continuous:
                pyro.sample("y", dist.Normal((rows @ self.m * c).sum(-1) + self.h * x, 0.8))

    def elbo(self, x):
        """By summing over b and c in numpy; over y by its moments, `(B,)`."""
        p = {name: value.detach().numpy() for name, value in self.named_parameters()}
        x, total = x.numpy(), 0.0
        for b, c in itertools.product(range(2), range(3)):
            log_p = -np.logaddexp(0, -(2 * b - 1) * p["a"]) + p["r"][b, c] - np.logaddexp.reduce(p["r"][b])
            logits = p["s"][b] + x[:, None] * p["t"][b]
            log_q = -np.logaddexp(0, -(2 * b - 1) * p["u"] * x) + logits[:, c] - np.logaddexp.reduce(logits, 1)
            mean, mu = p["m"][b, c] + 0.0 * x, p["m"][b, c] + p["h"] * x
            if self.continuous:  # E[log p(x | y)] - KL(q(y) || p(y)), y ~ N(mu, 0.8^2)
                inner = -0.5 * ((x - mu) ** 2 + 0.8**2) / 0.25 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
                inner -= np.log(0.7 / 0.8) + (0.8**2 + (mu - mean) ** 2) / (2 * 0.7**2) - 0.5
            else:
                inner = -0.5 * (x - mean) ** 2 / 0.25 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
            total += np.exp(log_q) * (log_p - log_q + inner)
        return total


def make_bit_vae(seed=0, latent_dim=3, shape=(1, 4, 4)):
    """A small VAE of binary images with bits for latent variables."""
    pyro.set_rng_seed(seed)
    return VAE(
        priors.Bernoulli(latent_dim),
        likelihoods.Bernoulli(networks.MLP(latent_dim, shape, hidden=(16,))),
        encoders.Bernoulli(networks.MLP(shape, latent_dim, hidden=(16,))),
    )
