"""Annealed importance sampling: log p(x) from below and, for simulated data, from above.

Chains move along f_b(z) = f_0(z)^(1 - b) p(x, z)^b, from f_0 = p(z) or q(z | x) at the inverse temperature b = 0 to the
posterior at b = 1, by Hamiltonian Monte Carlo, and collect log w = sum_t (b_(t+1) - b_t) log(p(x, z_t) / f_0(z_t)).
From draws of f_0 the mean of w is p(x); from draws of p(z | x), and backwards, the mean of 1 / w is 1 / p(x). Both are
exact for any number of temperatures as long as no step size depends on the chain that takes it, and none does
(`chains.Chains`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.diagnostics.chains import Schedule, Start, chains
from pyrovae.diagnostics.predictive import replicate
from pyrovae.diagnostics.unconstrained import unconstrained
from pyrovae.evaluation import LogLikelihood, evaluating, log_mean_weight
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["AIS", "BDMC", "Agreement", "agreement", "ais", "bdmc", "linear_schedule", "sigmoidal_schedule"]


class AIS(NamedTuple):
    """Estimates of log p(x) by annealed importance sampling, for each datum, in float64, each `(N,)`."""

    value: Tensor  # log 1/K sum_k w_k, in nats, on average at most log p(x)
    std_error: Tensor  # of value, from K chains, by the delta method; NaN for K = 1
    ess: Tensor  # effective number of chains, of K
    acceptance: Tensor  # probability that a proposal was accepted, the mean over chains and temperatures


class BDMC(NamedTuple):
    """Bounds on log p(x) of N data drawn from the model, in nats, in float64, and how far apart they are."""

    x: Tensor  # the data, (N, *event)
    lower: Tensor  # log 1/K sum_k w_k of chains from f_0, on average at most log p(x), (N,)
    lower_std_error: Tensor  # of lower, from K chains, (N,)
    upper: Tensor  # -log 1/K sum_k 1/w_k of chains from the z that x was drawn from, on average at least log p(x), (N,)
    upper_std_error: (
        Tensor  # of upper given that z, which the chains share; what another z would give is left out, (N,)
    )
    gap: Tensor  # mean of upper - lower over the data, ()
    gap_std_error: Tensor  # of gap, from its spread over the data, which has all errors in it, ()
    acceptance: Tensor  # probability that a proposal was accepted, the mean over chains, ways and temperatures, (N,)


class Agreement(NamedTuple):
    """How much two estimates of log p(x) differ, for each datum, each `(N,)`."""

    difference: Tensor  # first - second, in nats
    std_error: Tensor  # of difference


def linear_schedule(num_temperatures: int) -> Tensor:
    """b_t = t / T, t = 0, ..., T: `(T + 1,)`, in float64.

    Example:
        >>> linear_schedule(4)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    return torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)


