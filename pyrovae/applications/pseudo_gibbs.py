"""Imputation by a Markov chain over what is missing and z."""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import trange

from pyrovae.applications.imputation import posterior, ready, require_imputable
from pyrovae.check import unvalidated
from pyrovae.evaluation import evaluating
from pyrovae.model import Model
from pyrovae.rng import isolated

__all__ = ["Chain", "pseudo_gibbs"]


class Chain(NamedTuple):
    """The states of a chain for each datum."""

    x: Tensor  # with x_mis after each step, `(T, N, *event)`
    accepted: Tensor  # the share of steps whose z was accepted, `(N,)`


def pseudo_gibbs(
    vae: Model, x: Tensor, observed: Tensor, num_steps: int = 100, metropolis: bool = True, seed: int = 0
) -> Chain:
    """In turn z ~ q(z | x_obs, x_mis) and x_mis ~ p(x_mis | z), T times; the chain starts at a draw of p(x).

    Pseudo-Gibbs as it is has the conditional p(x_mis | x_obs) for its limit only if q(z | x) is p(z | x). Metropolis
    within Gibbs keeps the last z unless p(x, z') q(z | x) / (p(x, z) q(z' | x)) exceeds a uniform number, and has that
    limit whatever q is. Early states are not of the limit: leave them out.

    Args:
        vae: the model, of one vector z, and elements of x that are independent given z.
        x: data, `(N, *event)`; where they are not observed, anything, NaN included.
        observed: which elements are, booleans `(N, *event)`.
        num_steps: T.
        metropolis: whether z may be rejected.
        seed: of all draws.

    Raises:
        ValueError: if the model has no density of q(z | x), or of an observed x.

    References:
        Rezende et al. (2014), Stochastic backpropagation, appendix F, https://arxiv.org/abs/1401.4082
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable models,
        https://arxiv.org/abs/1802.04826

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> chain = pseudo_gibbs(model.vae, model.sample(20), torch.arange(5).expand(20, 5) < 3)
        >>> chain.x.shape, chain.accepted.mean() > 0.5
        (torch.Size([100, 20, 5]), tensor(True))
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    require_imputable(vae, x, observed)
    x, observed = ready(vae, x, observed)
    states, accepted = [], torch.zeros(len(x), device=x.device)
    with evaluating(vae), isolated(seed, "pseudo-Gibbs"), unvalidated():
        prior = vae.prior()
        z = prior.sample((len(x),))
        p = vae.likelihood(z)
        for _ in trange(num_steps, unit=" steps", delay=3, disable=None, leave=None):
            x = torch.where(observed, x, p.sample())  # x_mis ~ p(x_mis | z)
            states.append(x)
            q = posterior(vae, x, observed)
            z_new = q.sample()  # z' ~ q(z | x)
            p_new = vae.likelihood(z_new)
            log_ratio = prior.log_prob(z_new) + p_new.log_prob(x) - q.log_prob(z_new)
            log_ratio = log_ratio - (prior.log_prob(z) + p.log_prob(x) - q.log_prob(z))
            accept = (torch.rand_like(log_ratio).log() < log_ratio) | (not metropolis)
            z = torch.where(accept[:, None], z_new, z)
            p = vae.likelihood(z)
            accepted += accept / num_steps
    return Chain(torch.stack(states), accepted)
