"""Figures of a fitted model: what is computed for them; `plotting` draws it."""

from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import plotting
from pyrovae.data import Dataset
from pyrovae.evaluation import moments
from pyrovae.rng import isolated
from pyrovae.supports import describe
from pyrovae.training import History
from pyrovae.vae import VAE

__all__ = ["draw"]


@torch.no_grad()
def draw(
    vae: VAE, dataset: Dataset, history: History, tsne: bool = False, seed: int = 0
) -> Iterator[tuple[str, Figure]]:
    """The figures of a fit by name: training curves, latent means, reconstructions, samples, the decoded grid if D = 2.

    Args:
        vae: the fitted model.
        dataset: the data it was fitted to, of which the test part is shown.
        history: of the fit.
        tsne: whether to draw the latent means by t-SNE too.
        seed: of what is drawn at random.
    """
    x = dataset.test.to(next(vae.parameters()).device)
    labels = dataset.labels.test if dataset.labels else None
    with isolated(seed):
        if history:
            yield "training_curves", plotting.training_curves(history)
        means, deviations = (t.cpu() for t in moments(vae.encode(x[:5000])))
        labels = None if labels is None else labels[:5000]
        points, names = _plane(means, deviations)
        yield "latent_means", plotting.latent_means(points, labels, names)
        if tsne:
            from sklearn.manifold import TSNE  # which takes a second

            points = torch.from_numpy(
                TSNE(random_state=seed, perplexity=min(30, (len(means) - 1) / 3)).fit_transform(means.numpy())
            )
            yield "latent_means_tsne", plotting.latent_means(points, labels, ("t-SNE 1", "t-SNE 2"))
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            return  # what follows shows images
        some = x[:12]
        yield "reconstructions", plotting.reconstructions(some, *(vae.reconstruct(some, k) for k in ("mean", "sample")))
        p = vae.likelihood(vae.prior().sample((6, 6)))
        yield "samples", plotting.samples(p.mean, p.sample())
        if means.shape[1] == 2 and describe(vae.prior().support) == "R^D":
            grid, quantiles = _quantile_grid(vae, torch.linspace(0.02, 0.98, 15))
            images = vae.likelihood(grid).mean
            yield "decoded_grid", plotting.decoded_grid(images, quantiles)
            path = _path(means, labels, quantiles)
            yield "decoded_path", plotting.decoded_grid(images, quantiles, path, vae.likelihood(path.to(x)).mean)


def _plane(means: Tensor, deviations: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Two numbers for each latent mean, and what they are."""
    if means.shape[1] == 2:
        return means, ("$z_1$", "$z_2$")
    if means.shape[1] == 1:
        return torch.cat([means, deviations], 1), ("mean of q(z | x)", "its standard deviation")
    from sklearn.decomposition import PCA  # which takes a second

    pca = PCA(2, random_state=0)
    points = torch.from_numpy(pca.fit_transform(means.numpy()))
    first, second = pca.explained_variance_ratio_
    return points, (f"first principal component ({first:.0%})", f"second ({second:.0%})")


def _quantile_grid(vae: VAE, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Z of two dimensions at the prior's quantiles, `(n, n, 2)`, z_2 falling along the first; and those, `(2, n)`."""
    z = vae.prior().sample((100_000,))
    quantiles = z.quantile(levels.to(z), dim=0).T
    second, first = torch.meshgrid(quantiles[1].flip(0), quantiles[0], indexing="ij")
    return torch.stack([first, second], -1), quantiles.cpu()


def _path(means: Tensor, labels: Tensor | None, quantiles: Tensor) -> Tensor:
    """A straight path between two latent means within the quantiles, of two classes if there are classes, `(10, 2)`."""
    inside = ((means > quantiles[:, 0]) & (means < quantiles[:, -1])).all(1).nonzero().flatten()
    start = inside[0] if len(inside) else 0
    ends = inside if labels is None else inside[labels[inside] != labels[start]]
    # The farthest one, so that there is something to see on the way.
    end = ends[(means[ends] - means[start]).norm(dim=1).argmax()] if len(ends) else -1
    return torch.lerp(means[start], means[end], torch.linspace(0, 1, 10).unsqueeze(1))