def sigmoidal_schedule(num_temperatures: int) -> Tensor:
    """b_t = (s_t - s_0) / (s_T - s_0), s_t = sigmoid(4 (2 t / T - 1)), slow at both ends: `(T + 1,)`, in float64.

    References:
        Wu et al. (2017), On the quantitative analysis of decoder-based generative models,
        https://arxiv.org/abs/1611.04273

    Example:
        >>> sigmoidal_schedule(4)
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    s = (8 * linear_schedule(num_temperatures) - 4).sigmoid()
    return (s - s[0]) / (s[-1] - s[0])


def ais(
    vae: VAE,
    x: Tensor,
    num_chains: int = 16,
    num_temperatures: int = 500,
    schedule: Schedule = sigmoidal_schedule,
    start: Start = "prior",
    num_leapfrog: int = 5,
    target_acceptance: float = 0.65,
    seed: int = 0,
) -> AIS:
    """log p(x) ~ log 1/K sum_k w_k by annealed importance sampling, K chains for each datum.

    On average the estimate is a lower bound on log p(x), whatever the arguments, and it rises to log p(x) with the
    number of temperatures. Where the effective number of chains is small, the standard error is too small: take more
    temperatures. One temperature is importance sampling with draws of f_0.

    Each chain decodes `num_leapfrog` values of z at each temperature, and takes their gradient; 8 more chains find the
    step sizes. Constrained z are moved in unconstrained coordinates; a proposal without a finite density is rejected.
    Memory is bounded, whatever N and K.

    Args:
        vae: the model; its encoder is used by chains that start from it, and by no others.
        x: data, `(N, *event)`.
        num_chains: K, at least 2 for a standard error.
        num_temperatures: T, each with one transition.
        schedule: b_0 = 0 < ... < b_T = 1, given T: `sigmoidal_schedule`, `linear_schedule`, or one of your own.
        start: f_0: "prior" is p(z), "posterior" is q(z | x), from which the way is short, but which may miss a mode.
        num_leapfrog: steps of a transition; of the same time, more temperatures are the better use.
        target_acceptance: share of the proposals to accept, for which step sizes are set, by datum and temperature.
        seed: of the chains.

    Raises:
        ValueError: for data without a density; for discrete z, or z without unconstrained coordinates; for a start from
            a q(z | x) that has no density at any z; for numbers out of range.

    References:
        Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008
        Wu et al. (2017), On the quantitative analysis of decoder-based generative models,
        https://arxiv.org/abs/1611.04273

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(20)
        >>> estimate = ais(model.vae, x, num_temperatures=20)
        >>> bool(((estimate.value - model.log_likelihood(x)).abs() < 5 * estimate.std_error).all())
        True
    """
    options = num_chains, num_temperatures, schedule, start, num_leapfrog, target_acceptance, seed, "ais"
    found = []
    with chains(vae, x, *options, num_transitions=num_temperatures) as batches:
        for batch in batches:
            ends = batch.forwards()
            found.append([*log_mean_weight(ends.log_weight), ends.acceptance])
    return AIS(*map(torch.cat, zip(*found, strict=True)))


def bdmc(
    vae: VAE,
    num_data: int = 100,
    num_chains: int = 16,
    num_temperatures: int = 500,
    schedule: Schedule = sigmoidal_schedule,
    start: Start = "prior",
    num_leapfrog: int = 5,
    target_acceptance: float = 0.65,
    seed: int = 0,
) -> BDMC:
    """Bounds on log p(x) from both sides, of data x ~ p(x | z*), z* ~ p(z), by bidirectional Monte Carlo.

    Such a z* is an exact draw of p(z | x). Forwards, chains from f_0 give the lower bound of `ais`. Backwards, chains
    from z* give weights whose mean is 1 / p(x) over z* and chains together, so that on average -log 1/K sum_k 1/w_k is
    an upper bound. There is one z* for each datum, and all its chains start there. Each alone is a chain from an exact
    draw, and a mean of unbiased estimates is unbiased, however they depend on each other: the bound is valid for any K.
    But the chains' part of its error alone falls with K, the part that z* has does not; its error over both is seen in
    the spread over data, each of which has a z* of its own. So judge the mean over data, by `gap` and `gap_std_error`:
    on average over data drawn from the model, `lower` is at most that far below log p(x).

    On real data the lower bound alone is rigorous, as no exact draw of p(z | x) is known: a small gap here tells that
    `ais` with the same arguments is near log p(x) for data as the model draws them, and for real data as far as their
    posteriors are like those. Nor does it tell that p(x | z) is a density: one without its normaliser moves both bounds
    by as much.

    Args:
        vae: the model; its encoder is used by chains that start from it, and by no others.
        num_data: N, at least 2, for the spread.
        num_chains: K, each way.
        num_temperatures: T, each with one transition.
        schedule: b_0 = 0 < ... < b_T = 1, given T, as for `ais`; backwards it is reversed.
        start: f_0, "prior" or "posterior", as for `ais`.
        num_leapfrog: steps of a transition.
        target_acceptance: share of the proposals to accept, as for `ais`.
        seed: of the data and the chains.

    Raises:
        ValueError: as `ais`, and for fewer than 2 data.

    References:
        Grosse et al. (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
        https://arxiv.org/abs/1511.02543

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> bounds = bdmc(model.vae, num_data=20, num_temperatures=20)
        >>> bool(bounds.lower.mean() < model.log_likelihood(bounds.x).mean() < bounds.upper.mean())
        True
    """
    if num_data < 2:
        raise ValueError(f"num_data must be at least 2, to see how the bounds vary, not {num_data}")
    with evaluating(vae), isolated(seed, "simulated data"), unvalidated():
        prior = unconstrained(vae.prior())
        u = prior.density.sample((num_data,))
        x = replicate(vae, prior.to_z(u))
    options = num_chains, num_temperatures, schedule, start, num_leapfrog, target_acceptance, seed, "bdmc"
    found, done = [], 0
    with chains(vae, x, *options, num_transitions=2 * num_temperatures) as batches:
        for batch in batches:
            there, back = batch.forwards(), batch.backwards(u[done : done + len(batch.x)])
            lower, lower_std_error, _ = log_mean_weight(there.log_weight)
            minus_upper, upper_std_error, _ = log_mean_weight(back.log_weight)
            acceptance = (there.acceptance + back.acceptance) / 2
            found.append([lower, lower_std_error, -minus_upper, upper_std_error, acceptance])
            done += len(batch.x)
    lower, lower_std_error, upper, upper_std_error, acceptance = map(torch.cat, zip(*found, strict=True))
    gap = upper - lower
    gap_std_error = gap.std() / math.sqrt(num_data)
    return BDMC(x, lower, lower_std_error, upper, upper_std_error, gap.mean(), gap_std_error, acceptance)


def agreement(first: AIS | LogLikelihood, second: AIS | LogLikelihood) -> Agreement:
    """The difference of two independent estimates of log p(x), such as of `ais` and `evaluation.log_likelihood`.

    Differences beyond their errors tell that one of the two has not found all of p(z | x), mostly the smaller one: of
    two lower bounds on average, the larger is the better. Standard errors are too small where few weights count, and
    those of few chains vary: with 16, an estimate is off by 3 errors once in 110 data, not in 370.

    Args:
        first: anything with `value` and `std_error`, each `(N,)`, of N data.
        second: the same of the same data, from draws of its own.

    Raises:
        ValueError: if they are of different numbers of data.

    Example:
        >>> from pyrovae import evaluation
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(20)
        >>> d = agreement(ais(model.vae, x, num_temperatures=20), evaluation.log_likelihood(model.vae, x))
        >>> bool((d.difference.abs() < 5 * d.std_error).all())
        True
    """
    if first.value.shape != second.value.shape:
        raise ValueError(
            f"the estimates must be of the same data, but have the shapes {tuple(first.value.shape)} and "
            f"{tuple(second.value.shape)}"
        )
    return Agreement(first.value - second.value, torch.hypot(first.std_error.double(), second.std_error.double()))
