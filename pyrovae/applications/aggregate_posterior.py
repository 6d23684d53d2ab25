"""The aggregate posterior: where the codes of data lie, as a density to draw from."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyrovae.columns import Data, columns
from pyrovae.evaluation import encoded, evaluating
from pyrovae.model import Model
from pyrovae.rng import isolated

__all__ = ["aggregate_posterior"]


def aggregate_posterior(vae: Model, x: Data, components: int = 10, seed: int = 0) -> TorchDistribution:
    """A mixture of normals that is fitted, by EM, to draws of q(z) = E_x[q(z | x)], one for each datum.

    Where q(z) is not p(z), a decoder never saw what z ~ p(z) often gives; z ~ q(z) is where it learned. Draws, not the
    means of q(z | x), are fitted, as these spread less than q(z) does.

    Args:
        vae: a model of one vector z in R^D, with q(z | x).
        x: data, `(N, *event)`.
        components: of the mixture, each with a covariance of its own.
        seed: of the draws, and of where EM starts.

    Returns:
        The mixture, of event `(D,)`, on the model's device.

    Raises:
        ValueError: if there are fewer data than components.

    References:
        Hoffman and Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Ghosh et al. (2020), From variational to deterministic autoencoders, section 4,
        https://arxiv.org/abs/1903.12436

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian()
        >>> aggregate_posterior(model.vae, model.sample(1000), components=3).sample((20,)).shape
        torch.Size([20, 2])
    """
    from sklearn.mixture import GaussianMixture  # which takes a second

    n = len(columns(x)[0])
    if not 1 <= components <= n:
        raise ValueError(f"{components} components are to be fitted to {n} data: give from 1 to {n} of them")
    with evaluating(vae), isolated(seed, "aggregate posterior"):
        z = torch.cat([q.sample() for q in encoded(vae, x)])
    mixture = GaussianMixture(components, max_iter=1000, random_state=seed).fit(z.double().cpu().numpy())
    weights, loc, covariance = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    weights, loc, scale_tril = (t.to(z) for t in (weights, loc, torch.linalg.cholesky(covariance)))
    return dist.MixtureSameFamily(dist.Categorical(weights), dist.MultivariateNormal(loc, scale_tril=scale_tril))
