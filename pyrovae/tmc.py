"""Tensor Monte Carlo."""

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae.densities import LogDensities, Program, log_densities
from pyrovae.draws import Combined, scores_any
from pyrovae.gradient import Gradient
from pyrovae.gradients import Pathwise
from pyrovae.objective import Objective, log_mean

__all__ = ["TMC"]


class TMC(Objective):
    """E[log 1/K^n sum_(k_1, ..., k_n) p(x, z^k) / q(z^k | x)], over all combinations of K draws of n latent sites.

    Tensor Monte Carlo: mostly tighter than IWAE for the same draws, as each site's are combined with all the others'.
    A site whose guide depends on others is weighted by the mixture of q(z_i | z_j^k, x) over the draws k it came from:
    where that is of several sites, the bound is below log p(x) even if q(z | x) = p(z | x). For one latent site it is
    the IWAE bound.

    Args:
        num_particles: K, draws of each latent site for each datum.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: None, as combinations of draws are scored all at once.

    Raises:
        ValueError: if chunk is given.

    References:
        Aitchison (2019), Tensor Monte Carlo: particle methods for the GPU era, https://arxiv.org/abs/1806.08593

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> TMC(num_particles=5).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    faithful = False
    estimators = (Pathwise,)

    def __init__(
        self,
        num_particles: int = 10,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        if chunk is not None:
            raise ValueError(
                "TMC runs the model for combinations of draws, not for draws, of which some could be taken at a time: "
                "leave chunk out, or use objectives.IWAE"
            )
        super().__init__(num_particles, gradient, max_plate_nesting)

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return "as its terms are combinations of draws, not draws"

    def trouble(self, fn: TorchDistributionMixin) -> str | None:
        """Why the bound is not for a guide's site of this distribution, and what is, if it is not."""
        if not scores_any(fn):
            return "has no analytic inverse to score each draw by beside the others: use objectives.IWAE"
        return super().trouble(fn)

    def densities(
        self, model: Program, guide: Program, *args: Any, faithful: bool = False, **kwargs: Any
    ) -> LogDensities:
        """Log-densities of all combinations, `(K or 1, ..., K or 1, 1, B)`, the first site's draws to the right."""
        nesting = self.max_plate_nesting
        draws = Combined(-1 - nesting, self.num_particles)
        return log_densities(model, guide, *args, max_plate_nesting=nesting, draws=draws, **kwargs)

    def reduce(self, terms: Tensor) -> Tensor:
        """log 1/K sum_k w_k."""
        return log_mean(terms)

    def terms(self, densities: LogDensities) -> Tensor:
        """Log-weights of the last site's draws, the mean over those of one other site after the other, `(K, B)`."""
        own = {z: -3 - i for i, z in enumerate(densities.q)}
        factors = [*densities.log_likelihood.values(), *densities.log_prior.values()]
        factors += [-_log_mixture(densities.log_posterior[z], dim) for z, dim in own.items()]
        for dim in [*own.values()][:-1]:
            on_it = [f for f in factors if f.dim() >= -dim and f.shape[dim] > 1]
            factors = [f for f in factors if all(f is not g for g in on_it)]
            if on_it:
                factors.append(sum(on_it).logsumexp(dim, keepdim=True) - math.log(self.num_particles))
        return sum(factors).flatten(0, -2)


def _log_mixture(log_q: Tensor, dim: int) -> Tensor:
    """Log of the mean of q over the draws of other sites that it is conditional on, taken together, at dimension 1."""
    parents = [d for d in range(-log_q.dim(), -2) if d != dim and log_q.shape[d] > 1]
    if not parents:
        return log_q
    k = torch.arange(log_q.shape[parents[0]], device=log_q.device)
    together = log_q.movedim(parents, list(range(len(parents))))[(k,) * len(parents)]  # (K, rest)
    mixture = log_mean(together)
    for d in sorted(parents, reverse=True):
        mixture = mixture.unsqueeze(d)
    return mixture
