"""Models of so few latent states that all are summed."""

from abc import abstractmethod

import torch
from torch import Tensor

from pyrovae.arguments import whole
from pyrovae.encoders import Bernoulli as BernoulliEncoder
from pyrovae.exact.exact import Exact
from pyrovae.likelihoods import Bernoulli
from pyrovae.networks import MLP
from pyrovae.priors import Bernoulli as BernoulliPrior
from pyrovae.quadrature import log_bernoulli
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["BernoulliToy", "Discrete"]


class Discrete(Exact):
    """Abstract: a model of S latent states, all of which are summed."""

    @abstractmethod
    def latents(self) -> Tensor:
        """All z, `(S, D)`."""

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) = log sum_z p(x, z) of data `(B, data_dim)`: `(B,)`."""
        return self._log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> Tensor:
        """p(z | x) of data `(B, data_dim)` for each z of `latents()`: `(B, S)`."""
        return self._log_joint(x).softmax(-1)

    def elbo(self, x: Tensor) -> Tensor:
        """L(x) = sum_z q(z | x) (log p(x, z) - log q(z | x)) of data `(B, data_dim)`: `(B,)`."""
        log_q = self._log_q(x)
        return (log_q.exp() * (self._log_joint(x) - log_q)).sum(-1)

    def gap(self, x: Tensor) -> Tensor:
        """log p(x) - L(x) = KL(q(z | x) || p(z | x)) of data `(B, data_dim)`: `(B,)`."""
        log_q = self._log_q(x)
        return (log_q.exp() * (log_q - self._log_joint(x).log_softmax(-1))).sum(-1)

    @abstractmethod
    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) of data for each z of `latents()`, `(B, S)`."""

    @abstractmethod
    def _log_q(self, x: Tensor) -> Tensor:
        """log q(z | x) of data for each z of `latents()`, `(B, S)`."""


class BernoulliToy(Discrete):
    """p(z) = Ber(z; sigmoid(a)), p(x | z) = Ber(x; sigmoid(W z + b)), q(z | x) = Ber(z; sigmoid(V x + c)).

    Ber is a product of Bernoullis: a sigmoid belief network of one hidden layer, of so few units that all 2^D states of
    z are summed. All parameters are learned, and start as independent standard normal draws.

    Args:
        latent_dim: D, dimensions of z, at most 16.
        data_dim: dimensions of x.
        seed: of the parameters.

    Raises:
        ValueError: if the states are too many to sum.

    References:
        Neal (1992), Connectionist learning of belief networks, https://doi.org/10.1016/0004-3702(92)90065-6

    Example:
        >>> model = BernoulliToy(latent_dim=3, data_dim=5)
        >>> x = model.sample(20)
        >>> model.posterior(x).shape
        torch.Size([20, 8])
        >>> torch.allclose(model.elbo(x) + model.gap(x), model.log_likelihood(x))
        True
    """

    def __init__(self, latent_dim: int = 4, data_dim: int = 8, seed: int = 0) -> None:
        if whole("latent_dim", latent_dim) > 16:
            raise ValueError(f"latent_dim is at most 16, where 65536 states of z are summed, not {latent_dim}")
        with isolated(seed), torch.no_grad():
            self.vae = VAE(
                prior=BernoulliPrior(latent_dim),
                likelihood=Bernoulli(MLP(latent_dim, data_dim, hidden=())),
                encoder=BernoulliEncoder(MLP(data_dim, latent_dim, hidden=())),
            ).double()
            for parameter in self.vae.parameters():
                parameter.normal_()

    def latents(self) -> Tensor:
        """All z in {0, 1}^D, in the order of binary numbers, `(2^D, D)`."""
        a = self.vae.prior.logits
        digits = torch.arange(len(a) - 1, -1, -1, device=a.device)
        return (torch.arange(2 ** len(a), device=a.device)[:, None] >> digits & 1).to(a.dtype)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z), `(B, 2^D)`."""
        z = self.latents()
        log_prior = log_bernoulli(z, self.vae.prior.logits[None]).T  # (1, 2^D)
        return log_prior + log_bernoulli(self._data(x), self.vae.likelihood.network(z))

    def _log_q(self, x: Tensor) -> Tensor:
        """log q(z | x), `(B, 2^D)`."""
        return log_bernoulli(self.latents(), self.vae.encoder.network(self._data(x))).T
