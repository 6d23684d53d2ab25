"""Augmentation: more of a small labelled set, by a model of all data, and whether a classifier gains by it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrovae.applications.decoding import decoded
from pyrovae.columns import moved
from pyrovae.conditional_vae import ConditionalVAE
from pyrovae.conditions import OneHot
from pyrovae.diagnostics.representation import latent_means
from pyrovae.evaluation import evaluating
from pyrovae.m2 import M2
from pyrovae.model import Kind, Model
from pyrovae.one_vector import has_one_vector, has_real_vector
from pyrovae.rng import isolated

__all__ = ["augmented", "few_of_each", "rightly_told"]

ALONE, MEANS = "labelled data alone", "latent means"


def augmented(
    vae: Model, x: Tensor, y: Tensor, number: int = 10, kind: Kind = "sample", seed: int = 0
) -> dict[str, Tensor]:
    """More data of the same classes by each method that there is, `(number * N, *event)`, on the CPU.

    The first N are one of each datum, or of its class, then comes another of each. The methods are

    - "reconstructions": x' ~ p(x' | z), z ~ q(z | x);
    - "mixed codes": z = (1 - t) E_q[z | x_1] + t E_q[z | x_2], x_1 and x_2 of one class, t ~ U(0, 1); of models of one
      vector z in R^D;
    - "draws of the class": x' ~ p(x' | y), of a model that takes classes;
    - "shifts and turns": without the model, of images: by up to 1/8 of the size to each side, and 10 degrees.

    Args:
        vae: the model, with `reconstruct`.
        x: labelled data, `(N, *event)`.
        y: their classes, `(N,)`.
        number: of data made of each.
        kind: whether they are draws or means of p(x | z).
        seed: of the draws.

    Raises:
        ValueError: if the model is not of x alone or of x and its class, or no datum is asked for.

    References:
        Chadebec and Allassonniere (2021), Data augmentation with variational autoencoders and manifold sampling,
        https://arxiv.org/abs/2103.13751
        DeVries and Taylor (2017), Dataset augmentation in feature space, https://arxiv.org/abs/1702.05538

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 2)),
        ... )
        >>> made = augmented(vae, torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]), number=3)
        >>> {name: len(x) for name, x in made.items()}
        {'reconstructions': 12, 'mixed codes': 12, 'shifts and turns': 12}
    """
    if number < 1:
        raise ValueError(f"of each datum at least one is made, not {number}")
    data = moved(_arguments(vae, x, y), next(vae.parameters()))
    made = {}
    with evaluating(vae), isolated(seed, "augmentation"):
        made["reconstructions"] = [vae.reconstruct(*data, kind=kind) for _ in range(number)]
        if len(data) == 2:
            made["draws of the class"] = [vae.sample(len(x), kind, y=data[1]) for _ in range(number)]
        elif has_real_vector(vae, x):
            made["mixed codes"] = decoded(vae, _mixed(latent_means(vae, x), y, number), kind, seed)
        if x.dim() == 4:
            made["shifts and turns"] = [_moved_about(x) for _ in range(number)]
    return {name: torch.cat([*parts]).cpu() for name, parts in made.items()}


def rightly_told(
    vae: Model,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    labelled: int,
    number: int = 10,
    kind: Kind = "sample",
    linear: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Where a classifier of test data is right, 1 or 0, `(N_test,)`, by the method with which it learned of few labels.

    The methods are "labelled data alone", those of `augmented`, and, of a model of one vector z, "latent means": the
    labelled data alone, but E_q[z | x] in place of x. More data weigh more against the classifier's penalty.

    Args:
        vae: the model.
        train: data `(N, *event)` and their classes `(N,)`, of which few are taken to be known.
        test: other data and their classes.
        labelled: how many classes are known, a multiple of how many classes there are.
        number: of data made of each.
        kind: whether they are draws or means of p(x | z).
        linear: whether the classifier is a logistic regression, in place of a support vector machine; both are as
            scikit-learn has them by default.
        seed: of the choice of labelled data, and of the draws.
    """
    from sklearn.linear_model import LogisticRegression  # which takes a second
    from sklearn.svm import SVC

    chosen = few_of_each(train[1], labelled, seed)
    x, y = (t[chosen.to(t.device)].cpu() for t in train)
    sets = {ALONE: (x, test[0])}
    for name, more in augmented(vae, x, y, number, kind, seed).items():
        sets[name] = torch.cat([x, more.to(x)]), test[0]
    if has_one_vector(vae, x):
        sets[MEANS] = latent_means(vae, x), latent_means(vae, test[0])
    right = {}
    for name, (features, test_features) in sets.items():
        classifier = LogisticRegression(max_iter=1000) if linear else SVC()
        classifier.fit(features.flatten(1).numpy(), y.repeat(len(features) // len(y)).numpy())
        told = classifier.predict(test_features.flatten(1).cpu().numpy())
        right[name] = (torch.from_numpy(told) == test[1].cpu()).double()
    return right


def few_of_each(y: Tensor, number: int, seed: int = 0) -> Tensor:
    """Indices of data drawn at random, as many of each class, `(number,)`.

    Args:
        y: classes, `(N,)`.
        number: how many in all.
        seed: of the draw.

    Raises:
        ValueError: if there cannot be as many of each class.

    Example:
        >>> y = torch.arange(20) % 2
        >>> y[few_of_each(y, 6)].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    classes, counts = y.unique(return_counts=True)
    each, rest = divmod(number, len(classes))
    if rest or not 1 <= each <= counts.min():
        raise ValueError(
            f"as many of each of {len(classes)} classes, of which there are {counts.min()} data or more each, are not "
            f"{number}: take a multiple of {len(classes)}, at most {len(classes) * counts.min()}"
        )
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    return torch.cat([order[y[order] == c][:each] for c in classes])


def _arguments(vae: Model, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What `reconstruct` takes of labelled data."""
    if not hasattr(vae, "reconstruct") or (isinstance(vae, ConditionalVAE) and not isinstance(vae.condition, OneHot)):
        raise ValueError(
            f"augmentation needs a model of x, or of x and its class, and this {type(vae).__name__} is none"
        )
    return (x, y) if isinstance(vae, ConditionalVAE | M2) else (x,)


def _mixed(z: Tensor, y: Tensor, number: int) -> Tensor:
    """Codes between each one and others of its class, `(number, N, D)`."""
    alike = (y[:, None] == y).cpu().double().fill_diagonal_(0)
    alike.diagonal().copy_(alike.sum(1) == 0)  # with itself, if it is the only one
    others = alike.multinomial(number, replacement=True).T  # (number, N)
    return torch.lerp(z.expand(number, -1, -1), z[others], torch.rand(number, len(z), 1).to(z))


def _moved_about(x: Tensor) -> Tensor:
    """Images, each shifted by up to 1/8 of its size to each side and turned by up to 10 degrees, of the same values."""
    angle = (2 * torch.rand(len(x)) - 1) * math.radians(10)
    shift = (2 * torch.rand(len(x), 2) - 1) / 4  # as the image goes from -1 to 1
    cos, sin = angle.cos(), angle.sin()
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x), mode="nearest", align_corners=False)
