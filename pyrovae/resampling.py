"""Draws of the model's own posterior, of those of the guide."""

import torch
from pyro.distributions import Categorical
from torch import Tensor

from pyrovae.densities import log_densities
from pyrovae.model import Model
from pyrovae.parameters import ModuleParameters

__all__ = ["resampled"]


@torch.no_grad()
def resampled(model: Model, x: Tensor, site: str, num_samples: int = 100) -> Tensor:
    """z ~ p(z | x) for large K: one of K draws z_k ~ q(z | x), chosen by its weight p(x, z_k) / q(z_k | x).

    Args:
        model: the model, whatever its guide.
        x: data, `(B, *event)`.
        site: the latent variable, by its name.
        num_samples: K.

    Returns:
        A draw for each datum, `(B, *event)`.

    References:
        Rubin (1988), Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> resampled(model.vae, model.sample(20), "z").shape
        torch.Size([20, 2])
    """
    with ModuleParameters():  # past Pyro's store
        densities = log_densities(model.model, model.guide, x, num_samples=num_samples)
    found = densities.q[site]
    z = found["value"].reshape(num_samples, len(x), *found["fn"].event_shape)  # (K, B, *event)
    chosen = Categorical(logits=densities.log_weight.mT).sample()  # (B,)
    return z[chosen, torch.arange(len(x), device=x.device)]
