"""Autoencoders, plain and denoising, seen as VAEs without p(z) and without noise in z."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.corruptions import Corruption
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module

__all__ = ["Autoencoder"]


class Autoencoder(Model):
    """p(z) = 1, p(x | z), q(z | x) = delta(z - f(c(x))): maximises log p(x | f(c(x))), the reconstruction.

    Without a corruption c it is the plain autoencoder, with one the denoising autoencoder, which sees c(x) in training
    and has to give x. There is no bound on log p(x): ELBO and KL are NaN, and `History` tells the reconstruction.
    Nor is there a p(z) to draw from: data do not tell where between their codes others would be.

    Args:
        network: f, maps x to z, `(..., D)`.
        likelihood: p(x | z), called on z `(..., D)`; with `likelihoods.Normal` of a fixed scale it is least squares.
        corruption: c, such as `corruptions.Masking`, of data in training mode; or None.

    Raises:
        ValueError: if the two do not fit together, or neither tells the size of z.

    References:
        Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks,
        https://doi.org/10.1126/science.1127647
        Vincent et al. (2010), Stacked denoising autoencoders, https://jmlr.org/papers/v11/vincent10a.html

    Example:
        >>> from pyrovae import corruptions, likelihoods, networks
        >>> autoencoder = Autoencoder(
        ...     network=networks.MLP((1, 8, 8), 2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     corruption=corruptions.Masking(0.3),
        ... )
        >>> autoencoder.reconstruct(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        likelihood: Callable[[Tensor], TorchDistribution],
        corruption: Corruption | None = None,
    ) -> None:
        corruption = nn.Identity() if corruption is None else corruption
        super().__init__(network=network, likelihood=likelihood, corruption=corruption)
        takes = getattr(getattr(likelihood, "network", None), "in_shape", None)
        gives = getattr(network, "out_shape", takes)
        if gives is None:
            raise ValueError("nothing tells the size of z: give the network an attribute out_shape, such as (2,)")
        if len(gives) != 1 or takes not in (None, gives):
            raise ValueError(f"the network gives z of shape {gives}, but the likelihood's takes {takes}")
        self.encoder, self.likelihood, self.corruption = network, likelihood, corruption
        self.prior = _Flat(gives)

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(x | z), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # p(z) = 1
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z)

    def guide(self, x: Tensor) -> None:
        """q(z | x) = delta(z - f(c(x))), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(self.corruption(x)))  # z = f(c(x))

    def encode(self, x: Tensor) -> TorchDistribution:
        """The point f(x), batch `(B,)`, event `(D,)`, of data x `(B, *event)`."""
        return dist.Delta(self.encoder(x), event_dim=1)

    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Refuse, as there is no p(z)."""
        return self.prior().sample((n,))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean") -> Tensor:
        """The mean of p(x | f(x)) for each datum, or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.encoder(x)), kind)


class _Uniform(dist.ImproperUniform):
    """Pyro's, which has its zeros on the CPU wherever the value is, and does not say what to do without draws."""

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        raise ValueError("an autoencoder has no p(z) to draw from: decode points of your choice by likelihood(z)")

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).to(value)


class _Flat(nn.Module):
    """p(z) = 1 on R^D, which is no density of a probability."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)

    def forward(self) -> TorchDistribution:
        """The measure, batch `()`, event `(D,)`."""
        return _Uniform(constraints.real_vector, (), self.shape)
