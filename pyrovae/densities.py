"""Log-densities: one vectorised pass through a guide and a model, of which every bound is a reduction.

`log_densities` runs both programs, K draws of z for each datum, and gives log p(x | z), log p(z) and log q(z | x), site
by site, in nats and free of scales. Nothing else in the library runs the programs to score them.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.chunks import Program, in_chunks, scored
from pyrovae.draws import PARTICLES, Enumerated, is_point
from pyrovae.sites import (
    Layout,
    base,
    equal,
    family,
    listed,
    log_prob,
    log_probs,
    nesting,
    sample_sites,
)
from pyrovae.staging import tracing

__all__ = ["LogDensities", "log_densities", "reduce_traces"]


class Call(NamedTuple):
    """The programs that were run, and their arguments."""

    model: Program
    guide: Program
    args: tuple
    kwargs: dict[str, Any]


class Route:
    """The way of the gradient from the model back to z ~ q(z | x), where it may be weighted draw by draw."""

    def __init__(self) -> None:
        self.factor: Tensor | None = None  # (K, B)
        self.layout: Layout | None = None
        self.taken = False

    def take(self) -> None:
        """Let one surrogate have the way, as a second one's weights would change the first one's gradient."""
        if self.taken:
            raise ValueError("these log-densities belong to another surrogate already: draw them anew for this one")
        self.taken = True

    def of(self, guide_trace: poutine.Trace) -> poutine.Trace:
        """The trace as the model shall see it."""
        seen = guide_trace.copy()
        for name, site in sample_sites(guide_trace).items():
            if site["value"].requires_grad:
                seen.nodes[name] = {**site, "value": self._through(site["value"], site["fn"].event_dim)}
        return seen

    def _through(self, z: Tensor, event_dim: int) -> Tensor:
        """z, through which the gradient comes back multiplied by the factor set until then."""
        z = z.view_as(z)
        z.register_hook(lambda g: g if self.factor is None else self._weigh(g, event_dim))
        return z

    def _weigh(self, g: Tensor, event_dim: int) -> Tensor:
        return (g * self.layout.unfold(self.factor, event_dim)).reshape(g.shape)


@dataclass(frozen=True, eq=False)
class LogDensities:
    """Log-densities of a batch in nats, site by site, each `(K, B)`, free of scales (subsampling, `poutine.scale`).

    Enumerated latent variables have dimensions of their own, to the left: `(..., K, B)`.
    """

    log_likelihood: dict[str, Tensor]  # log p(x | z), by observed site
    log_prior: dict[str, Tensor]  # log p(z), by latent site
    log_posterior: dict[str, Tensor]  # log q(z | x), by latent site
    score: dict[str, Tensor]  # log q(z | x) as the draws' own density, whatever is masked or scaled in log_posterior
    scale: dict[str, float | Tensor]  # what Pyro would multiply a site's log-densities with: a number, or `(B,)`
    layout: Layout
    p: dict[str, dict]  # the model's sites; if it ran in chunks, as of the first, observed ones without distribution
    q: dict[str, dict]  # the guide's
    route: Route | None = None
    call: Call | None = None
    weight: dict[str, float | Tensor] | None = None  # what sites are multiplied with already
    chunked: bool = False  # whether the model ran for some draws at a time

    @property
    def reconstruction(self) -> Tensor:
        """Log p(x | z), summed over observed sites, `(K, B)`."""
        return sum(self.log_likelihood.values())

    @property
    def log_joint(self) -> Tensor:
        """Log p(x, z), `(K, B)`."""
        return self.reconstruction + sum(self.log_prior.values())

    @property
    def log_guide(self) -> Tensor:
        """Log q(z | x), summed over latent sites, `(K, B)`."""
        return sum(self.log_posterior.values())

    @property
    def kl(self) -> Tensor:
        """Log q(z | x) - log p(z), summed over latent sites, `(K, B)`; its mean is the KL divergence."""
        return self.log_guide - sum(self.log_prior.values())

    @property
    def at_a_point(self) -> bool:
        """Whether a site of the guide is a point, which has no density: then there is neither a KL nor a bound."""
        return any(is_point(site["fn"]) for site in self.q.values())

    @property
    def rate(self) -> Tensor:
        """`kl` where there is one, else NaN, `(K, B)`."""
        return torch.full_like(self.kl, math.nan) if self.at_a_point else self.kl

    @property
    def totals(self) -> Tensor:
        """E_q[log p(x | z)] and the KL from the draws, summed over data, `(2,)`, without gradient."""
        with torch.no_grad():
            return torch.stack([self.mean(t).sum() for t in (self.reconstruction, self.rate)])

    @property
    def log_weight(self) -> Tensor:
        """Log w = log p(x, z) - log q(z | x), `(K, B)`."""
        return self.reconstruction - self.kl

    def mean(self, t: Tensor) -> Tensor:
        """E_q[t | x] from the draws, `(..., K, B)` to `(B,)`: exact over what is enumerated, the mean over K draws."""
        enumerated = [self.score[z] for z, site in self.q.items() if site["infer"].get("enumerated")]
        if enumerated:
            t = (sum(enumerated).exp() * t).flatten(0, -3).sum(0)
        return t.mean(0)

    @property
    def common_scale(self) -> float | Tensor:
        """The scale that all sites share: a number, or one for each datum, `(B,)`.

        Raises:
            ValueError: if they differ, as no scale may stand inside a log-sum-exp.
        """
        if not self.scaled_alike:
            found = ", ".join(f"'{name}' {scale}" for name, scale in self.scale.items())
            raise ValueError(
                f"sites have different scales ({found}), but a bound that is not linear in the log-weight has room for "
                f"one, outside of it: scale them alike, or use objectives.ELBO, whose beta weights the KL"
            )
        return next(iter(self.scale.values()))

    @property
    def scaled_alike(self) -> bool:
        """Whether all sites have the same scale."""
        first, *others = self.scale.values()
        return all(equal(first, scale) for scale in others)

    def scaled(self) -> "LogDensities":
        """The same with each site's log-densities times its scale: for what is linear in them."""
        p, prior, q = (
            {name: t * self.scale[name] for name, t in terms.items()}
            for terms in (self.log_likelihood, self.log_prior, self.log_posterior)
        )
        return replace(self, log_likelihood=p, log_prior=prior, log_posterior=q, weight=self.scale)

    def sticking(self) -> "LogDensities":
        """The same with log q differentiated through z alone, not by the guide's parameters.

        With h = d/dz log q at fixed parameters, what later sites make of z included, log q becomes <h, z> with h
        constant. h is taken from the guide's own distributions, so the guide need not run again.

        Raises:
            ValueError: if log q does not tell where z lies.

        References:
            Roeder et al. (2017), Sticking the landing, https://arxiv.org/abs/1703.09194
        """
        if not torch.is_grad_enabled():
            return self
        by_z = self._partial_derivatives()
        log_q = {z: t.detach() for z, t in self.log_posterior.items()}
        for name, h in by_z.items():
            z = self.q[name]["value"]
            inner = sum_rightmost(h * (z - z.detach()), self.q[name]["fn"].event_dim)
            log_q[name] = log_q[name] + self.layout.fold(inner)
        return replace(self, log_posterior=log_q)

    def _partial_derivatives(self) -> dict[str, Tensor]:
        """d/dz log q(z | x) for each site with a gradient, the other sites' values and the parameters held fixed."""
        drawn = {name: site["value"] for name, site in self.q.items() if site["value"].requires_grad}
        copies = {name: z.detach().requires_grad_() for name, z in drawn.items()}  # as the value that is scored
        log_q = 0
        for name, site in self.q.items():
            log_q_i = log_prob({**site, "value": copies.get(name, site["value"])})
            log_q = log_q + self._weighted(name, self.layout.fold(log_q_i)).sum()
        through: dict[str, Tensor] = {}  # derivatives by the value that the parameters of later sites depend on

        def keep(name: str) -> Callable[[Tensor], Tensor]:
            return lambda g: (through.update({name: g}), torch.zeros_like(g))[1]  # nothing goes on to earlier sites

        hooks = [z.register_hook(keep(name)) for name, z in drawn.items()]
        try:
            inputs = [*copies.values(), *drawn.values()]
            known = drawn and log_q.requires_grad
            direct = torch.autograd.grad(log_q, inputs, retain_graph=True, allow_unused=True) if known else [None]
        finally:
            for hook in hooks:
                hook.remove()
        for name, g in zip(drawn, direct, strict=False):  # of the copies, which come first
            if g is None:
                raise ValueError(
                    f"log q at guide site '{name}' ({family(self.q[name]['fn'])}) does not tell where z lies, so it "
                    f"has no gradient through z: use gradients.Pathwise"
                )
        return {name: g + through.get(name, 0.0) for name, g in zip(drawn, direct, strict=False)}

    def split(self, theta: Tensor, phi: Tensor) -> Tensor:
        """Sum over draws of log p(x, z) and -log q(z | x), with weights of its own for each network, `(B,)`.

        Args:
            theta: weights of the gradient of log p(x, z) by the model's parameters, `(K, B)`.
            phi: weights of the gradient through z and by the guide's parameters, `(K, B)`.
        """
        # So that phi / theta is finite; no more is lost than float32 rounds away.
        theta = torch.where(theta.abs() < 1e-20, 1e-20, theta)
        if torch.is_grad_enabled():
            self.route.factor = phi / theta
        return (theta * self.log_joint - phi * self.log_guide).sum(0)

    def analytic_kl(self, name: str) -> Tensor | str:
        """KL(q(z | x) || p(z)) of a site in closed form, given the sites before it, `(K, B)`; or why there is none."""
        p, q = self.p[name], self.q[name]
        if reason := self._order(name):
            return reason
        if is_point(q["fn"]):
            return f"{family(q['fn'])} has no density, so no divergence from one"
        self._check_whole(name)
        shape = torch.broadcast_shapes(q["fn"].batch_shape, p["fn"].batch_shape)
        try:  # of one shape, as PyTorch's divergence of Bernoullis does not broadcast
            kl = kl_divergence(*(fn if fn.batch_shape == shape else fn.expand(shape) for fn in (q["fn"], p["fn"])))
        except NotImplementedError:
            return f"no closed form for {family(q['fn'])} and {family(p['fn'])}"
        return self._weighted(name, self.layout.fold(scale_and_mask(kl, 1.0, q["mask"])))

    def kl_per_dimension(self, name: str, analytic: bool) -> Tensor:
        """KL of each element of a site, the mean over draws and data, `(D,)`.

        Raises:
            ValueError: if prior or posterior does not factorise over the elements.
        """
        self._check_whole(name)
        p, q = self.p[name], self.q[name]
        n = q["fn"].event_dim
        (p_fn, p_n), (q_fn, q_n) = (base(site["fn"]) for site in (p, q))
        if not p_n == q_n == n:
            raise ValueError(
                f"free bits need a KL for each dimension, but at site '{name}' {family(q['fn'])} or "
                f"{family(p['fn'])} does not factorise"
            )
        if analytic and not isinstance(self.analytic_kl(name), str):
            kl = kl_divergence(q_fn, p_fn)
        else:
            kl = q_fn.log_prob(q["value"]) - p_fn.log_prob(p["value"])
        kl = scale_and_mask(kl, 1.0, q["mask"][(..., *(None,) * n)] if isinstance(q["mask"], Tensor) else q["mask"])
        draws_and_data = [dim - n for dim in (self.layout.particle_dim, self.layout.data_dim) if dim is not None]
        return kl.mean(draws_and_data).flatten()

    def vectors(self, name: str) -> Tensor:
        """The draws of a latent site as vectors, `(K, B, D)`."""
        return self.layout.vectors(self.q[name]["value"], self.q[name]["fn"].event_dim)

    def prior(self, name: str) -> TorchDistribution:
        """p(z) of a latent site, given those that it depends on, one for each of its draws."""
        self._check_whole(name)
        z, fn = self.q[name]["value"], self.p[name]["fn"]
        return fn.expand(z.shape[: z.dim() - fn.event_dim])

    def _weighted(self, name: str, t: Tensor) -> Tensor:
        return t * self.weight[name] if self.weight else t

    def _check_whole(self, name: str) -> None:
        """Refuse a p(z) that differs from draw to draw where it is not known of all."""
        if self.chunked and len(self.p[name]["fn"].batch_shape) >= -self.layout.particle_dim:
            raise ValueError(
                f"the model's distribution of '{name}' depends on other latent variables, so it is known of one chunk "
                f"of draws at a time, and an analytic KL, free bits or an MMD need it of all: leave chunk out"
            )

    def _order(self, name: str) -> str | None:
        """Why the KL of a site given the sites before it is not that of the ELBO, if it is not."""
        order = list(self.log_prior), list(self.q)
        before_p, before_q = (set(names[: names.index(name)]) for names in order)
        if late := before_p - before_q:
            return f"the model draws {listed(late)} before '{name}', the guide after it"
        return None


