"""Blueprints: how a run makes each model of the family of the parts that its options choose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae import models
from pyrovae.columns import columns
from pyrovae.conditions import OneHot, Quadrants
from pyrovae.corruptions import Corruption
from pyrovae.data import Dataset, fingerprint
from pyrovae.encoders import DiagonalNormal
from pyrovae.missing import hot_deck
from pyrovae.networks import (
    MLP,
    BackwardRecurrent,
    Codebook,
    Combiner,
    GatedTransition,
    Join,
    Joined,
)
from pyrovae.networks.network import Shape, as_shape
from pyrovae.parts import Blueprint, Parts
from pyrovae.priors.codes import AutoregressiveCodes, CodesPrior

__all__ = [
    "M2",
    "VAE",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialVB",
    "Autoencoder",
    "ConditionalVAE",
    "DeepMarkovModel",
    "HierarchicalVAE",
    "IncompleteVAE",
    "LadderVAE",
    "MixtureVAE",
    "TwoLevelVAE",
]


@dataclass(frozen=True)
class VAE(Blueprint):
    """p(z) p(x | z), with q(z | x)."""

    def __call__(self, parts: Parts) -> models.VAE:
        """The model."""
        return models.VAE(parts.prior(), parts.likelihood(), parts.encoder())


@dataclass(frozen=True)
class AdversarialVB(Blueprint):
    """q(z | x) of any shape, made of noise; `encoder_network` sees x for it and for the discriminator.

    It takes `--encoder_lr` of a fifth of the learning rate, and `--optimizer.betas [0.5,0.999]`.

    Args:
        noise_dim: of the noise.
        features: size of what the networks make of x, before noise or z is joined to it.
        adaptive_contrast: whether the discriminator compares q(z | x) with the `encoder`, or with p(z).
    """

    noise_dim: int = 8
    features: int = 64
    adaptive_contrast: bool = True

    @property
    def without(self) -> tuple[str, ...]:
        """An encoder, unless q(z | x) is compared with it."""
        return () if self.adaptive_contrast else ("encoder",)

    def __call__(self, parts: Parts) -> models.AdversarialVB:
        """The model."""

        def joined(size: int, out: int) -> Joined:
            head = parts.started("head", lambda: MLP(size + self.features, out))
            return Joined(parts.network(parts.shape, self.features), head)

        return models.AdversarialVB(
            parts.prior(),
            parts.likelihood(),
            joined(self.noise_dim, parts.latent_dim),
            joined(parts.latent_dim, 1),
            self.noise_dim,
            parts.encoder() if self.adaptive_contrast else None,
        )


@dataclass(frozen=True)
class AdversarialAutoencoder(Blueprint):
    """Codes of all data like draws of p(z); `--encoder Delta` makes them points.

    It takes `--encoder_lr` of a fifth of the learning rate, and `--optimizer.betas [0.5,0.999]`.
    """

    def __call__(self, parts: Parts) -> models.AdversarialAutoencoder:
        """The model."""
        discriminator = parts.started("discriminator", lambda: MLP(parts.latent_dim, 1))
        return models.AdversarialAutoencoder(parts.prior(), parts.likelihood(), parts.encoder(), discriminator)


@dataclass(frozen=True)
class Autoencoder(Blueprint):
    """A z for each x, without noise in it and without p(z); `encoder_network` is its network.

    Args:
        corruption: what the network sees in training, by class name; null for the data as they are.
    """

    corruption: Corruption | None = None
    without: ClassVar[tuple[str, ...]] = ("prior", "encoder")

    def __call__(self, parts: Parts) -> models.Autoencoder:
        """The model."""
        network = parts.network(parts.shape, parts.latent_dim)
        return models.Autoencoder(network, parts.likelihood(), self.corruption)


@dataclass(frozen=True)
class DeepMarkovModel(Blueprint):
    """A chain of states z_t of D dimensions, one for each row of an image, or for each step of a sequence `(T, F)`.

    The decoder's network is that of p(x_t | z_t); in place of the encoder's is one that reads the rows from the last.
    Train it with a beta that rises to 1, `--objective.beta Linear --objective.beta.steps 400`, as it takes the chain
    long to become of use, and the whole KL would empty the states before.

    Args:
        hidden: units of that network's state.
        transition: units of the hidden layers of p(z_t | z_(t-1)).
        product: whether q(z_t | z_(t-1), x_t, ..., x_T) is p(z_t | z_(t-1)) times the encoder's normal; else it is of
            the encoder's family, such as `IAF` for a normalizing flow. Unless given, for `DiagonalNormal` alone.
    """

    hidden: int = 64
    transition: int = 64
    product: bool | None = None
    without: ClassVar[tuple[str, ...]] = ("encoder_network",)

    def start(self, dataset: Dataset) -> Dataset:
        """The data that parts start from: their rows, `(N T, *step)`."""
        return replace(dataset, train=columns(dataset.train)[0].movedim(-2, 1).flatten(0, 1))

    def __call__(self, parts: Parts) -> models.DeepMarkovModel:
        """The model."""
        if len(parts.shape) < 2:
            raise ValueError(f"a deep Markov model is of sequences (T, F) or images, not of data {parts.shape}")
        (*channels, steps, width), d, h = parts.shape, parts.latent_dim, self.hidden
        transition = lambda: DiagonalNormal(GatedTransition(d, self.transition))  # noqa: E731
        head = lambda outputs: MLP(h, outputs(d), hidden=())  # noqa: E731
        encoder = parts.started("encoder", lambda: parts.make_encoder(head))
        return models.DeepMarkovModel(
            prior=parts.prior(),
            transition=parts.started("transition", transition),
            likelihood=parts.likelihood(shape=(*channels, width)),
            reader=parts.started("reader", lambda: BackwardRecurrent((*channels, width), h)),
            combiner=parts.started("combiner", lambda: Combiner(d, h)),
            encoder=encoder,
            steps=steps,
            product=isinstance(encoder, DiagonalNormal) if self.product is None else self.product,
        )


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
class IncompleteVAE(Blueprint):
    """Data with missing values, NaN in their files; `--objective IWAE` for the bound of Mattei and Frellsen (2019).

    Args:
        fraction: of the values of all data that are hidden beside, completely at random.
        mask_seed: of which are.
    """

    fraction: float = 0.0
    mask_seed: int = 0
    missing: ClassVar[bool] = True

    def data(self, dataset: Dataset) -> Dataset:
        """x and which of its elements are observed."""
        if not 0 <= self.fraction < 1:
            raise ValueError(f"fraction must be at least 0 and below 1, not {self.fraction}")
        generator = torch.Generator().manual_seed(self.mask_seed)
        parts = dataset.train, dataset.valid, dataset.test
        seen = [torch.rand(x.shape, generator=generator) >= self.fraction for x in parts]
        if dataset.observed is not None:
            seen = [o & known for o, known in zip(seen, dataset.observed, strict=True)]
        train, valid, test = zip(parts, seen, strict=True)
        protocol = replace(dataset.protocol, checksum=fingerprint(*parts, *seen))
        return replace(dataset, train=train, valid=valid, test=test, protocol=protocol)

    def start(self, dataset: Dataset) -> Dataset:
        """The training data with values of other data where they are missing."""
        x, observed = dataset.train
        return replace(dataset, train=hot_deck(x, observed, x, observed, self.mask_seed))

    def __call__(self, parts: Parts) -> models.IncompleteVAE:
        """The model."""
        return models.IncompleteVAE(parts.prior(), parts.likelihood(), parts.encoder())


@dataclass(frozen=True)
class LadderVAE(Blueprint):
    """Layers of z, inferred from the top downwards.

    Args:
        latent_dims: D_1, ..., D_L; unless given, D and D / 2.
        features: size of what the networks make of x, layer by layer, without noise.
    """

    latent_dims: Sequence[int] | None = None
    features: int = 64
    without: ClassVar[tuple[str, ...]] = ("encoder",)

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


@dataclass(frozen=True)
class VQVAE(Blueprint):
    """Codes for z, each with a vector of D numbers; `code_prior` is p(c), learned with the rest.

    Args:
        codes: K.
        positions: of the codes of one x: how many, or height and width of a grid.
        decay: of the averages that vectors are; null to learn them by gradients.
        restart: how many positions of a batch, on average, a code stands for at least; 0 lets codes die.
        commitment: weight of the loss by which the encoder stays by its codes.
        code_prior: p(c), by class name or import path.
    """

    codes: int = 32
    positions: int | tuple[int, int] = (2, 2)
    decay: float | None = 0.99
    restart: float = 0.1
    commitment: float = 0.25
    code_prior: Callable[[Shape, int], CodesPrior] = AutoregressiveCodes
    without: ClassVar[tuple[str, ...]] = ("prior", "encoder")

    def __call__(self, parts: Parts) -> models.VQVAE:
        """The model."""
        shape = (parts.latent_dim, *as_shape(self.positions))
        size = prod(shape)
        return models.VQVAE(
            parts.network(parts.shape, size),
            parts.started("codebook", lambda: Codebook(self.codes, shape, self.decay, self.restart)),
            parts.likelihood(size),
            parts.started("prior", lambda: self.code_prior(shape[1:], self.codes)),
            self.commitment,
        )


@dataclass(frozen=True)
class TwoLevelVAE(Blueprint):
    """z2 of D dimensions above z1, both of which make x; `--prior VampPrior` for p(z2).

    Args:
        lower_dim: dimensions of z1; unless given, D.
    """

    lower_dim: int | None = None

    def __call__(self, parts: Parts) -> models.TwoLevelVAE:
        """The model."""
        top, low = parts.latent_dim, self.lower_dim or parts.latent_dim
        return models.TwoLevelVAE(
            parts.prior(top),
            parts.layer(top, low),
            parts.likelihood(Join(low, top).out_shape),
            parts.encoder(parts.shape, top),
            parts.encoder(Join(parts.shape, top).out_shape, low),
        )


@dataclass(frozen=True)
class ConditionalVAE(Blueprint):
    """p(x | y), y the class of x, or quadrants of an image of which the others are x.

    Args:
        quadrants: how many are given, 1 to 3; 0 for the class.
        learned_prior: whether p(z | y) is learned, by a network; else it is p(z).
    """

    quadrants: int = 0
    learned_prior: bool = False

    @property
    def without(self) -> tuple[str, ...]:
        """A prior, if one is learned."""
        return ("prior",) if self.learned_prior else ()

    def data(self, dataset: Dataset) -> Dataset:
        """x and y."""
        parts = dataset.train, dataset.valid, dataset.test
        if self.quadrants:
            condition = Quadrants(dataset.protocol.shape, self.quadrants)
            train, valid, test = map(condition.split, parts)
        else:
            train, valid, test = zip(parts, _labelled(dataset), strict=True)
        return replace(dataset, train=train, valid=valid, test=test)

    def __call__(self, parts: Parts) -> models.ConditionalVAE:
        """The model."""
        if self.quadrants:
            condition = Quadrants(parts.dataset.protocol.shape, self.quadrants)
        else:
            condition = OneHot(_classes(parts.dataset))
        y, z = condition.out_shape, parts.latent_dim
        return models.ConditionalVAE(
            parts.layer(y, z) if self.learned_prior else parts.prior(),
            parts.likelihood(Join(z, y).out_shape),
            parts.encoder(Join(parts.shape, y).out_shape, z),
            condition,
        )


@dataclass(frozen=True)
class M2(Blueprint):
    """Classes of some training data; `--objective.gradient Enumerate` sums over those of the others.

    Test data come without classes; their `accuracy` is told.

    Args:
        labelled: of how many training data the class is known, as many of each class.
        share: of an epoch that labelled data make up, for which they are repeated.
        alpha: weight of the loss of the classifier, for each labelled datum.
        label_seed: of the choice of labelled data.
    """

    labelled: int = 100
    share: float = 0.1
    alpha: float = 1.0
    label_seed: int = 0

    def data(self, dataset: Dataset) -> Dataset:
        """x and y of training data, y = -1 where it is not known; x alone of others."""
        y = _labelled(dataset)[0]
        each, rest = divmod(self.labelled, _classes(dataset))
        if rest or each < 1 or each > min(y.unique(return_counts=True)[1]) or not 0 < self.share < 1:
            raise ValueError(
                f"labelled data are some of each of {_classes(dataset)} classes, as many of each, and a share of an "
                f"epoch between 0 and 1, not {self.labelled} and {self.share}"
            )
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.label_seed))
        known = torch.cat([order[y[order] == c][:each] for c in y.unique()])
        again = round(self.share / (1 - self.share) * len(y) / len(known))  # so many times more
        index = torch.cat([torch.arange(len(y)), known.repeat(max(again - 1, 0))])
        given = torch.full_like(y, -1)
        given[known] = y[known]
        return replace(dataset, train=(dataset.train[index], given[index]))

    def __call__(self, parts: Parts) -> models.M2:
        """The model."""
        classes = _classes(parts.dataset)
        return models.M2(
            parts.prior(),
            parts.likelihood(Join(parts.latent_dim, classes).out_shape),
            parts.encoder(Join(parts.shape, classes).out_shape),
            parts.network(parts.shape, classes),
            self.alpha,
        )


def _labelled(dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Classes of training, validation and test data."""
    if dataset.labels is None:
        raise ValueError(f"the model needs the classes of the data, and {dataset.protocol.data} has none")
    return tuple(y.long() for y in (dataset.labels.train, dataset.labels.valid, dataset.labels.test))


def _classes(dataset: Dataset) -> int:
    """How many there are."""
    return int(max(y.max() for y in _labelled(dataset))) + 1


def _layers(latent_dims: Sequence[int] | None, parts: Parts) -> list[int]:
    """D_1, ..., D_L."""
    return list(latent_dims or (parts.latent_dim, max(parts.latent_dim // 2, 1)))
