"""Blueprints: how a run makes each model of the family of the parts that its options choose."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from pyrovae import models
from pyrovae.columns import columns
from pyrovae.corruptions import Corruption
from pyrovae.data import Dataset
from pyrovae.encoders import DiagonalNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.model import Model
from pyrovae.networks import MLP, Network
from pyrovae.networks.network import Shape, as_shape
from pyrovae.priors.prior import Prior
from pyrovae.rng import isolated

__all__ = ["VAE", "Autoencoder", "Blueprint", "HierarchicalVAE", "LadderVAE", "MixtureVAE", "Parts"]


@dataclass
class Parts:
    """Makes parts of a model, each of which starts from a random stream of its own.

    Args:
        dataset: the data, as the model's programs take them.
        latent_dim: D.
        make_prior: p(z), of its D.
        make_likelihood: p(x | z), of a function that makes its network.
        make_encoder: q(z | x), of a function that makes its network.
        encoder_network: network from x, of the shapes of its input and output.
        decoder_network: network from z, of the shapes of its input and output.
        seed: of the streams.
    """

    dataset: Dataset
    latent_dim: int
    make_prior: Callable[[int], Prior]
    make_likelihood: Callable[[Callable], Likelihood]
    make_encoder: Callable[[Callable], Encoder]
    encoder_network: Callable[[Shape, Shape], Network]
    decoder_network: Callable[[Shape, Shape], Network]
    seed: int
    _made: Counter = field(default_factory=Counter)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        return tuple(columns(self.dataset.train)[0].shape[1:])

    def prior(self, latent_dim: int | None = None) -> Prior:
        """p(z), z of D dimensions."""
        return self.started("prior", lambda: self.make_prior(latent_dim or self.latent_dim))

    def likelihood(self, given: Shape | None = None, shape: Shape | None = None) -> Likelihood:
        """p(x | z), for z of the shape `given`, x of another shape than the data's if need be."""
        z, (channels, *rest) = given or self.latent_dim, as_shape(shape or self.shape)
        make = lambda outputs: self.decoder_network(z, (outputs(channels), *rest))  # noqa: E731
        return self.started("likelihood", lambda: self.make_likelihood(make))

    def encoder(self, given: Shape | None = None, latent_dim: int | None = None) -> Encoder:
        """q(z | x), for x of the shape `given`, z of D dimensions."""
        x, d = given or self.shape, latent_dim or self.latent_dim
        make = lambda outputs: self.encoder_network(x, outputs(d))  # noqa: E731
        return self.started("encoder", lambda: self.make_encoder(make))

    def layer(self, given: Shape, latent_dim: int) -> DiagonalNormal:
        """p(z | z'), a diagonal normal, for z' of the shape `given`."""
        make = lambda outputs: self.decoder_network(given, outputs(latent_dim))  # noqa: E731
        return self.started("layer", lambda: DiagonalNormal(make))

    def network(self, given: Shape, out: Shape) -> Network:
        """A network of the encoder's kind."""
        return self.started("network", lambda: self.encoder_network(given, out))

    def started(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """What `make` makes, from a random stream of its own, which only the name and how often it came before tell."""
        number = self._made[name]
        self._made[name] += 1
        with isolated(self.seed, f"{name}{number or ''}"):
            return make()


class Blueprint(ABC):
    """Abstract: makes a model of its parts, and hands it its data."""

    def data(self, dataset: Dataset) -> Dataset:
        """The data as the model's programs take them: as they are, unless said otherwise."""
        return dataset

    @abstractmethod
    def __call__(self, parts: Parts) -> Model:
        """The model."""


@dataclass(frozen=True)
class VAE(Blueprint):
    """p(z) p(x | z), with q(z | x)."""

    def __call__(self, parts: Parts) -> models.VAE:
        """The model."""
        return models.VAE(parts.prior(), parts.likelihood(), parts.encoder())


@dataclass(frozen=True)
class Autoencoder(Blueprint):
    """A z for each x, without noise in it and without p(z); `encoder_network` is its network.

    Args:
        corruption: what the network sees in training, by class name; null for the data as they are.
    """

    corruption: Corruption | None = None

    def __call__(self, parts: Parts) -> models.Autoencoder:
        """The model."""
        network = parts.network(parts.shape, parts.latent_dim)
        return models.Autoencoder(network, parts.likelihood(), self.corruption)


@dataclass(frozen=True)
class HierarchicalVAE(Blueprint):
    """Layers of z, inferred from the data upwards.

    Args:
        latent_dims: D_1, ..., D_L; unless given, D and D / 2.
    """

    latent_dims: Sequence[int] | None = None

    def __call__(self, parts: Parts) -> models.HierarchicalVAE:
        """The model."""
        sizes = _layers(self.latent_dims, parts)
        return models.HierarchicalVAE(
            parts.prior(sizes[-1]),
            [parts.layer(above, below) for below, above in pairwise(sizes)],
            parts.likelihood(sizes[0]),
            [parts.encoder(below, d) for below, d in zip([parts.shape, *sizes], sizes, strict=False)],
        )


@dataclass(frozen=True)
class LadderVAE(Blueprint):
    """Layers of z, inferred from the top downwards.

    Args:
        latent_dims: D_1, ..., D_L; unless given, D and D / 2.
        features: size of what the networks make of x, layer by layer, without noise.
    """

    latent_dims: Sequence[int] | None = None
    features: int = 64

    def __call__(self, parts: Parts) -> models.LadderVAE:
        """The model."""
        sizes, h = _layers(self.latent_dims, parts), self.features
        return models.LadderVAE(
            parts.prior(sizes[-1]),
            [parts.layer(above, below) for below, above in pairwise(sizes)],
            parts.likelihood(sizes[0]),
            [parts.network(given, h) for given in [parts.shape, *[h] * (len(sizes) - 1)]],
            [parts.started("encoder", lambda d=d: DiagonalNormal(MLP(h, 2 * d, hidden=()))) for d in sizes],
        )


@dataclass(frozen=True)
class MixtureVAE(Blueprint):
    """Clusters; `--prior MixtureOfNormals` says how many, and `--objective.gradient Enumerate` sums them out."""

    def __call__(self, parts: Parts) -> models.MixtureVAE:
        """The model."""
        return models.MixtureVAE(parts.prior(), parts.likelihood(), parts.encoder())


def _layers(latent_dims: Sequence[int] | None, parts: Parts) -> list[int]:
    """D_1, ..., D_L."""
    return list(latent_dims or (parts.latent_dim, max(parts.latent_dim // 2, 1)))
