"""What every objective is: a bound on log p(x), a reduction of the log-densities, times a gradient estimator."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.infer
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.densities import LogDensities, Program, log_densities
from pyrovae.draws import has_score, is_point, scores_any
from pyrovae.gradient import Gradient, mean_over_groups
from pyrovae.gradients import STL, VIMCO, Concrete, DReG, Pathwise, ScoreFunction, StraightThrough
from pyrovae.parameters import ModuleParameters
from pyrovae.sites import family

__all__ = ["Objective", "log_mean"]


class Objective(pyro.infer.ELBO, nn.Module):
    """Abstract: a bound E[F(log w_1, ..., log w_K)] on log p(x), and an estimator of its gradient.

    Usable in Pyro's `SVI` and in ours, and through `differentiable_loss` with a torch optimiser. A module: parameters
    and state of the estimator, and the number of steps taken, are in its `state_dict`.

    Args:
        num_particles: K, draws of z for each datum.
        gradient: the estimator; by default the first of those that the class lists.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: if the estimator does not fit the bound; the message names those that do.
    """

    faithful = True  # whether its draws are draws of q(z | x), from which the ELBO can be told too
    additive = True  # whether it is a sum over data
    routed = False  # whether it weights the gradients by theta and through z differently
    numbers: tuple[str, ...] = ("step",)  # attributes that a compiled step takes as they are in each step
    num_data: int | None = None  # N, of which a step has some, as `fit` tells it
    estimators: tuple[type[Gradient], ...] = (Pathwise, STL, DReG, ScoreFunction, VIMCO, Concrete, StraightThrough)

    def __init__(
        self,
        num_particles: int = 10,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        nn.Module.__init__(self)
        whole("num_particles", num_particles)
        whole("max_plate_nesting", max_plate_nesting)
        if chunk is not None:
            whole("chunk", chunk)
        pyro.infer.ELBO.__init__(self, num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        self.gradient = self.estimators[0]() if gradient is None else gradient
        if not isinstance(self.gradient, Gradient):
            raise ValueError(f"gradient must be an estimator such as gradients.STL(), not {gradient!r}")
        if self.gradient.needs is not None and not isinstance(self.gradient, self.estimators):
            raise ValueError(
                f"{type(self).__name__} cannot be had with {type(gradient).__name__}, {self.why_not(gradient)}: use "
                f"{_choice(self.estimators)}"
            )
        self.gradient.check(self)
        self.faithful = self.faithful and self.gradient.faithful
        self.chunk = chunk
        self.step = 0

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return f"which needs {gradient.needs}"

    @abstractmethod
    def reduce(self, terms: Tensor) -> Tensor:
        """F, over the first dimension: the terms of K draws `(K, ...)` to `(...)`."""

    def terms(self, densities: LogDensities) -> Tensor:
        """What F reduces: log-weights, `(K, ..., B)`."""
        return self.grouped(densities.log_weight)

    def grouped(self, t: Tensor) -> Tensor:
        """Draws as F takes them: `(K, B)`, or `(K, M, B)` for M groups of which the mean is taken."""
        return t

    def target(self, densities: LogDensities) -> Tensor:
        """What is maximised, for each datum, differentiable in the log-densities, `(B,)`."""
        return mean_over_groups(self.reduce(self.terms(densities)))

    def value(self, densities: LogDensities) -> Tensor:
        """The bound for each datum, `(B,)`."""
        return self.target(densities)

    def credit(self, terms: Tensor) -> Tensor:
        """Of F, what each draw is credited with by a score function, `(K, ..., B)`: all of it."""
        return self.reduce(terms).expand_as(terms)

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2 for the log-weights l, `(K, ..., B)` each."""
        raise NotImplementedError(f"{type(self).__name__} has no curvature, by which gradients.DReG weights: define it")

    def doubly_reparameterised(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the gradients by theta, and by phi through z, `(K, B)` each."""
        first, second = self.curvature(log_weight)
        return first, first - second

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised that are not the bound's own, by name, as of the last step."""
        return {}

    @property
    def warm_up(self) -> int:
        """Steps until all schedules have reached their end."""
        return 0

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """An estimate of the bound for each datum, in nats, larger is better, `(B,)`, without gradient."""
        with torch.no_grad(), ModuleParameters():
            return self.value(self.densities(model, guide, *args, faithful=True, **kwargs))

    def densities(
        self, model: Program, guide: Program, *args: Any, faithful: bool = False, **kwargs: Any
    ) -> LogDensities:
        """The log-densities that are reduced, K draws for each datum, `(K, B)`.

        Args:
            model: Pyro program p(x, z).
            guide: Pyro program q(z | x).
            args: arguments of both.
            faithful: whether to draw from q(z | x) even if the estimator draws from something else.
            kwargs: keyword arguments of both.
        """
        as_estimator = self.gradient.faithful or not faithful
        num_samples = self.num_draws * (self.gradient.copies if as_estimator else 1)
        first_dim = -1 - self.max_plate_nesting - (num_samples > 1)
        return log_densities(
            model,
            guide,
            *args,
            num_samples=num_samples,
            max_plate_nesting=self.max_plate_nesting,
            draws=self.gradient.draws(first_dim) if as_estimator else None,
            routed=self.routed or self.gradient.routed,
            chunk=self.chunk,
            **kwargs,
        )

    @property
    def num_draws(self) -> int:
        """Draws of z for each datum in all."""
        return self.num_particles

    def surrogate(self, densities: LogDensities) -> Tensor:
        """A scalar with the objective's value and gradient estimate, scaled as the programs say, summed over data."""
        self.check_sites(densities.q)
        if densities.route is not None:
            densities.route.take()
        densities, scale = self.scaled(densities)
        return (self.gradient(self, densities) * scale).sum()

    def scaled(self, densities: LogDensities) -> tuple[LogDensities, float | Tensor]:
        """Log-densities to reduce, and the scale to multiply the result with, `(B,)` or a number."""
        return densities, densities.common_scale

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the surrogate: a scalar to call `backward()` on. Counts as a step of the objective's schedules."""
        loss = -self.surrogate(self.densities(model, guide, *args, **kwargs))
        if torch.is_grad_enabled():
            self.step += 1
        return loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the objective's value, without gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the objective's value; its gradient is added to the parameters' `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps taken, for `state_dict`."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from a number of steps."""
        self.step = int(state["step"])

    def check_sites(self, q: dict[str, dict]) -> None:
        """Refuse a guide with a site that the bound, or the estimator of its gradient, is not for.

        Args:
            q: the guide's sites, as Pyro's traces have them, by name.

        Raises:
            ValueError: the message names the site, the reason, and what works.
        """
        for name, site in q.items():
            fn = site["fn"]
            if trouble := self.trouble(fn):
                raise ValueError(f"guide site '{name}' ({family(fn)}) {trouble}")
            if self.gradient.takes(fn):
                continue
            works = [e for e in self.estimators if e.takes(fn)]
            advice = _choice(works) if works else "objectives.ELBO, IWAE or RWS, which have estimators for such a site"
            raise ValueError(
                f"guide site '{name}' ({family(fn)}) {_why_not(fn)}, so {type(self.gradient).__name__} has no gradient "
                f"through it: use {advice}"
            )

    def trouble(self, fn: TorchDistributionMixin) -> str | None:
        """Why the bound is not for a guide's site of this distribution, and what is, if it is not."""
        if is_point(fn):
            return "has no density, so its draws have no weights: use objectives.ELBO, which needs none"
        return None

    _get_trace = None  # which Pyro wants: log-densities come from `log_densities`, not from its traces


def _why_not(fn: TorchDistributionMixin) -> str:
    """What may keep an estimator from a distribution."""
    if not fn.has_rsample:
        return "is not reparameterised"
    if is_point(fn):
        return "has no density"
    if not has_score(fn):
        return "has a support that moves"
    return "is not of a family that it is for" if scores_any(fn) else "has no analytic inverse to score a given z by"


def _choice(estimators: Sequence[type[Gradient]]) -> str:
    """Their names, as in a sentence."""
    *first, last = (f"gradients.{e.__name__}" for e in estimators)
    return f"{', '.join(first)} or {last}" if first else last


def log_mean(terms: Tensor) -> Tensor:
    """log 1/K sum_k exp(l_k), over the first dimension."""
    return terms.logsumexp(0) - math.log(len(terms))
