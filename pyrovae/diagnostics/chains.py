"""Chains of z by Hamiltonian Monte Carlo along f_b(z) = f_0(z)^(1 - b) p(x, z)^b, from b = 0 to 1.

Step sizes come from chains of their own, in a preliminary run, and stay as they are: none depends on a chain that takes
it, so that each transition leaves f_b as it is.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.diagnostics.unconstrained import unconstrained
from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import _CHUNK, density_size, evaluating
from pyrovae.rng import isolated
from pyrovae.sites import family
from pyrovae.vae import VAE

__all__ = ["Chains", "Schedule", "Start", "chains"]

Start = Literal["prior", "posterior"]
Schedule = Callable[[int], Tensor]

_PILOTS = 8  # chains of the preliminary run
_WARM_UP = 30  # transitions at b = 0, in which step sizes are found from 1
_GAIN = 0.3  # of a log step size, for an acceptance above the target
_JITTER = 0.2  # share by which steps vary: else a trajectory can close on itself, and acceptance falls all at once


class _State(NamedTuple):
    """Where K chains for each of N data are, and what is known there."""

    u: Tensor  # (K, N, n)
    log_start: Tensor  # log f_0, (K, N)
    log_ratio: Tensor  # log f_1 / f_0, (K, N)
    start_gradient: Tensor  # of log f_0 by u, (K, N, n)
    ratio_gradient: Tensor  # of log f_1 / f_0 by u, (K, N, n)

    def log_density(self, b: float) -> Tensor:
        """Log f_b, `(K, N)`."""
        return self.log_start + b * self.log_ratio

    def gradient(self, b: float) -> Tensor:
        """Of log f_b by u, `(K, N, n)`."""
        return self.start_gradient + b * self.ratio_gradient


class _Ends(NamedTuple):
    """Where K chains for each of N data have come to."""

    u: Tensor  # (K, N, n)
    log_weight: Tensor  # log w, (K, N)
    acceptance: Tensor  # probability that a proposal was accepted, the mean over chains and temperatures, (N,)


class Chains:
    """Chains for a batch of data along f_b(u) = f_0(u)^(1 - b) f_1(u)^b, f_1(u) = p(x, u), z = t(u).

    On construction step sizes are set by a preliminary run.
    """

    def __init__(
        self,
        vae: VAE,
        x: Tensor,
        groups: list[int],
        temperatures: list[float],
        start: Start,
        num_leapfrog: int,
        target_acceptance: float,
        settle: int,
        bar: tqdm,
    ) -> None:
        self.likelihood, self.x = vae.likelihood, x
        self.groups, self.temperatures, self.num_leapfrog, self.bar = groups, temperatures, num_leapfrog, bar
        self.prior, self.to_z = unconstrained(vae.prior())
        self.posterior = _posterior(vae, x, self.to_z) if start == "posterior" else None
        *self.steps, self.last_step = self._tuned(target_acceptance, settle)  # (N,) each, of steps one a temperature

    def forwards(self) -> _Ends:
        """From draws of f_0 to p(x, u); log w of a start without a density is -inf."""
        ends = self._along(self._draw, self.temperatures, self.steps)
        return ends._replace(log_weight=ends.log_weight.nan_to_num(nan=-math.inf))

    def backwards(self, u: Tensor) -> _Ends:
        """From draws u of p(u | x), `(N, n)`, to f_0, with log 1 / w for log w."""
        return self._along(lambda k: u.expand(k, *u.shape), self.temperatures[::-1], self.steps[::-1])

    def onwards(self, u: Tensor, num_transitions: int) -> _Ends:
        """From u `(K, N, n)`, so many transitions that leave p(u | x) as it is."""
        starts = iter(u.split(self.groups))
        return self._along(lambda _: next(starts), [1.0] * (num_transitions + 1), [self.last_step] * num_transitions)

    def _along(self, draw: Callable[[int], Tensor], temperatures: list[float], steps: list[Tensor]) -> _Ends:
        """The ends of chains that start from K draws, through the temperatures."""
        ends, log_weights, total = [], [], 0
        for k in self.groups:
            state, log_weight = self._at(draw(k)), 0
            for b, following, step in zip(temperatures, temperatures[1:], steps, strict=False):
                state, probability = self._move(state, b, step)
                log_weight = log_weight + (following - b) * state.log_ratio.double()
                total = total + probability.double().sum(0)
            ends.append(state.u)
            log_weights.append(log_weight)
        acceptance = total / (sum(self.groups) * (len(temperatures) - 1))
        return _Ends(torch.cat(ends), torch.cat(log_weights), acceptance)

    def _tuned(self, target: float, settle: int) -> list[Tensor]:
        """For each temperature, and after so many transitions at b = 1, the step size of each datum, `(N,)`.

        They are found by chains that are used for nothing else.
        """
        state = self._at(self._draw(_PILOTS))
        log_step, steps = torch.zeros_like(state.log_start[0]), []
        for b in [*self.temperatures[:1] * _WARM_UP, *self.temperatures, *self.temperatures[-1:] * settle]:
            state, probability = self._move(state, b, log_step.exp())
            log_step = log_step + _GAIN * (probability.mean(0) - target)
            steps.append(log_step.exp())
        return [*steps[_WARM_UP:][: len(self.temperatures)], steps[-1]]

    def _move(self, state: _State, b: float, step: Tensor) -> tuple[_State, Tensor]:
        """A transition that leaves f_b as it is, and is its own reverse; the probability to accept it, `(K, N)`."""
        log_density = state.log_density(b)
        epsilon = (step * (1 + _JITTER * (2 * torch.rand_like(log_density) - 1)))[..., None]  # (K, N, 1)
        momentum = torch.randn_like(state.u)
        u, p = state.u, momentum + epsilon / 2 * state.gradient(b)
        for _ in range(self.num_leapfrog - 1):
            u = u + epsilon * p
            p = p + epsilon * self._gradient(u, b)
        new = self._at(u + epsilon * p)
        p = p + epsilon / 2 * new.gradient(b)
        log_odds = new.log_density(b) - log_density - (p.square() - momentum.square()).sum(-1) / 2
        probability = torch.where(log_odds.isfinite(), log_odds.clamp(max=0).exp(), 0.0)
        accepted = torch.rand_like(probability) < probability
        self.bar.update(accepted.numel())
        chosen = [
            torch.where(accepted if t.dim() == 2 else accepted[..., None], t, s)
            for t, s in zip(new, state, strict=True)
        ]
        return _State(*chosen), probability

    def _draw(self, k: int) -> Tensor:
        """Draws of f_0, `(k, N, n)`."""
        return self.prior.sample((k, len(self.x))) if self.posterior is None else self.posterior.sample((k,))

    @torch.enable_grad()
    def _at(self, u: Tensor) -> _State:
        """What is known at u `(K, N, n)`."""
        u = u.detach().requires_grad_()
        terms = self._terms(u)
        gradients = [torch.autograd.grad(t.sum(), u, retain_graph=True, materialize_grads=True)[0] for t in terms]
        return _State(u.detach(), *(t.detach() for t in terms), *gradients)

    @torch.enable_grad()
    def _gradient(self, u: Tensor, b: float) -> Tensor:
        """Of log f_b by u, `(K, N, n)`."""
        u = u.detach().requires_grad_()
        log_start, log_ratio = self._terms(u)
        return torch.autograd.grad((log_start + b * log_ratio).sum(), u)[0]

    def _terms(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log f_0 and log f_1 / f_0, `(K, N)` each."""
        log_prior, log_likelihood = self.prior.log_prob(u), self.likelihood(self.to_z(u)).log_prob(self.x)
        if self.posterior is None:
            return log_prior, log_likelihood
        log_posterior = self.posterior.log_prob(u)
        return log_posterior, log_prior + log_likelihood - log_posterior


