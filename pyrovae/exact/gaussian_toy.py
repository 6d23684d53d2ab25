"""The model on which the signal-to-noise ratio of gradient estimators was studied."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.arguments import number
from pyrovae.encoders.encoder import Encoder
from pyrovae.exact.linear_normal import LinearNormal, eye, set_scale
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.priors.prior import Prior
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["GaussianToy"]


class GaussianToy(LinearNormal):
    """p(z) = N(z; mu, I), p(x | z) = N(x; z, I), q(z | x) = N(z; A x + b, v I): mu, A and b are learned.

    The model on which the signal-to-noise ratio of gradient estimators was studied: tighter bounds give worse
    gradients of A and b. It starts at mu = 0, A = I / 2, b = 0.

    Args:
        latent_dim: D, dimensions of z and of x.
        variance: v; not that of p(z | x), which is 1/2, so that a gap stays.

    Raises:
        ValueError: if the variance is not positive.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, section 4,
        https://arxiv.org/abs/1802.04537

    Example:
        >>> model = GaussianToy()
        >>> x = model.sample(1024)
        >>> model.solve(x)
        >>> model.gap(x).mean().item()
        0.4565
    """

    def __init__(self, latent_dim: int = 20, variance: float = 2 / 3) -> None:
        number("variance", variance, above=0)
        identity = nn.Identity()
        identity.in_shape = identity.out_shape = (latent_dim,)
        with isolated():
            self.vae = VAE(
                prior=_ShiftedNormal(latent_dim),
                likelihood=Normal(identity, scale=1.0, learned=False),
                encoder=_FixedScaleNormal(MLP(latent_dim, latent_dim, hidden=()), variance),
            ).double()
        set_scale(self.vae, 1.0)
        self._set(torch.zeros(latent_dim))

    @property
    def weight(self) -> Tensor:
        """W = I, `(D, D)`."""
        return eye(self.loc)

    @property
    def bias(self) -> Tensor:
        """b = 0 of p(x | z), `(D,)`."""
        return torch.zeros_like(self.loc)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw mu ~ N(0, I) once, then z ~ N(mu, I) and x ~ N(z, I) n times, in the paper 1024: data `(n, D)`."""
        with isolated(seed):
            mu = torch.randn_like(self.loc)
            z = mu + torch.randn_like(mu.expand(n, -1))
            return z + torch.randn_like(z)

    def solve(self, x: Tensor) -> None:
        """Set mu = mean x, A = I / 2, b = mu / 2, where the mean of L(x) over the data `(N, D)` is greatest."""
        self._set(self._data(x).mean(0))

    @torch.no_grad()
    def perturb(self, std: float = 0.01, seed: int = 0) -> None:
        """Move each element of mu, A and b by an independent draw from N(0, std^2)."""
        with isolated(seed):
            for parameter in self.vae.parameters():
                parameter.add_(std * torch.randn_like(parameter))

    @torch.no_grad()
    def _set(self, mu: Tensor) -> None:
        self.vae.prior.loc.copy_(mu)
        layer = self.vae.encoder.network.layers[-1]
        nn.init.eye_(layer.weight).div_(2)
        layer.bias.copy_(mu / 2)


class _ShiftedNormal(Prior):
    """p(z) = N(z; mu, I), mu learned."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, 1.0).to_event(1)


class _FixedScaleNormal(Encoder):
    """q(z | x) = N(z; mu(x), v I), v given."""

    def __init__(self, network: nn.Module, variance: float) -> None:
        super().__init__(network, num_parameters=1)
        self.register_buffer("scale", torch.tensor(variance, dtype=torch.float64).sqrt())

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(output, self.scale).to_event(1)
