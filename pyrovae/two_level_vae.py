"""Two levels of latent variables of which both make x, as the VampPrior's authors have them."""

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.model import Kind, Model, drawn
from pyrovae.networks import Join
from pyrovae.parameters import module

__all__ = ["TwoLevelVAE"]


class TwoLevelVAE(Model):
    """p(x, z) = p(z2) p(z1 | z2) p(x | z1, z2), with q(z | x) = q(z2 | x) q(z1 | x, z2).

    With `priors.VampPrior` for p(z2), the mixture of q(z2 | u_c), the upper level stays in use.

    Args:
        prior: p(z2); called, gives a distribution of event `(D_2,)`.
        decoder: p(z1 | z2), such as `encoders.DiagonalNormal`.
        likelihood: p(x | z1, z2), called on `Join(D_1, D_2)`.
        encoder: q(z2 | x).
        lower_encoder: q(z1 | x, z2), called on `Join(x, D_2)`.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, section 4, https://arxiv.org/abs/1705.07120

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> vae = TwoLevelVAE(
        ...     prior=priors.VampPrior(2, components=50),
        ...     decoder=encoders.DiagonalNormal(networks.MLP(2, 2 * 4)),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(4 + 2, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 2)),
        ...     lower_encoder=encoders.DiagonalNormal(networks.MLP((1 + 2, 8, 8), 2 * 4)),
        ... )
        >>> vae.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    guide_parts = ("encoder", "lower_encoder")

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        decoder: Callable[[Tensor], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
        lower_encoder: Callable[[Tensor], TorchDistribution],
    ) -> None:
        super().__init__(
            prior=prior, decoder=decoder, likelihood=likelihood, encoder=encoder, lower_encoder=lower_encoder
        )
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood
        self.encoder, self.lower_encoder = encoder, lower_encoder
        z1, z2 = decoder.event_shape, encoder.event_shape
        self.z1_and_z2, self.x_and_z2 = Join(z1, z2), Join(likelihood.event_shape, z2)
        takes = {
            "p(z1 | z2)": (decoder, z2),
            "p(x | z1, z2)": (likelihood, self.z1_and_z2.out_shape),
            "q(z1 | x, z2)": (lower_encoder, self.x_and_z2.out_shape),
        }
        for what, (part, shape) in takes.items():
            given = getattr(part.network, "in_shape", shape)
            if given != shape:
                raise ValueError(f"the network of {what} takes {given}, but what it is given has the shape {shape}")
        if lower_encoder.event_shape != z1:
            raise ValueError(f"p(z1 | z2) is over {z1}, but q(z1 | x, z2) over {lower_encoder.event_shape}")
        if hasattr(prior, "join"):  # a VampPrior is made of q(z2 | x)
            prior.join(self)
        if tuple(prior().event_shape) != z2:
            raise ValueError(f"p(z2) is over {tuple(prior().event_shape)}, but q(z2 | x) over {z2}")

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z2) p(z1 | z2) p(x | z1, z2), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.prior())  # z2 ~ p(z2)
            z1 = pyro.sample("z1", self.decoder(z2))  # z1 ~ p(z1 | z2)
            pyro.sample("x", self.likelihood(self.z1_and_z2(z1, z2)), obs=x)  # x ~ p(x | z1, z2)

    def guide(self, x: Tensor) -> None:
        """q(z | x) = q(z2 | x) q(z1 | x, z2), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.encode(x))  # z2 ~ q(z2 | x)
            pyro.sample("z1", self.lower_encoder(self.x_and_z2(x, z2)))  # z1 ~ q(z1 | x, z2)

    def encode(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z2 | x), batch `(B,)`, event `(D_2,)`, of data x `(B, *event)`."""
        return self.encoder(x)

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw z2 and z1 n times and give, for each, a draw or the mean of p(x | z1, z2): `(n, *event)`."""
        z2 = self.prior().sample((n,))
        return drawn(self.likelihood(self.z1_and_z2(self.decoder(z2).sample(), z2)), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean", layer: int = 1) -> Tensor:
        """Draw z2, and z1 too where layer = 1, from q(z | x), else z1 ~ p(z1 | z2): mean or draw of p(x | z1, z2)."""
        if layer not in (1, 2):
            raise ValueError(f"layers are 1 and 2, and there is no layer {layer}")
        z2 = self.encode(x).sample()
        z1 = self.lower_encoder(self.x_and_z2(x, z2)) if layer == 1 else self.decoder(z2)
        return drawn(self.likelihood(self.z1_and_z2(z1.sample(), z2)), kind)