def _posterior(vae: VAE, x: Tensor, to_z: Callable[[Tensor], Tensor]) -> TorchDistribution:
    """q(u | x) in the coordinates of p(u)."""
    q = vae.encode(x)
    use = 'start="prior"'
    if is_point(q):
        raise ValueError(f"q(z | x) ({family(q)}) is a point, which has no density to start from: use {use}")
    if not scores_any(q):
        raise ValueError(f"q(z | x) ({family(q)}) has a density at its own draws alone, but chains move on: use {use}")
    density, q_to_z = unconstrained(q, "q(z | x)")
    if q_to_z != to_z:
        raise ValueError(f"q(z | x) ({family(q)}) and p(z) have no unconstrained coordinates in common: use {use}")
    return density


@contextmanager
def chains(
    vae: VAE,
    x: Tensor,
    num_chains: int,
    num_temperatures: int,
    schedule: Schedule,
    start: Start,
    num_leapfrog: int,
    target_acceptance: float,
    seed: int,
    purpose: str,
    num_transitions: int,
    settle: int = 0,
) -> Iterator[Iterator[Chains]]:
    """Chains for each batch of data, under a seed, to be moved so often, after pilots that settle at b = 1."""
    for name, number in [
        ("num_chains", num_chains),
        ("num_temperatures", num_temperatures),
        ("num_leapfrog", num_leapfrog),
    ]:
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance must be between 0 and 1, not {target_acceptance}")
    if start not in ("prior", "posterior"):
        raise ValueError(f'start is "prior" or "posterior", not {start!r}')
    temperatures = schedule(num_temperatures).tolist()
    rises = all(b < following for b, following in itertools.pairwise(temperatures))
    if len(temperatures) != num_temperatures + 1 or temperatures[0] != 0 or temperatures[-1] != 1 or not rises:
        raise ValueError(f"a schedule rises from 0 to 1 in {num_temperatures} steps, but this one gives {temperatures}")
    vae.check(x)
    rows = max(_CHUNK // density_size(vae, x), 1)
    groups = [min(rows, num_chains - first) for first in range(0, num_chains, rows)]
    transitions = _PILOTS * (_WARM_UP + num_temperatures + 1 + settle) + num_chains * num_transitions
    # What takes long shows how far it is, on a terminal, and how fast.
    bar = tqdm(total=len(x) * transitions, unit=" transitions", unit_scale=True, delay=3, disable=None, leave=None)
    parts = x.split(max(rows // max(num_chains, _PILOTS), 1))
    options = groups, temperatures, start, num_leapfrog, target_acceptance, settle, bar
    with evaluating(vae), isolated(seed, purpose), unvalidated(), bar:
        yield (Chains(vae, batch.to(next(vae.parameters())), *options) for batch in parts)
