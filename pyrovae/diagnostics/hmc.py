"""Draws of the true posterior p(z | x) by Hamiltonian Monte Carlo."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.diagnostics.annealing import sigmoidal_schedule
from pyrovae.diagnostics.chains import Start, chains
from pyrovae.evaluation import log_mean_weight
from pyrovae.vae import VAE

__all__ = ["HMC", "hmc"]

_SETTLE = 30  # transitions at p(z | x) in which its step sizes are found


class HMC(NamedTuple):
    """Draws of p(z | x) for each of N data, and how well their chains moved."""

    z: Tensor  # the ends of K chains, (K, N, D)
    acceptance: (
        Tensor  # probability that a proposal was accepted, the mean over chains and transitions at p(z | x), (N,)
    )
    ess: Tensor  # effective number of chains, of K, from which those that moved on were drawn, (N,)


def hmc(
    vae: VAE,
    x: Tensor,
    num_draws: int = 200,
    num_temperatures: int = 200,
    num_transitions: int = 20,
    start: Start = "prior",
    num_leapfrog: int = 5,
    target_acceptance: float = 0.65,
    seed: int = 0,
) -> HMC:
    """z ~ p(z | x): K chains are annealed from p(z), resampled by their weights, and moved on at p(z | x).

    Chains that start apart find modes that are apart, which a single chain does not leave; the weights give each mode
    its share. Transitions then part those that were drawn more than once. Draws are exact as K or the number of
    temperatures grows, of whatever q(z | x): where the effective number of chains is small, take more temperatures.
    `pyro.infer.MCMC(pyro.infer.NUTS(vae.model), ...)` runs on the same model, a chain of the z of all data together.

    Args:
        vae: the model; its encoder is used by chains that start from it, and by no others.
        x: data, `(N, *event)`.
        num_draws: K, one from each chain.
        num_temperatures: T, on a sigmoidal schedule, each with one transition.
        num_transitions: of each chain once it is at p(z | x), at least 1.
        start: "prior" or "posterior", as for `ais`.
        num_leapfrog: steps of a transition.
        target_acceptance: share of the proposals to accept, as for `ais`.
        seed: of the chains.

    Raises:
        ValueError: as `ais`, and for a datum that no chain reached with a finite density.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901
        Del Moral et al. (2006), Sequential Monte Carlo samplers, https://doi.org/10.1111/j.1467-9868.2006.00553.x

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(1)
        >>> z, exact = hmc(model.vae, x, num_draws=1000, num_temperatures=20).z, model.posterior(x)
        >>> bool(((z.mean(0) - exact.mean).abs() < 0.2 * exact.stddev).all())
        True
    """
    if num_transitions < 1:
        raise ValueError(f"num_transitions must be at least 1, to part draws that are alike, not {num_transitions}")
    options = num_draws, num_temperatures, sigmoidal_schedule, start, num_leapfrog, target_acceptance, seed, "hmc"
    found = []
    moves = num_temperatures + num_transitions
    with chains(vae, x, *options, num_transitions=moves, settle=_SETTLE) as batches:
        for batch in batches:
            ends = batch.forwards()
            if not ends.log_weight.isfinite().any(0).all():
                raise ValueError("no chain came to a z at which p(x, z) is finite: see whether the decoder's output is")
            ess = log_mean_weight(ends.log_weight).ess
            ends = batch.onwards(resampled(ends.u, ends.log_weight, num_draws), num_transitions)
            found.append((batch.to_z(ends.u), ends.acceptance, ess))
    z, acceptance, ess = zip(*found, strict=True)
    return HMC(torch.cat(z, 1), torch.cat(acceptance), torch.cat(ess))


def resampled(z: Tensor, log_weight: Tensor, num_draws: int) -> Tensor:
    """Of M draws `(M, N, D)` for each of N data so many, `(num_draws, N, D)`, each with probability like its weight.

    Args:
        z: draws.
        log_weight: their log-weights, `(M, N)`.
        num_draws: how many to take, with replacement.

    References:
        Rubin (1987), The calculation of posterior distributions by data augmentation: comment,
        https://doi.org/10.1080/01621459.1987.10478461
    """
    chosen = torch.multinomial(log_weight.T.softmax(1), num_draws, replacement=True).T
    return z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1]))
