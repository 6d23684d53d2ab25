"""Latent variables of several layers: the model that hierarchical and ladder variational autoencoders share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import ModuleParameters, module

__all__ = ["Given", "Layers"]

Given = Callable[[Tensor], TorchDistribution]  # a distribution given a value


class Layers(Model):
    """Abstract p(x, z) = p(z_L) p(z_(L-1) | z_L) ... p(z_1 | z_2) p(x | z_1); a subclass has a guide.

    Args:
        prior: p(z_L); called, gives a distribution of event `(D_L,)`.
        decoders: p(z_1 | z_2), ..., p(z_(L-1) | z_L), such as `encoders.DiagonalNormal`, each called on z `(..., D)`.
        likelihood: p(x | z_1).
    """

    def __init__(self, prior: Callable[[], TorchDistribution], decoders: Sequence[Given], likelihood: Given) -> None:
        super().__init__(prior=prior, likelihood=likelihood)
        self.prior, self.likelihood, self.decoders = prior, likelihood, nn.ModuleList(decoders)
        self.latents = [f"z{layer}" for layer in range(1, len(decoders) + 2)]  # z1, ..., zL
        self._check_fit()

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z_L) prod_l p(z_l | z_(l+1)) p(x | z_1), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            *latents, top = self.latents
            z = pyro.sample(top, self.prior())  # z_L ~ p(z_L)
            for name, decoder in zip(reversed(latents), reversed(self.decoders), strict=True):
                z = pyro.sample(name, decoder(z))  # z_l ~ p(z_l | z_(l+1))
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z_1)

    @abstractmethod
    def guide(self, x: Tensor) -> None:
        """q(z | x), for data `(B, *event)`."""

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw all layers of z from the top n times and give, for each, a draw or the mean of p(x | z_1)."""
        z = self.prior().sample((n,))
        for decoder in reversed(self.decoders):
            z = decoder(z).sample()
        return drawn(self.likelihood(z), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean", layer: int = 1) -> Tensor:
        """z_l ~ q(z_l | x), layers below as the model has them, and the mean of p(x | z_1) or a draw: `(B, *event)`.

        Args:
            x: data, `(B, *event)`.
            kind: the mean or a draw of p(x | z_1).
            layer: l, from 1 to L.

        Raises:
            ValueError: if there is no such layer.
        """
        if not 1 <= layer <= len(self.latents):
            raise ValueError(f"layers are from 1 to {len(self.latents)}, and there is no layer {layer}")
        with ModuleParameters():  # past Pyro's store
            z = pyro.poutine.trace(self.guide).get_trace(x).nodes[f"z{layer}"]["value"]
        for decoder in reversed(self.decoders[: layer - 1]):
            z = decoder(z).sample()
        return drawn(self.likelihood(z), kind)

    def _check_fit(self) -> None:
        z, given = tuple(self.prior().event_shape), [*reversed(self.decoders), self.likelihood]
        for layer, part in zip(range(len(given), 0, -1), given, strict=True):
            takes = getattr(getattr(part, "network", None), "in_shape", None)
            if takes is not None and takes != z:
                raise ValueError(f"the network of {_name(part)} takes z{layer} of shape {takes}, but it has {z}")
            z = getattr(part, "event_shape", z)


def _name(part: nn.Module) -> str:
    return type(part).__name__
