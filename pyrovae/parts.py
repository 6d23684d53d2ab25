"""Parts of a model, as options choose them, and what makes a model of them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from pyrovae.columns import columns
from pyrovae.data import Dataset
from pyrovae.encoders import DiagonalNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.model import Model
from pyrovae.networks import MLP, Network
from pyrovae.networks.network import Shape, as_shape
from pyrovae.priors.prior import Prior
from pyrovae.rng import isolated

__all__ = ["Blueprint", "Parts"]


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
        return tuple(columns(self.dataset.test)[0].shape[1:])

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
        make = lambda outputs: self._network(self.encoder_network, x, outputs(d))  # noqa: E731
        return self.started("encoder", lambda: self.make_encoder(make))

    def layer(self, given: Shape, latent_dim: int) -> DiagonalNormal:
        """p(z | z'), a diagonal normal, for z' of the shape `given`."""
        make = lambda outputs: self._network(self.decoder_network, given, outputs(latent_dim))  # noqa: E731
        return self.started("layer", lambda: DiagonalNormal(make))

    def network(self, given: Shape, out: Shape) -> Network:
        """A network of the encoder's kind."""
        return self.started("network", lambda: self._network(self.encoder_network, given, out))

    def _network(self, kind: Callable[[Shape, Shape], Network], given: Shape, out: Shape) -> Network:
        """A network of this kind; between latent variables an `MLP`, where the kind is of images alone."""
        try:
            return kind(given, out)
        except ValueError:  # of options that are wrong for images, too, the networks of x tell
            if as_shape(given) == self.shape or len(as_shape(given)) > 2:
                raise
            return MLP(given, out)

    def started(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """What `make` makes, from a random stream of its own, which only the name and how often it came before tell."""
        number = self._made[name]
        self._made[name] += 1
        with isolated(self.seed, f"{name}{number or ''}"):
            return make()


class Blueprint(ABC):
    """Abstract: makes a model of its parts, and hands it its data."""

    missing: ClassVar[bool] = False  # whether values may be missing in the data
    without: ClassVar[tuple[str, ...]] = ()  # parts that the model has not, by their option's name

    def data(self, dataset: Dataset) -> Dataset:
        """The data as the model's programs take them: as they are, unless said otherwise."""
        return dataset

    def start(self, dataset: Dataset) -> Dataset:
        """The data that parts start from, such as the network of p(x | z) with the bias that gives their mean."""
        return replace(dataset, train=columns(dataset.train)[0])

    @abstractmethod
    def __call__(self, parts: Parts) -> Model:
        """The model."""
