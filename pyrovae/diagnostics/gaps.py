"""The inference gap: how much of log p(x) - L(x) is due to the posterior family, and how much to the encoder."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution, TransformedDistribution
from pyro.distributions.transforms import AffineTransform
from torch import Tensor, nn

from pyrovae.conditional import Build
from pyrovae.diagnostics.refined import Data, Search, new_seed, searchable, searching
from pyrovae.encoders import FullRankNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.evaluation import LogLikelihood, log_mean_weight, moments, std_error
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["Estimate", "Gaps", "Mean", "gaps"]


class Estimate(NamedTuple):
    """An estimate for each datum, in nats, each `(N,)`."""

    value: Tensor
    std_error: Tensor  # Monte Carlo's


class Mean(NamedTuple):
    """The mean of an estimate over data, in nats."""

    value: float
    std_error: float  # Monte Carlo's alone: the error for these data
    sampling_error: float  # the standard error for the population of which the data are draws, Monte Carlo's included


class Gaps(NamedTuple):
    """log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]), for each datum, in nats."""

    log_likelihood: LogLikelihood  # log p(x); as given, its std_error is 0 and its ess NaN
    best: Estimate  # L[q*], q* the datum's own best of the encoder's family
    amortised: Estimate  # L[q], q as the encoder gives it
    approximation: Estimate  # log p(x) - L[q*], what the family costs
    amortisation: Estimate  # L[q*] - L[q], what computing q from x costs
    richer: Estimate | None  # L[q*], q* the datum's own best of the richer family
    richer_approximation: Estimate | None  # log p(x) - L[q*] of the richer family
    settled: Tensor  # whether the search for each q* ended by the tolerance, `(N,)` of bool; else by max_steps

    def means(self) -> dict[str, Mean]:
        """The means over data of all estimates, by name."""
        estimates = {name: t for name, t in self._asdict().items() if isinstance(t, Estimate | LogLikelihood)}
        return {name: _mean(t.value.double(), t.std_error.double()) for name, t in estimates.items()}


def gaps(
    vae: VAE,
    x: Tensor,
    richer: Callable[[Build], Encoder] | None = FullRankNormal,
    log_likelihood: Tensor | None = None,
    num_samples: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 5000,
    seed: int = 0,
) -> Gaps:
    """The approximation gap log p(x) - L[q*] and the amortisation gap L[q*] - L[q] of each datum.

    q* maximises the datum's own L over the outputs that the encoder's network could give for it, as `refined` finds it.
    The search starts at what the network does give, so that the amortisation gap is at least 0 but for the draws'
    error. The bounds are estimated from other draws, by the same noise for q* as for q. What the search missed counts
    as approximation in place of amortisation.

    The richer family is searched in units of the first q*, as z = m + s u with its mean m and standard deviations s, u
    from the family, from N(u; 0, 0.7^2 I) or what else the family has for parameters near 0.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        richer: makes an encoder over R^D, given the function that builds its network: a class such as
            `encoders.FullRankNormal`, or `functools.partial(encoders.Planar, layers=8)`; or None for none.
        log_likelihood: log p(x), `(N,)`, taken to be exact, as `known.log_likelihood` or long annealing gives it.
            Unless given, it is estimated by importance sampling from the better of the q* found: on average a lower
            bound, which makes the approximation gap too small, by more than its error where q* misses a mode.
        num_samples: K, draws for each datum and bound, at least 2.
        tolerance: in nats, what a round has to gain.
        max_steps: after which a search ends at the latest.
        seed: of all draws.

    Raises:
        ValueError: if z is discrete or a point, so that there is no gradient to climb or no bound; if a family has
            weights that all data share, so that no datum has a best member of its own; if the richer one is not over
            the space of z.

    References:
        Cremer et al. (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> means = gaps(model.vae, model.sample(20)).means()  # in closed form 0.116, 0 and 0
        >>> means["approximation"].value, means["amortisation"].value, means["richer_approximation"].value
        (0.12, 0.00, 0.00)
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, for a standard error, not {num_samples}")
    if log_likelihood is not None and log_likelihood.shape != (len(x),):
        raise ValueError(f"log_likelihood must be of shape ({len(x)},), not {tuple(log_likelihood.shape)}")
    wide = None if richer is None else lambda: _richer(vae, richer)
    with searching(vae, x, tolerance, max_steps, seed, "gaps", wide) as searches:
        parts, done = [], 0
        for search in searches:
            known = None if log_likelihood is None else log_likelihood[done : done + len(search.x)].to(search.x.device)
            parts.append(_decomposed(search, known, num_samples))
            done += len(search.x)
    return _joined(parts)


def _richer(vae: VAE, richer: Callable[[Build], Encoder]) -> Encoder:
    """An encoder of this family, whose network is never called."""
    p = vae.prior()

    def build(num_outputs: Callable[[int], int]) -> nn.Module:
        network = nn.Identity()
        network.out_shape = (num_outputs(p.event_shape[0]),)
        return network

    encoder = richer(build)
    if describe(p.support) != "R^D" or describe(encoder.support) != "R^D":
        raise ValueError(
            f"z lies in {describe(p.support)} and {type(encoder).__name__} in {describe(encoder.support)}, but a "
            f"richer family is searched for z in R^D alone: leave it out by richer=None, or take one over R^D"
        )
    encoder = encoder.to(p.sample())
    return searchable(encoder, encoder.distribution(p.sample().new_zeros(1, *encoder.network.out_shape)))


def _decomposed(search: Search, known: Tensor | None, num_samples: int) -> Gaps:
    """The gaps of a batch."""
    vae, x, wide, whole, same = search.vae, search.x, search.wide, slice(None), new_seed()
    output, settled = search.best_own()
    best = search.own.distribution(output)
    log_w = search.log_weights(best, whole, num_samples, same)  # (K, B)
    log_w_q = search.log_weights(vae.encode(x), whole, num_samples, same)
    log_w_wide, better = None, log_w
    if wide is not None:
        m, s = moments(best, num_samples)

        def family(output: Tensor, data: Data) -> TorchDistribution:
            u, affine = wide.distribution(output), AffineTransform(m[data], s[data], event_dim=1, cache_size=1)
            if isinstance(u, TransformedDistribution):  # in one piece, as `scores_any` looks at all transforms
                return TransformedDistribution(u.base_dist, [*u.transforms, affine])
            return TransformedDistribution(u, affine)

        start = 0.01 * torch.randn(len(x), *wide.network.out_shape).to(output)
        found, ended = search.best(family, start)
        settled = settled & ended
        log_w_wide = search.log_weights(family(found, whole), whole, num_samples, new_seed())
        better = torch.where(log_w_wide.mean(0) > log_w.mean(0), log_w_wide, log_w)
    evidence = log_mean_weight(better)
    influence = (better - evidence.value).exp()  # of the draws, on the evidence, by the delta method
    if known is not None:
        evidence = LogLikelihood(known.to(log_w), torch.zeros_like(log_w[0]), torch.full_like(log_w[0], math.nan))
        influence = torch.zeros_like(log_w)

    def gap(log_w: Tensor) -> Estimate:
        return Estimate(evidence.value - log_w.mean(0), std_error(influence - log_w))

    return Gaps(
        log_likelihood=evidence,
        best=Estimate(log_w.mean(0), std_error(log_w)),
        amortised=Estimate(log_w_q.mean(0), std_error(log_w_q)),
        approximation=gap(log_w),
        amortisation=Estimate((log_w - log_w_q).mean(0), std_error(log_w - log_w_q)),
        richer=None if log_w_wide is None else Estimate(log_w_wide.mean(0), std_error(log_w_wide)),
        richer_approximation=None if log_w_wide is None else gap(log_w_wide),
        settled=settled,
    )


def _joined(parts: list[Gaps]) -> Gaps:
    """The gaps of all batches."""

    def join(fields: tuple) -> tuple | Tensor | None:
        first = fields[0]
        if isinstance(first, Tensor):
            return torch.cat(fields)
        return None if first is None else type(first)(*map(join, zip(*fields, strict=True)))

    return join(tuple(parts))


def _mean(value: Tensor, std_error: Tensor) -> Mean:
    """Over data, whose draws are independent."""
    n = len(value)
    return Mean(value.mean().item(), std_error.square().sum().sqrt().item() / n, value.std().item() / math.sqrt(n))
