"""The surface that data lie near, unrolled by q(z | x) and rolled up by p(x | z), beside linear components."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.applications.latent_map import latent_moments
from pyrovae.evaluation import evaluating
from pyrovae.model import Model

__all__ = ["Coded", "Told", "by_components", "by_model", "told"]


class Coded(NamedTuple):
    """Codes of data, and what is made of them again."""

    train: Tensor  # codes of training data, `(N', D)`
    test: Tensor  # codes of other data, `(N, D)`
    x: Tensor  # these from their codes, `(N, *event)`


class Told(NamedTuple):
    """R^2 = 1 - sum |f - f'|^2 / sum |f - mean f|^2 of a known factor f, told from the codes of new data."""

    neighbours: float  # by the mean of the five nearest: 1 if no two places of the surface lie over each other
    neighbours_std_error: float
    linear: float  # by linear regression: 1 if the code is the factor but for scale and rotation
    linear_std_error: float


def by_model(vae: Model, train: Tensor, test: Tensor) -> Coded:
    """The mean of q(z | x), and the mean of p(x | z) at this z.

    Args:
        vae: the model, of one vector z.
        train: data, `(N', *event)`.
        test: other data, `(N, *event)`.
    """
    codes = [latent_moments(vae, x)[0] for x in (train, test)]
    with evaluating(vae):
        z = codes[1].to(next(vae.parameters()))
        return Coded(*codes, torch.cat([vae.likelihood(part).mean.cpu() for part in z.split(1000)]))


def by_components(train: Tensor, test: Tensor, num_components: int) -> Coded:
    """The first principal components of training data, the best linear code of as many numbers.

    Args:
        train: data, `(N', *event)`.
        test: other data, `(N, *event)`.
        num_components: D, or as many as there are.

    Example:
        >>> x = torch.randn(50, 2) @ torch.randn(2, 5)  # of a plane
        >>> torch.allclose(by_components(x, x, 2).x, x, atol=1e-5)
        True
    """
    from sklearn.decomposition import PCA  # which takes a second

    flat = [x.flatten(1).double().cpu().numpy() for x in (train, test)]
    pca = PCA(min(num_components, *flat[0].shape), random_state=0).fit(flat[0])
    codes = [pca.transform(x) for x in flat]
    rebuilt = pca.inverse_transform(codes[1]).reshape(test.shape)
    return Coded(*(torch.from_numpy(t).float() for t in (*codes, rebuilt)))


def told(codes: Coded, train: Tensor, test: Tensor) -> list[Told]:
    """What the codes tell of each known factor of variation, by neighbours and linearly.

    A map that is flat tells the place on the surface linearly; one that is bent, or folded where the surface is not,
    tells it by neighbours alone; one that lays two parts of the surface over each other does not tell it. Standard
    errors are those of so many new data, by the delta method.

    Args:
        codes: of training and new data.
        train: factors of the training data, `(N', F)`.
        test: factors of the new data, `(N, F)`.

    Example:
        >>> z = torch.rand(500, 2)
        >>> codes, factors = Coded(z[:300], z[300:], z[300:]), torch.stack([z.sum(1), (9 * z[:, 1]).sin()], 1)
        >>> flat, bent = told(codes, factors[:300], factors[300:])
        >>> flat.linear > 0.99, bent.neighbours > 0.9 > bent.linear
        (True, True)
    """
    from sklearn.linear_model import LinearRegression  # which takes a second
    from sklearn.neighbors import KNeighborsRegressor

    z, z_new, f, f_new = (t.double().cpu().numpy() for t in (codes.train, codes.test, train, test))
    by = [m.fit(z, f).predict(z_new) for m in (KNeighborsRegressor(min(5, len(z))), LinearRegression())]
    pairs = [[_r2(f_new[:, k], of[:, k]) for of in by] for k in range(f.shape[1])]
    return [Told(*near, *linear) for near, linear in pairs]


def _r2(f: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """R^2 and its standard error, of a ratio of means over data."""
    error, spread = (f - predicted) ** 2, (f - f.mean()) ** 2
    ratio = error.mean() / spread.mean()
    return float(1 - ratio), float((error - ratio * spread).std() / spread.mean() / np.sqrt(len(f)))
