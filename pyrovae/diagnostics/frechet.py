"""The Frechet distance between two samples in a space of features."""

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

__all__ = ["frechet_distance", "principal_components"]


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), of the means and covariances of features.

    It is the squared Wasserstein distance of two normal distributions. Estimates are biased upwards, the more the fewer
    data: compare only distances of samples of the same size, and see what two halves of the data have between them.

    Args:
        x: features of one sample, `(N, F)`.
        y: features of the other, `(M, F)`.

    Raises:
        ValueError: if they are not tables of as many features, or of too few data for a covariance.

    References:
        Dowson and Landau (1982), The Frechet distance between multivariate normal distributions,
        https://doi.org/10.1016/0047-259X(82)90077-X
        Heusel et al. (2017), GANs trained by a two time-scale update rule, https://arxiv.org/abs/1706.08500

    Example:
        >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        >>> frechet_distance(x, x + 1)
        3.000
    """
    if x.dim() != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features are tables (data, features), alike in features, of at least two data, not {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    (mu_x, s_x), (mu_y, s_y) = ((t.mean(0), np.atleast_2d(np.cov(t.T))) for t in (_array(x), _array(y)))
    values, vectors = eigh(s_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # tr (S_x S_y)^(1/2) = tr (S_x^(1/2) S_y S_x^(1/2))^(1/2), whose matrix is symmetric
    cross = np.sqrt(eigh(root @ s_y @ root, eigvals_only=True).clip(0)).sum()
    return float(((mu_x - mu_y) ** 2).sum() + np.trace(s_x) + np.trace(s_y) - 2 * cross)


def principal_components(x: Tensor, *others: Tensor, num_components: int = 50) -> list[Tensor]:
    """The first principal components of x, and of other data by the same rotation: features that need no network.

    Args:
        x: data, `(N, *event)`, to which they are fitted.
        others: data of the same shape.
        num_components: F, or all there are if these are fewer.

    Returns:
        Tables `(N, F)` of x and of each of the others.
    """
    from sklearn.decomposition import PCA  # which takes a second

    tables = [_array(t.flatten(1)) for t in (x, *others)]
    pca = PCA(min(num_components, *tables[0].shape), svd_solver="full").fit(tables[0])
    return [torch.from_numpy(pca.transform(t)) for t in tables]


def _array(t: Tensor) -> np.ndarray:
    return t.detach().as_subclass(Tensor).double().cpu().numpy()
