"""The ELBO less the total correlation of q(z), as a discriminator tells it."""

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrovae.arguments import parts
from pyrovae.densities import LogDensities
from pyrovae.gradient import Gradient
from pyrovae.networks import MLP, Network
from pyrovae.parameters import unique_name
from pyrovae.regularised import Regularised
from pyrovae.rng import isolated
from pyrovae.side_loss import held

__all__ = ["FactorVAE"]


class FactorVAE(Regularised):
    """E_q[log p(x | z)] - KL(q(z | x) || p(z)) - gamma KL(q(z) || prod_d q(z_d)), the last by a discriminator.

    The discriminator f tells draws of q(z) from those of prod_d q(z_d), which are the same with each z_d permuted among
    the data of a batch; at its best f(z) = log q(z) - sum_d log q(z_d), the mean of which is the total correlation.
    It descends 1/2 E[log(1 + exp(-f(z)))] + 1/2 E[log(1 + exp(f(permuted z)))] in the same steps, which is no part of
    any value. What is maximised is no bound on log p(x); `bound` is the ELBO.

    The discriminator's parameters are the objective's: `fit` trains them, and so does Pyro's own SVI; an optimiser of
    your own takes `objective.parameters()` too, and for that they must be there, so give the discriminator.

    Args:
        gamma: weight of the total correlation.
        discriminator: f, from z, as a vector, to `(1,)`; by default, made when z is first
            seen, an `MLP` with three layers of 256 leaky ReLUs.
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: for a negative weight; when used, if the guide has several sites, or the discriminator does
            not take as many elements as z has.

    References:
        Kim and Mnih (2018), Disentangling by factorising, https://arxiv.org/abs/1802.05983

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> objective = FactorVAE(gamma=10.0, discriminator=networks.MLP(2, 1))
        >>> objective.bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    of_one_site = True

    def __init__(
        self,
        gamma: float = 10.0,
        discriminator: Network | None = None,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        if discriminator is not None:
            parts(discriminator=discriminator)
        self.gamma = gamma
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.discriminator = discriminator
        self._seed = int(torch.randint(2**31, ()))  # of a discriminator that is made later

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised that are not the bound's own, by name."""
        return {"gamma": self.gamma}

    def target(self, densities: LogDensities) -> Tensor:
        """What is maximised, for each datum, and beside it, of value 0, what the discriminator learns by, `(B,)`."""
        target = super().target(densities)
        pyro.module(unique_name(self), self)
        z = self._z(densities).detach()
        loss = softplus(-self.discriminator(z)) + softplus(self.discriminator(_permuted(z)))  # (K, B, 1)
        loss = loss.mean((0, 2)) / 2
        return target + (loss.detach() - loss)

    def terms_of(self, densities: LogDensities) -> dict[str, tuple[float, Tensor]]:
        """The KL, and the total correlation as the discriminator tells it, `(K, B)` each, and their weights."""
        z = self._z(densities)
        self._see(z)
        log_ratio = held(self.discriminator, z)
        if log_ratio.shape != (*z.shape[:-1], 1):
            raise ValueError(
                f"the discriminator gives {tuple(log_ratio.shape)} for z of shape {tuple(z.shape)}, but should one "
                f"number for each: give networks.MLP({z.shape[-1]}, 1)"
            )
        return {"kl": (1.0, densities.kl), "total_correlation": (self.gamma, log_ratio.squeeze(-1))}

    def _z(self, densities: LogDensities) -> Tensor:
        """The draws, `(K, B, D)`."""
        (name,) = densities.q
        return densities.vectors(name)

    def _see(self, z: Tensor) -> None:
        """Make the discriminator, or check the one that is there."""
        size = z.shape[-1]
        if self.discriminator is None:
            with isolated(self._seed):
                self.discriminator = MLP(size, 1, hidden=(256, 256, 256), activation=nn.LeakyReLU).to(z)
        takes, gives = (getattr(self.discriminator, name, None) for name in ("in_shape", "out_shape"))
        if (takes or (size,), gives or (1,)) != ((size,), (1,)):
            raise ValueError(
                f"the discriminator takes {takes} and gives {gives}, but z has {size} elements in all: give "
                f"networks.MLP({size}, 1)"
            )


def _permuted(z: Tensor) -> Tensor:
    """z `(K, B, D)` with each element permuted among data on its own: draws of prod_d q(z_d)."""
    return z.gather(1, torch.rand_like(z).argsort(1))
