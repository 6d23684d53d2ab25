"""The best posterior of single data: of the encoder's family, what q(z | x) would be without amortisation."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.densities import LogDensities, log_densities
from pyrovae.draws import is_point, scores_any
from pyrovae.encoders.encoder import Encoder
from pyrovae.evaluation import _CHUNK, density_size, evaluating, std_error
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Search", "refined", "searching"]

_DRAWS = 10  # of each datum in a step
_ROUND = 50  # steps, of whose second half the mean is taken
_TRIAL = 400  # draws by which a round's end is compared with its start
_RATES = [0.1, 0.025, 0.006]  # of Adam, in units of q's own width
_DAMPING = 1e-3  # of Adam, in nats for each such unit: a slope that costs less than 1e-6 nats

Data = Tensor | slice  # which of a batch
Family = Callable[[Tensor, Data], TorchDistribution]  # q of each of these data, given their parameters `(b, P)`


def refined(vae: VAE, x: Tensor, tolerance: float = 0.01, max_steps: int = 5000, seed: int = 0) -> TorchDistribution:
    """q*(z) = argmax of E_q[log p(x, z) - log q(z)] over the encoder's family, for each datum by itself.

    The search starts at q(z | x) and climbs by Adam, with a gradient that has no noise where q* is the posterior, in
    rounds of 50 steps of 10 draws each. By 400 fresh draws, what a round gains is its gain less a standard error: if
    that is positive, the next starts where it ended; if it is below the tolerance, the steps become a quarter as long,
    and the search ends when they would for the third time.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        tolerance: in nats, what a round has to gain.
        max_steps: after which a search ends at the latest.
        seed: of all draws.

    Returns:
        q*, batch `(N,)`, event `(D,)`.

    Raises:
        ValueError: if z is discrete or a point, so that there is no gradient to climb or no bound; if the family has
            weights that all data share, so that no datum has a best member of its own.

    References:
        Cremer et al. (2018), Inference suboptimality in variational autoencoders, https://arxiv.org/abs/1801.03558
        Roeder et al. (2017), Sticking the landing, https://arxiv.org/abs/1703.09194

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=1, data_dim=5)  # of D = 1 the posterior is in the family
        >>> x = model.sample(20)
        >>> (refined(model.vae, x).mean - model.posterior(x).mean).abs().max() < 0.05
        tensor(True)
    """
    found = []
    with searching(vae, x, tolerance, max_steps, seed, "refined") as searches:
        for search in searches:
            output, _ = search.best_own()
            found.append(output)
        return search.own.distribution(torch.cat(found))


@contextmanager
def searching(
    vae: VAE,
    x: Tensor,
    tolerance: float,
    max_steps: int,
    seed: int,
    purpose: str,
    wide: Callable[[], Encoder] | None = None,
) -> Iterator[Iterator["Search"]]:
    """Searches for each batch of data, under a seed.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        tolerance: in nats, what a round has to gain.
        max_steps: after which a search ends at the latest.
        seed: of all draws.
        purpose: what is drawn for.
        wide: makes an encoder of another family to be searched, too.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, as a search would never end, not {tolerance}")
    vae.check(x)
    like = next(vae.parameters())
    with ModuleParameters(), evaluating(vae), unvalidated(), isolated(seed, purpose):
        own, other = _own(vae, first := x[:1].to(like)), None if wide is None else wide()
        sizes = [density_size(vae, x), vae.encoder.output(first, dim=-1).numel()]  # what a draw takes, and q
        sizes += [] if other is None else [math.prod(other.network.out_shape)]
        rows = max(_CHUNK // max(sizes), 1)  # of x given z, at a time
        bar = tqdm(x.split(max(rows // _DRAWS, 1)), unit=" batches", delay=3, disable=None, leave=None)
        yield (Search(vae, own, other, batch.to(like), tolerance, max_steps, rows) for batch in bar)


def _own(vae: VAE, x: Tensor) -> Encoder:
    """The VAE's encoder, or what it starts from, if it can be optimised for each datum."""
    encoder = vae.encoder
    if not hasattr(encoder, "distribution") or not hasattr(encoder, "output"):
        raise ValueError(
            f"q is optimised for each datum through distribution(output), but {type(encoder).__name__} has no such "
            f"method: derive it from encoders.encoder.Encoder"
        )
    return searchable(getattr(encoder, "family", encoder), vae.encode(x))


def searchable(encoder: Encoder, q: TorchDistribution) -> Encoder:
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


class Search:
    """The search for the q of the largest L[q], for each datum of a batch.

    Args:
        vae: the model.
        own: its encoder, or what it starts from, for its family.
        wide: an encoder of another family, if there is one.
        x: data, `(B, *event)`.
        tolerance: in nats, what a round has to gain.
        max_steps: after which the search ends.
        rows: draws of x given z at a time.
    """

    def __init__(
        self, vae: VAE, own: Encoder, wide: Encoder | None, x: Tensor, tolerance: float, max_steps: int, rows: int
    ) -> None:
        self.vae, self.own, self.wide, self.x = vae, own, wide, x
        self.tolerance, self.max_steps, self.rows = tolerance, max_steps, rows

    def best_own(self) -> tuple[Tensor, Tensor]:
        """As `best`, of the encoder's own family, from q(z | x) on."""
        return self.best(lambda output, _: self.own.distribution(output), self.vae.encoder.output(self.x, dim=-1))

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
        seed = new_seed()
        old, new = (self.log_weights(family(output, data), data, _TRIAL, seed) for output in (before, after))
        return (new - old).mean(0) - std_error(new - old)

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
    total, size = torch.zeros_like(output), max(_CHUNK // output.numel(), 1)  # draws at a time
    for start in range(0, _TRIAL, size):
        draws = output.detach().expand(min(size, _TRIAL - start), *output.shape).clone().requires_grad_()
        q = family(draws, data)
        (score,) = torch.autograd.grad(q.log_prob(q.sample().clone()).sum(), draws)
        total += score.square().sum(0)
    return (total / _TRIAL).rsqrt().clamp(max=1)


def new_seed() -> int:
    """A seed of its own for what is to be drawn more than once."""
    return int(torch.randint(2**31, ()))
