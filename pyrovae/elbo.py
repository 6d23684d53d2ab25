"""The evidence lower bound, and what is maximised in its place: weighted, with free bits, or at a capacity."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae import arguments
from pyrovae.densities import LogDensities, Program
from pyrovae.gradient import Gradient
from pyrovae.gradients import (
    REBAR,
    STL,
    VIMCO,
    Concrete,
    DReG,
    Enumerate,
    Pathwise,
    ScoreFunction,
    StraightThrough,
)
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.schedules import Schedule
from pyrovae.staging import number

__all__ = ["ELBO"]


class ELBO(Objective):
    """E_q[log p(x | z)] - KL(q(z | x) || p(z)), the evidence lower bound, by K draws for each datum.

    What is maximised may have weights: E_q[log p(x | z)] - beta KL, with the KL of each dimension (the batch's mean)
    replaced by max(KL, free_bits), or the KL (the batch's mean) by |KL - capacity|; taken of a sampled KL these are
    biased, so `analytic_kl` serves them better. `bound` is the ELBO itself. Of a guide that is a point (`Delta`) the
    log p(x, z) of that point is maximised, maximum a posteriori; it has no ELBO, and `bound` is NaN.

    Args:
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator; by default `gradients.Pathwise`.
        beta: weight of the KL, a number or a schedule in steps.
        free_bits: least KL of each latent dimension that is paid for, in nats.
        capacity: the KL aimed at, in nats, a number or a schedule in steps.
        analytic_kl: whether to take the KL in closed form at sites where there is one; `kl_terms` says where.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: if arguments do not fit together; when used, if a latent site is not reparameterised and the
            estimator needs it to be.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114
        Higgins et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow (free bits),
        https://arxiv.org/abs/1606.04934
        Burgess et al. (2018), Understanding disentangling in beta-VAE (capacity), https://arxiv.org/abs/1804.03599

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors, schedules
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> ELBO(num_particles=10).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
        >>> objective = ELBO(beta=schedules.Linear(steps=1000), analytic_kl=True)
        >>> objective.kl_terms(vae.model, vae.guide, torch.zeros(20, 5))
        {'z': 'analytic'}
    """

    numbers = ("step", "beta", "capacity")
    estimators = (Pathwise, STL, DReG, ScoreFunction, VIMCO, Enumerate, Concrete, StraightThrough, REBAR)

    def __init__(
        self,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        beta: float | Schedule = 1.0,
        free_bits: float = 0.0,
        capacity: float | Schedule | None = None,
        analytic_kl: bool = False,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        arguments.number("free_bits", free_bits, least=0)
        for name, weight in {"beta": beta, "capacity": capacity}.items():
            if not callable(weight) and (weight is not None or name == "beta"):
                arguments.number(name, weight, least=0)
        if free_bits and capacity is not None:
            raise ValueError("free_bits and capacity both say which KL is not paid for: give one of them")
        if free_bits or capacity is not None:
            self.estimators = (Pathwise,)
            self.restriction = "as free bits and capacity put the batch's mean inside a function that is not linear"
        elif analytic_kl:
            self.estimators = (Pathwise, ScoreFunction, VIMCO, Enumerate, StraightThrough)
            self.restriction = "as an analytic KL has no sampled log q"
        elif beta != 1.0:
            self.estimators = tuple(e for e in self.estimators if e is not DReG)
            self.restriction = "as beta weights log p(x | z) and log q differently"
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.beta, self.free_bits, self.capacity, self.analytic_kl = beta, free_bits, capacity, analytic_kl

    @property
    def additive(self) -> bool:
        """Whether it is a sum over data: the batch's mean KL is inside of what free bits and a capacity make of it."""
        return not self.free_bits and self.capacity is None

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return self.restriction if isinstance(gradient, ELBO.estimators) else super().why_not(gradient)

    def trouble(self, fn: TorchDistributionMixin) -> str | None:
        """Why the bound is not for a guide's site of this distribution, and what is, if it is not."""
        return None

    def reduce(self, terms: Tensor) -> Tensor:
        """The mean."""
        return terms.mean(0)

    def credit(self, terms: Tensor) -> Tensor:
        """Of F, what each draw is credited with by a score function: its own term."""
        return terms / len(terms)

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2."""
        return torch.full_like(terms, 1 / len(terms)), torch.zeros_like(terms)

    def terms(self, densities: LogDensities) -> Tensor:
        """Log p(x | z) - beta KL, of each draw, `(K, B)`."""
        return densities.reconstruction - number(lambda: self._at_step(self.beta)) * self._kl(densities)

    def target(self, densities: LogDensities) -> Tensor:
        """What is maximised, for each datum, differentiable in the log-densities, `(B,)`."""
        if self.free_bits:
            by_site = [densities.kl_per_dimension(z, self.analytic_kl) for z in densities.q]
            kl = sum(kl.clamp(min=self.free_bits).sum() for kl in by_site)
        elif self.capacity is not None:
            kl = (self._kl(densities).mean() - number(lambda: self._at_step(self.capacity))).abs()
        else:
            return super().target(densities)
        return densities.reconstruction.mean(0) - number(lambda: self._at_step(self.beta)) * kl

    def value(self, densities: LogDensities) -> Tensor:
        """The bound for each datum, `(B,)`."""
        kl = densities.rate if densities.at_a_point else self._kl(densities)
        return densities.mean(densities.reconstruction - kl)

    def scaled(self, densities: LogDensities) -> tuple[LogDensities, float | Tensor]:
        """Log-densities to reduce, if need be each with its own scale, as the ELBO is linear in them."""
        if self.additive and not densities.scaled_alike:
            return densities.scaled(), 1.0
        densities, scale = super().scaled(densities)
        if not self.additive and isinstance(scale, Tensor) and len(scale) > 1:
            raise ValueError(
                "free bits and capacity are of the batch's mean KL, so data cannot have scales of their own"
            )
        return densities, scale

    def kl_terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, str]:
        """How the KL of each latent site is had: "analytic", or "sampled" and why."""
        with torch.no_grad(), ModuleParameters():
            densities = self.densities(model, guide, *args, **kwargs)
        if not self.analytic_kl:
            return {z: "sampled: analytic_kl is off" for z in densities.q}
        found = {z: densities.analytic_kl(z) for z in densities.q}
        return {z: f"sampled: {kl}" if isinstance(kl, str) else "analytic" for z, kl in found.items()}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised that are not the bound's own, by name, as of the last step."""
        given = {"beta": self.beta, "capacity": self.capacity, "free_bits": self.free_bits}
        usual = {"beta": 1.0, "capacity": None, "free_bits": 0.0}
        last = max(self.step - 1, 0)
        return {name: self._at_step(w, last) for name, w in given.items() if w != usual[name]}

    @property
    def warm_up(self) -> int:
        """Steps until all schedules have reached their end."""
        return max((s.steps for s in (self.beta, self.capacity) if isinstance(s, Schedule)), default=0)

    def _kl(self, densities: LogDensities) -> Tensor:
        """Log q(z | x) - log p(z), or its expectation at sites where that is known, `(K, B)`."""
        if not self.analytic_kl:
            return densities.kl
        found = {z: densities.analytic_kl(z) for z in densities.q}
        sampled = {z: densities.log_posterior[z] - densities.log_prior[z] for z in found}
        return sum(sampled[z] if isinstance(kl, str) else kl for z, kl in found.items())

    def _at_step(self, weight: float | Schedule, step: int | None = None) -> float:
        return weight(self.step if step is None else step) if isinstance(weight, Schedule) else weight
