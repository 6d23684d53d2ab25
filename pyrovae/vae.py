"""The variational autoencoder, as two probabilistic programs."""

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import encoders
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module
from pyrovae.supports import describe, within

__all__ = ["VAE"]


class VAE(Model):
    """p(x, z) = p(z) p(x | z), with q(z | x) in place of the intractable p(z | x).

    `model` and `guide` are Pyro programs: train them by any of Pyro's or PyTorch's means. Parameters belong to the
    module; in Pyro's store they go by a name that no other object has.

    Args:
        prior: p(z); called, gives a distribution of event `(D,)`.
        likelihood: p(x | z); called on z `(..., D)`, gives a distribution whose event has the shape of one datum.
        encoder: q(z | x); called on x, gives a distribution of event `(D,)`.

    Raises:
        ValueError: if the three do not fit together.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114
        Rezende et al. (2014), Stochastic backpropagation and approximate inference, https://arxiv.org/abs/1401.4082

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 2)),
        ... )
        >>> vae.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder)
        self.prior, self.likelihood, self.encoder = prior, likelihood, encoder
        # Parts that are made of others, such as a prior of q(z | x), get to know them.
        before = [(part, getattr(part, "joined", ())) for part in (prior, likelihood, encoder) if hasattr(part, "join")]
        try:
            for part, _ in before:
                part.join(self)
            self._check_fit()
        except ValueError:
            for part, joined in before:
                part.joined = joined
            raise

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z) p(x | z), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # z ~ p(z)
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z)

    def guide(self, x: Tensor) -> None:
        """q(z | x), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encoder(x))  # z ~ q(z | x)

    def encode(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(B,)`, event `(D,)`, of data x `(B, *event)`."""
        return self.encoder(x)

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw z ~ p(z) n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""
        return drawn(self.likelihood(self.prior().sample((n,))), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x) for each datum and give the mean of p(x | z), or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.encode(x).sample()), kind)

    def _check_fit(self) -> None:
        p = self.prior()
        z = tuple(p.event_shape)
        q = getattr(self.encoder, "event_shape", None)
        if q is not None and q != z:
            raise ValueError(
                f"the prior is over z of shape {z}, but {type(self.encoder).__name__} gives {q}: a network with the "
                f"output shape {(self.encoder.num_outputs(z[0]),)} would fit"
            )
        support = getattr(self.encoder, "support", None)
        if support is not None and not within(support, p.support):
            fitting = [name for name in encoders.__all__ if within(getattr(encoders, name).support, p.support)]
            raise ValueError(
                f"the prior {type(self.prior).__name__} is over {describe(p.support)}, but the encoder "
                f"{type(self.encoder).__name__} over {describe(support)}: use encoders.{', '.join(fitting)}"
            )
        x = getattr(self.likelihood, "event_shape", None)
        for part, b, given in (("likelihood", "z", z), ("encoder", "x", x)):
            takes = getattr(getattr(getattr(self, part), "network", None), "in_shape", None)
            if given is not None and takes is not None and takes != given:
                raise ValueError(f"the {part}'s network takes {b} of shape {takes}, but {b} has the shape {given}")
