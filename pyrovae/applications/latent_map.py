"""A map of the latent space: means of q(z | x) in a plane, a grid of z with what is decoded from it, a path."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.diagnostics.representation import classification
from pyrovae.evaluation import encoded, evaluating, moments
from pyrovae.model import Model
from pyrovae.rng import isolated

__all__ = ["Neighbours", "latent_moments", "neighbours", "path", "plane", "quantile_grid", "tsne"]


class Neighbours(NamedTuple):
    """Of test data, the share whose label the five nearest of the training data tell."""

    accuracy: float
    std_error: float  # of so many test data


def latent_moments(vae: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """E_q[z | x] and the standard deviation of each z_d, `(N, D)` each, on the CPU.

    Args:
        vae: the model, with `encode`, q(z | x).
        x: data, `(N, *event)`.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> [t.shape for t in latent_moments(model.vae, model.sample(7))]
        [torch.Size([7, 2]), torch.Size([7, 2])]
    """
    vae.check(x)
    with evaluating(vae), isolated(0):  # an encoder may draw
        means, deviations = zip(*map(moments, encoded(vae, x)), strict=True)
    return torch.cat(means).cpu(), torch.cat(deviations).cpu()


def plane(means: Tensor, deviations: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Two numbers for each latent mean, and what they are: z, or its first principal components.

    Of one dimension they are the mean and the standard deviation of q(z | x).

    Args:
        means: of q(z | x), `(N, D)`.
        deviations: standard deviations of q(z | x), `(N, D)`.

    Returns:
        Points `(N, 2)`, and the names of the two axes, components with their share of the means' variance.

    Example:
        >>> t = torch.linspace(-1, 1, 9)
        >>> plane(torch.stack([t, 2 * t, t.square()], 1), torch.ones(9, 3))[1]
        ('first principal component (94%)', 'second (6%)')
    """
    if means.shape[1] == 2:
        return means, ("$z_1$", "$z_2$")
    if means.shape[1] == 1:
        return torch.cat([means, deviations], 1), ("mean of q(z | x)", "its standard deviation")
    if torch.equal(means, means[:1].expand_as(means)):  # all alike, which have no direction
        return means[:, :2], ("$z_1$", "$z_2$")
    from sklearn.decomposition import PCA  # which takes a second

    pca = PCA(2, random_state=0)
    points = torch.from_numpy(pca.fit_transform(means.numpy()))
    first, second = pca.explained_variance_ratio_
    return points, (f"first principal component ({first:.0%})", f"second ({second:.0%})")


def tsne(means: Tensor, seed: int = 0) -> Tensor:
    """Points of a plane that have their neighbours of D dimensions near, whatever is far away, `(N, 2)`.

    Args:
        means: of q(z | x), `(N, D)`.
        seed: of the search.

    References:
        van der Maaten and Hinton (2008), Visualizing data using t-SNE,
        https://www.jmlr.org/papers/v9/vandermaaten08a.html
    """
    if torch.equal(means, means[:1].expand_as(means)):  # all alike: there are no neighbours
        return means[:, :2]
    from sklearn.manifold import TSNE  # which takes a second

    perplexity = min(30, (len(means) - 1) / 3)
    return torch.from_numpy(TSNE(random_state=seed, perplexity=perplexity).fit_transform(means.numpy()))


def neighbours(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Neighbours:
    """Accuracy of the five nearest neighbours, of latent means in all dimensions, or in a picture of them.

    Args:
        train: points `(N, D)` and labels `(N,)`.
        test: the same of other data.

    Example:
        >>> points = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
        >>> neighbours((points, points[:, 0] > 0), (points, points[:, 0] > 0))
        Neighbours(accuracy=1.0, std_error=0.0)
    """
    accuracy = classification(train, test).nearest_neighbours
    return Neighbours(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test[1])))


def quantile_grid(vae: Model, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Z of two dimensions at quantiles of p(z), `(n, n, 2)`, z_2 falling along the first; and those, `(2, n)`.

    Args:
        vae: the model.
        levels: of the quantiles, `(n,)`, rising.
    """
    z = vae.prior().sample((100_000,))
    quantiles = z.quantile(levels.to(z), dim=0).T
    second, first = torch.meshgrid(quantiles[1].flip(0), quantiles[0], indexing="ij")
    return torch.stack([first, second], -1), quantiles.cpu()


def path(means: Tensor, labels: Tensor | None, quantiles: Tensor) -> Tensor:
    """A straight path between two latent means within the quantiles, of two classes if there are classes, `(10, 2)`.

    Args:
        means: of q(z | x), `(N, 2)`.
        labels: class of each, `(N,)`, or None.
        quantiles: of p(z), rising, `(2, n)`.
    """
    inside = ((means > quantiles[:, 0]) & (means < quantiles[:, -1])).all(1).nonzero().flatten()
    start = inside[0] if len(inside) else 0
    ends = inside if labels is None else inside[labels[inside] != labels[start]]
    # The farthest one, so that there is something to see on the way.
    end = ends[(means[ends] - means[start]).norm(dim=1).argmax()] if len(ends) else -1
    return torch.lerp(means[start], means[end], torch.linspace(0, 1, 10).unsqueeze(1))
