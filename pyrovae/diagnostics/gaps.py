"""The inference gap: how much of log p(x) - L(x) is due to the posterior family, and how much to the encoder."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import TorchDistribution, TransformedDistribution
from pyro.distributions.transforms import AffineTransform
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.conditional import Build
from pyrovae.densities import LogDensities, log_densities
from pyrovae.draws import is_point, scores_any
from pyrovae.encoders import FullRankNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.evaluation import _CHUNK, LogLikelihood, decoded_size, evaluating, moments
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["Estimate", "Gaps", "Mean", "gaps"]

_DRAWS = 10  # of each datum in a step
_ROUND = 50  # steps, of whose second half the mean is taken
_TRIAL = 400  # draws by which a round's end is compared with its start
_RATES = [0.1, 0.025, 0.006]  # of Adam, in units of q's own width
_DAMPING = 1e-3  # of Adam, in nats for each such unit: a slope that costs less than 1e-6 nats

Data = Tensor | slice  # which of a batch
Family = Callable[[Tensor, Data], TorchDistribution]  # q of each of these data, given their parameters `(b, P)`


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

    q* maximises the datum's own L over the outputs that the encoder's network could give for it. The search starts at
    what the network does give, so that the amortisation gap is at least 0 but for the draws' error. It climbs by Adam,
    with a gradient that has no noise where q* is the posterior, in rounds of 50 steps of 10 draws each. By 400 fresh
    draws, what a round gains is its gain less a standard error: if that is positive, the next starts where it ended; if
    it is below the tolerance, the steps become a quarter as long, and the search ends when they would for the third
    time. The bounds are estimated from other draws, by the same noise for q* as for q. What the search missed counts as
    approximation in place of amortisation.

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
        Roeder et al. (2017), Sticking the landing, https://arxiv.org/abs/1703.09194

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
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, as a search would never end, not {tolerance}")
    vae.check(x)
    if log_likelihood is not None and log_likelihood.shape != (len(x),):
        raise ValueError(f"log_likelihood must be of shape ({len(x)},), not {tuple(log_likelihood.shape)}")
    device = next(vae.parameters()).device
    rows = max(_CHUNK // decoded_size(vae, x), 1)  # of x given z, at a time
    bar = tqdm(total=len(x), unit=" data", delay=3, disable=None, leave=None)
    with ModuleParameters(at_once=True, keep=False), evaluating(vae), unvalidated(), isolated(seed, "gaps"), bar:
        own, wide = _own(vae, x[:1].to(device)), None if richer is None else _richer(vae, richer)
        parts = []
        size = max(rows // _DRAWS, 1)
        for start in range(0, len(x), size):
            batch = x[start : start + size].to(device)
            known = None if log_likelihood is None else log_likelihood[start : start + size].to(device)
            search = _Search(vae, batch, tolerance, max_steps, rows)
            parts.append(_decomposed(search, own, wide, known, num_samples))
            bar.update(len(batch))
    return _joined(parts)


def _own(vae: VAE, x: Tensor) -> Encoder:
    """The VAE's encoder, if it can be optimised for each datum."""
    encoder = vae.encoder
    if not hasattr(encoder, "distribution") or not hasattr(encoder, "output"):
        raise ValueError(
            f"q is optimised for each datum through distribution(output), but {type(encoder).__name__} has no such "
            f"method: derive it from encoders.encoder.Encoder"
        )
    return _searchable(getattr(encoder, "family", encoder), vae.encode(x))


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
    return _searchable(encoder, encoder.distribution(p.sample().new_zeros(1, *encoder.network.out_shape)))


def _searchable(encoder: Encoder, q: TorchDistribution) -> Encoder:
    """The encoder, if each datum has a best member of its family, and a gradient that leads to it."""
    name, network = type(encoder).__name__, {*encoder.network.parameters()}
    if is_point(q):
        raise ValueError(f"{name} gives a point, which has no density, so that there is no bound L[q] to decompose")
    if not q.has_rsample:
        raise ValueError(
            f"draws of {name} have no pathwise gradient, by which q would be optimised for each datum: for discrete z, "
            f"compare with the exact posterior of a small model, as exact.BernoulliToy has it"
        )
    if any(weight not in network for weight in encoder.parameters()):
        raise ValueError(
            f"{name} has weights that all data share beside its network's output, so that its family differs with "
            f"them and no datum has a best member: use a flow all of whose parameters are outputs, like encoders.Planar"
        )
    return encoder