def log_densities(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 1,
    max_plate_nesting: int = 1,
    draws: Messenger | None = None,
    routed: bool = False,
    chunk: int | None = None,
    **kwargs: Any,
) -> LogDensities:
    """Log p(x | z), log p(z) and log q(z | x) of z ~ q(z | x), from one vectorised pass through guide and model.

    Args:
        model: a Pyro program whose data and latent variables sit in one plate.
        guide: a Pyro program over the same latent variables.
        args: arguments of both.
        num_samples: K, draws of z for each datum; the guide's networks run once for all of them.
        max_plate_nesting: how many plates the programs nest, to the left of which the draws are laid out.
        draws: how latent values are drawn if not as the guide's distributions draw them, see `pyrovae.draws`.
        routed: whether the gradient that comes back to z from the model can be weighted, see `LogDensities.split`.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.
        kwargs: keyword arguments of both.

    Raises:
        ValueError: if the sites of model and guide differ, or do not share one plate; if the model is run in chunks and
            a run changes the next one.
        RuntimeError: if the model is to be run in chunks under the tracer.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))  # the exact posterior
        >>> log_densities(model, guide, torch.zeros(2), num_samples=3).log_weight  # log p(x), whatever z
        tensor([[-1.2655, -1.2655],
                [-1.2655, -1.2655],
                [-1.2655, -1.2655]])
    """
    chunked = chunk is not None and chunk < num_samples
    if chunked and tracing():
        raise RuntimeError(
            "chunk has the model run again in the backward pass, and a compiler would merge that with the first run "
            "and keep what is to be dropped: leave out chunk or compile"
        )
    route = Route() if routed and torch.is_grad_enabled() else None

    def run(program: Program, size: int) -> poutine.Trace:
        """A program's trace, for so many draws."""
        particles = pyro.plate(PARTICLES, size, dim=-1 - max_plate_nesting) if num_samples > 1 else nullcontext()
        with draws or nullcontext(), particles:
            return poutine.trace(program).get_trace(*args, **kwargs)

    try:
        guide_trace = run(guide, num_samples)
        seen = guide_trace if route is None else route.of(guide_trace)
        if chunked:
            found = in_chunks(run, model, seen, num_samples, chunk, max_plate_nesting)
        else:
            found = scored(run(poutine.replay(model, trace=seen), num_samples), guide_trace, max_plate_nesting)
    except ValueError as error:
        if "collide" in str(error):  # a user's plate with that of the particles
            raise ValueError(f"{nesting(max_plate_nesting)}: {error}") from error
        raise
    densities = _gathered(*found, guide_trace, route, Call(model, guide, args, kwargs), chunked)
    if isinstance(draws, Enumerated) and densities.layout.left <= draws.first_dim:
        raise ValueError(nesting(max_plate_nesting))
    return densities


def reduce_traces(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> LogDensities:
    """The log-densities of a model's trace, replayed against a guide's."""
    return _gathered(*scored(model_trace, guide_trace), guide_trace)


def _gathered(
    p: dict[str, dict],
    log_p: dict[str, Tensor],
    layout: Layout,
    guide_trace: poutine.Trace,
    route: Route | None = None,
    call: Call | None = None,
    chunked: bool = False,
) -> LogDensities:
    """What is known of the model's sites, and of the guide's."""
    q = sample_sites(guide_trace)
    if route:
        route.layout = layout
    log_q = log_probs(q, layout)
    return LogDensities(
        log_likelihood={name: log_p[name] for name in p if name not in q},
        log_prior={name: log_p[name] for name in p if name in q},
        log_posterior=log_q,
        score={
            name: log_q[name] if site["mask"] is None else layout.fold(log_prob({**site, "mask": None}))
            for name, site in q.items()
        },
        scale={name: layout.per_datum(site["scale"], name) for name, site in p.items()},
        layout=layout,
        p=p,
        q=q,
        route=route,
        call=call,
        chunked=chunked,
    )
