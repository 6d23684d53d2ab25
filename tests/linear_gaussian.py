"""A VAE whose answers are known: z ~ N(0, I), x | z ~ N(W z + b, s^2 I), q(z | x) = N(V x + c, diag(t^2)).

Marginally x ~ N(b, W W' + s^2 I); see Tipping and Bishop (1999), https://doi.org/10.1111/1467-9868.00196
"""

import numpy as np
import torch
from scipy.stats import multivariate_normal

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.scale import unconstrained


class LinearGaussian:
    """The model, its VAE in float64, and data drawn from it."""

    def __init__(self, exact_posterior=False, d=2, n=5, num_data=6):
        rng = np.random.default_rng(3)
        self.W, self.b, self.s = 0.6 * rng.normal(size=(n, d)), rng.normal(size=n), 0.7
        if exact_posterior:  # orthogonal columns of W make the posterior's covariance diagonal
            self.W = np.linalg.qr(self.W)[0] * np.array([1.5, 0.8])
        covariance = np.linalg.inv(np.eye(d) + self.W.T @ self.W / self.s**2)
        self.V = covariance @ self.W.T / self.s**2  # p(z | x) = N(V (x - b), covariance)
        self.c, self.t = -self.V @ self.b, np.diag(covariance) ** 0.5
        if not exact_posterior:  # a little off, and wider, so that importance weights have a finite variance
            self.V, self.c, self.t = 0.9 * self.V, self.c + 0.2, 1.3 * self.t
        self.x = rng.normal(size=(num_data, d)) @ self.W.T + self.b + self.s * rng.normal(size=(num_data, n))
        self.data = torch.from_numpy(self.x)
        self.vae = VAE(
            priors.StandardNormal(d),
            likelihoods.Normal(networks.MLP(d, n, hidden=()), scale=self.s, learned=False),
            encoders.DiagonalNormal(networks.MLP(n, 2 * d, hidden=())),
        ).double()
        with torch.no_grad():
            decoder, encoder = self.vae.likelihood.network.layers[-1], self.vae.encoder.network.layers[-1]
            decoder.weight.copy_(torch.from_numpy(self.W))
            decoder.bias.copy_(torch.from_numpy(self.b))
            encoder.weight.copy_(torch.from_numpy(np.concatenate([self.V, np.zeros((d, n))])))
            encoder.bias.copy_(torch.cat([torch.from_numpy(self.c), unconstrained(torch.from_numpy(self.t))]))
            self.vae.likelihood.unconstrained_scale.copy_(unconstrained(torch.tensor(self.s, dtype=torch.float64)))

    def log_likelihood(self):
        """log p(x), `(N,)`."""
        covariance = self.W @ self.W.T + self.s**2 * np.eye(len(self.b))
        return multivariate_normal(self.b, covariance).logpdf(self.x)

    def kl(self):
        """KL(q(z | x) || p(z)) for each dimension, `(N, D)`."""
        mean = self.x @ self.V.T + self.c
        return 0.5 * (mean**2 + self.t**2 - 1) - np.log(self.t)

    def reconstruction(self):
        """E_q[log p(x | z)], `(N,)`."""
        mean = self.x @ self.V.T + self.c
        error = ((self.x - mean @ self.W.T - self.b) ** 2).sum(1) + (self.W**2 @ self.t**2).sum()
        return -0.5 * (len(self.b) * np.log(2 * np.pi * self.s**2) + error / self.s**2)

    def elbo(self):
        """L(x), `(N,)`."""
        return self.reconstruction() - self.kl().sum(1)