class _Search:
    """The search for the q of the largest L[q], for each datum of a batch.

    Args:
        vae: the model.
        x: data, `(B, *event)`.
        tolerance: in nats, what a round has to gain.
        max_steps: after which the search ends.
        rows: draws of x given z at a time.
    """

    def __init__(self, vae: VAE, x: Tensor, tolerance: float, max_steps: int, rows: int) -> None:
        self.vae, self.x, self.tolerance, self.max_steps, self.rows = vae, x, tolerance, max_steps, rows

    def best(self, family: Family, start: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the q* found, `(B, P)`, and whether the search had ended, `(B,)`."""
        best = start.clone()
        cuts = torch.zeros(len(best), dtype=torch.long, device=best.device)  # of the rate so far
        rates = torch.tensor(_RATES).to(best)
        for _ in range(max(self.max_steps // _ROUND, 1)):
            (left,) = (cuts < len(rates)).nonzero(as_tuple=True)
            if len(left) == 0:
                break
            end = self._round(family, left, best[left], rates[cuts[left], None])
            gain = self._gain(family, left, best[left], end)
            best[left] = torch.where(gain[:, None] > 0, end, best[left])
            cuts[left] += ~(gain > self.tolerance)  # NaN, too
        return best, cuts == len(rates)

    def log_weights(self, q: TorchDistribution, data: Data, num_samples: int, seed: int) -> Tensor:
        """log p(x, z) - log q(z), z ~ q, for these data, `(K, b)`."""
        size = max(self.rows // len(self.x[data]), 1)
        sizes = [min(size, num_samples - start) for start in range(0, num_samples, size)]
        with isolated(seed):
            return torch.cat([self._densities(q, data, n).log_weight for n in sizes])

    def _round(self, family: Family, data: Data, output: Tensor, rate: Tensor) -> Tensor:
        """Where Adam's steps lead on average, `(b, P)`, in units of 1 / sqrt F_jj, F the Fisher information of q."""
        unit = _unit(family, data, output)
        mean, square = torch.zeros_like(output), torch.zeros_like(output)
        path = []
        for step in range(1, _ROUND + 1):
            g = self._gradient(family, data, output) * unit
            mean, square = torch.lerp(g, mean, 0.9), torch.lerp(g.square(), square, 0.99)
            size = (square / (1 - 0.99**step)).sqrt() + _DAMPING
            output = output + rate * unit * mean / (1 - 0.9**step) / size
            path.append(output)
        return torch.stack(path[_ROUND // 2 :]).mean(0)

    @torch.enable_grad()
    def _gradient(self, family: Family, data: Data, output: Tensor) -> Tensor:
        """The gradient of each datum's own L by q's parameters, `(b, P)`."""
        output = output.detach().requires_grad_()
        q = family(output, data)
        densities = self._densities(q, data, _DRAWS)
        densities = densities.sticking() if scores_any(q) else densities
        return torch.autograd.grad(densities.log_weight.mean(0).sum(), output)[0]

    def _gain(self, family: Family, data: Data, before: Tensor, after: Tensor) -> Tensor:
        """L[q] after a round less that before it, by the same noise, less one standard error of this, `(b,)`."""
        seed = _seed()
        old, new = (self.log_weights(family(output, data), data, _TRIAL, seed) for output in (before, after))
        return (new - old).mean(0) - _error(new - old)

    def _densities(self, q: TorchDistribution, data: Data, num_samples: int) -> LogDensities:
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", q)

        return log_densities(self.vae.model, guide, self.x[data], num_samples=num_samples)


@torch.enable_grad()
def _unit(family: Family, data: Data, output: Tensor) -> Tensor:
    """1 / sqrt F_jj, at most 1, F_jj = E_q[(d/d lambda_j log q(z; lambda))^2]: how far apart parameters tell, `(b, P)`.

    Of a mean it is the standard deviation, so that steps fit narrow posteriors as they do wide ones.
    """
    if not scores_any(family(output, data)):
        return torch.ones_like(output)
    draws = output.detach().expand(_TRIAL, *output.shape).clone().requires_grad_()
    q = family(draws, data)
    (score,) = torch.autograd.grad(q.log_prob(q.sample().clone()).sum(), draws)
    return score.square().mean(0).rsqrt().clamp(max=1)


def _decomposed(search: _Search, own: Encoder, wide: Encoder | None, known: Tensor | None, num_samples: int) -> Gaps:
    """The gaps of a batch."""
    vae, x, whole, same = search.vae, search.x, slice(None), _seed()
    output, settled = search.best(lambda output, _: own.distribution(output), vae.encoder.output(x, dim=-1))
    best = own.distribution(output)
    log_w = search.log_weights(best, whole, num_samples, same)  # (K, B)
    log_w_q = search.log_weights(vae.encode(x), whole, num_samples, same)
    evidence, influence = _evidence(log_w)
    log_w_wide = None
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
        log_w_wide = search.log_weights(family(found, whole), whole, num_samples, _seed())
        better = log_w_wide.mean(0) > log_w.mean(0)
        wide_evidence, wide_influence = _evidence(log_w_wide)
        evidence = LogLikelihood(*(torch.where(better, a, b) for a, b in zip(wide_evidence, evidence, strict=True)))
        influence = torch.where(better, wide_influence, influence)
    if known is not None:
        evidence = LogLikelihood(known.to(log_w), torch.zeros_like(log_w[0]), torch.full_like(log_w[0], math.nan))
        influence = torch.zeros_like(log_w)

    def gap(log_w: Tensor) -> Estimate:
        return Estimate(evidence.value - log_w.mean(0), _error(influence - log_w))

    return Gaps(
        log_likelihood=evidence,
        best=Estimate(log_w.mean(0), _error(log_w)),
        amortised=Estimate(log_w_q.mean(0), _error(log_w_q)),
        approximation=gap(log_w),
        amortisation=Estimate((log_w - log_w_q).mean(0), _error(log_w - log_w_q)),
        richer=None if log_w_wide is None else Estimate(log_w_wide.mean(0), _error(log_w_wide)),
        richer_approximation=None if log_w_wide is None else gap(log_w_wide),
        settled=settled,
    )


def _evidence(log_weight: Tensor) -> tuple[LogLikelihood, Tensor]:
    """log 1/K sum_k w_k, and w_k over their mean, the draws' influence on it by the delta method, `(K, B)`."""
    value = log_weight.logsumexp(0) - math.log(len(log_weight))
    influence = (log_weight - value).exp()
    return LogLikelihood(value, _error(influence), len(influence) ** 2 / influence.square().sum(0)), influence


def _error(terms: Tensor) -> Tensor:
    """Standard error of the mean of `(K, B)` over K draws."""
    return terms.std(0) / math.sqrt(len(terms))


def _seed() -> int:
    """A seed of its own for what is to be drawn more than once."""
    return int(torch.randint(2**31, ()))


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
