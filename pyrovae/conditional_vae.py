"""The conditional variational autoencoder: p(x | y), for something y that is known of each x."""

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.conditions import Features, OneHot, Quadrants
from pyrovae.model import Kind, Model, drawn
from pyrovae.networks import Join
from pyrovae.parameters import module
from pyrovae.priors.prior import Prior

__all__ = ["ConditionalVAE"]


class ConditionalVAE(Model):
    """p(x, z | y) = p(z | y) p(x | z, y), with q(z | x, y); its ELBO bounds log p(x | y).

    The programs take y beside x: classes, or numbers such as a part of the image. Networks of both see `Join`.

    Args:
        prior: p(z), a `Prior`; or p(z | y), learned, such as `encoders.DiagonalNormal`, called on y.
        likelihood: p(x | z, y), called on `Join(D, y)`.
        encoder: q(z | x, y), called on `Join(x, y)`.
        condition: how networks see y, such as `conditions.OneHot(10)`.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Sohn et al. (2015), Learning structured output representation using deep conditional generative models,
        https://papers.nips.cc/paper/5775

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> y = OneHot(10)
        >>> vae = ConditionalVAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2 + 10, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1 + 10, 8, 8), 2 * 2)),
        ...     condition=y,
        ... )
        >>> vae.sample(3, y=torch.tensor([0, 5, 9])).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        prior: Prior | Callable[[Tensor], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
        condition: OneHot | Features | Quadrants,
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder, condition=condition)
        self.prior, self.likelihood, self.encoder, self.condition = prior, likelihood, encoder, condition
        y, z = condition.out_shape, encoder.event_shape
        x = likelihood.event_shape
        self.z_and_y, self.x_and_y = Join(z, y), Join(x, y)
        takes = {"p(x | z, y)": (likelihood, self.z_and_y.out_shape), "q(z | x, y)": (encoder, self.x_and_y.out_shape)}
        if not isinstance(prior, Prior):
            takes["p(z | y)"] = (prior, y)
        for what, (part, shape) in takes.items():
            given = getattr(part.network, "in_shape", shape)
            if given != shape:
                raise ValueError(f"the network of {what} takes {given}, but what it is given has the shape {shape}")
        gives = tuple(prior().event_shape) if isinstance(prior, Prior) else prior.event_shape
        if gives != z:
            raise ValueError(f"the prior is over z of shape {gives}, but q(z | x, y) over {z}: make them equal")

    def model(self, x: Tensor, y: Tensor) -> None:
        """p(x, z | y), x observed: data `(B, *event)`, conditions `(B, ...)`."""
        module(self.name, self)  # pyro.module
        y = self.seen(y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior_given(y))  # z ~ p(z | y)
            pyro.sample("x", self.likelihood(self.z_and_y(z, y)), obs=x)  # x ~ p(x | z, y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        """q(z | x, y), for data `(B, *event)`, conditions `(B, ...)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x, y))  # z ~ q(z | x, y)

    def seen(self, y: Tensor) -> Tensor:
        """Conditions as networks see them, in the precision of the parameters."""
        return self.condition(y).to(next(self.parameters()))

    def prior_given(self, y: Tensor) -> TorchDistribution:
        """p(z | y), for y as networks see it."""
        return self.prior() if isinstance(self.prior, Prior) else self.prior(y)

    def encode(self, x: Tensor, y: Tensor) -> TorchDistribution:
        """The distribution q(z | x, y), batch `(B,)`, event `(D,)`."""
        return self.encoder(self.x_and_y(x, self.seen(y)))

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample", y: Tensor | None = None) -> Tensor:
        """Draw z ~ p(z | y) for each of n conditions `(n, ...)` and give a draw or the mean of p(x | z, y)."""
        if y is None or len(y) != n:
            raise ValueError(f"there is no p(y): give as many conditions y as there shall be draws, {n}")
        self.condition.check(y)
        y = self.seen(y)
        p = self.prior_given(y)
        return drawn(self.likelihood(self.z_and_y(p.sample(() if p.batch_shape else (n,)), y)), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x, y) for each datum and give the mean of p(x | z, y), or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.z_and_y(self.encode(x, y).sample(), self.seen(y))), kind)

    def check(self, x: Tensor, *given: Tensor, name: str = "x") -> None:
        """Refuse data to which p(x | z, y) gives no density, or without conditions."""
        super().check(x, name=name)
        if len(given) != 1:
            raise ValueError(f"{name} needs a condition for each datum: give (x, y)")
        self.condition.check(given[0])
