"""Evaluation: what is known of a fitted model, per datum, each number with its Monte Carlo error.

Everything here reduces the log-densities of `densities.log_densities`, in nats, larger is better. Results are fixed by
a seed; torch's random state and the model's mode (training or evaluation) are left as they were. Data may be on another
device than the model, and of another precision; results are as the model is.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.columns import Data, arguments, columns, moved, split
from pyrovae.conditional import Conditional
from pyrovae.densities import LogDensities, log_densities
from pyrovae.distributions.mixture import table_size
from pyrovae.draws import is_point
from pyrovae.model import Model
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.sites import base
from pyrovae.staging import Staged
from pyrovae.vae import VAE

__all__ = [
    "active_units",
    "bounds",
    "elbo",
    "kl_per_dimension",
    "kl_per_layer",
    "log_likelihood",
    "log_mean_weight",
    "metrics",
    "scores",
    "std_error",
]

_CHUNK = 2**22  # numbers in a decoded tensor at a time, 16 MiB in float32


class ELBO(NamedTuple):
    """Estimates of the evidence lower bound and its terms, for each datum, in nats, each `(N,)`."""

    value: Tensor  # L(x) = reconstruction - kl
    std_error: Tensor  # of value, from K draws; NaN for K = 1
    reconstruction: Tensor  # E_q[log p(x | z)], minus the distortion
    kl: Tensor  # KL(q(z | x) || p(z)), the rate


class LogLikelihood(NamedTuple):
    """Importance sampling estimates of log p(x), for each datum, each `(N,)`."""

    value: Tensor  # log p(x), in nats
    std_error: Tensor  # of value, from K draws, by the delta method; NaN for K = 1
    ess: Tensor  # effective number of draws, of K


class Scores(NamedTuple):
    """What is known of each datum."""

    elbo: ELBO
    log_likelihood: LogLikelihood


class ActiveUnits(NamedTuple):
    """Latent dimensions whose posterior mean moves with x."""

    value: int  # how many
    variance: Tensor  # Var_x(E_q[z_d | x]), `(D,)`


def elbo(vae: Model, x: Data, num_samples: int = 1, seed: int = 0, compile: bool = False) -> ELBO:
    """L(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)), each term the mean over K draws.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_samples: K, draws for each datum.
        seed: of the draws.
        compile: whether to trace the pass and compile it, which takes seconds and pays for many draws.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> elbo(vae, torch.zeros(20, 5), num_samples=100).value.shape
        torch.Size([20])
    """
    return scores(vae, x, num_samples, seed, compile).elbo


def log_likelihood(vae: Model, x: Data, num_samples: int = 5000, seed: int = 0, compile: bool = False) -> LogLikelihood:
    """log p(x) ~ log 1/K sum_k w_k, with w_k = p(x, z_k) / q(z_k | x), from exactly K draws for each datum.

    On average the estimate is a lower bound, which rises to log p(x) with K. Memory is bounded, whatever K.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_samples: K, draws for each datum, at least 2 for a standard error.
        seed: of the draws.
        compile: whether to trace the pass and compile it, which takes seconds and pays for many draws.

    References:
        Rezende et al. (2014), Stochastic backpropagation, appendix E, https://arxiv.org/abs/1401.4082
        Burda et al. (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> estimate = log_likelihood(vae, torch.zeros(20, 5), num_samples=100)
        >>> estimate.value.shape, bool((estimate.ess <= 100).all())
        (torch.Size([20]), True)
    """
    return scores(vae, x, num_samples, seed, compile).log_likelihood


def scores(vae: Model, x: Data, num_samples: int = 1000, seed: int = 0, compile: bool = False) -> Scores:
    """L(x) and log p(x), as `elbo` and `log_likelihood` have them, from the same draws, in one pass.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_samples: K, draws for each datum.
        seed: of the draws.
        compile: whether to trace the pass and compile it, which takes seconds and pays for many draws.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> bound, evidence = scores(model.vae, model.sample(20), num_samples=10)
        >>> bool((bound.value <= evidence.value).all())
        True
    """
    elbos, log_likelihoods = [], []
    for reconstruction, kl in _terms(vae, x, num_samples, seed, compile):  # (K, B) each
        log_weight = reconstruction - kl
        elbos.append([log_weight.mean(0), std_error(log_weight), reconstruction.mean(0), kl.mean(0)])
        log_likelihoods.append(log_mean_weight(log_weight))
    return Scores(
        ELBO(*map(torch.cat, zip(*elbos, strict=True))),
        LogLikelihood(*map(torch.cat, zip(*log_likelihoods, strict=True))),
    )


def log_mean_weight(log_weight: Tensor) -> LogLikelihood:
    """log 1/K sum_k w_k, its standard error by the delta method, and the effective number (sum w)^2 / sum w^2.

    Args:
        log_weight: log w of K draws for each datum, `(K, N)`.

    Example:
        >>> log_mean_weight(torch.tensor([[1.0], [3.0]]).log())  # the mean 2, its standard error 1
        LogLikelihood(value=tensor([0.6931]), std_error=tensor([0.5000]), ess=tensor([1.6000]))
    """
    k = len(log_weight)
    value = log_weight.logsumexp(0) - math.log(k)
    ratio = (log_weight - value).exp()  # of each weight to their mean
    return LogLikelihood(value, std_error(ratio), k**2 / ratio.square().sum(0))


def std_error(terms: Tensor) -> Tensor:
    """Standard error of the mean of `(K, N)` over K draws, `(N,)`; NaN for K = 1.

    Args:
        terms: of each draw and datum.

    Example:
        >>> std_error(torch.tensor([[1.0], [3.0]]))
        tensor([1.])
    """
    return (terms.var(0, correction=0) / (len(terms) - 1)).sqrt()


def bounds(
    vae: Model,
    x: Data,
    num_particles: Sequence[int],
    num_samples: int = 1000,
    seed: int = 0,
    compile: bool = False,
) -> Tensor:
    """L_K(x) = E[log 1/K sum_k w_k], with w_k = p(x, z_k) / q(z_k | x), for each K, from the same draws for all.

    Each is the mean over as many groups of K draws as there are. On average L_K(x) rises with K, from the ELBO at K = 1
    to log p(x); the estimates themselves do up to the draws' error.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_particles: the K, each at most `num_samples`.
        num_samples: draws for each datum.
        seed: of the draws, which are those of `elbo` and `log_likelihood` for as many.
        compile: whether to trace the pass and compile it, which takes seconds and pays for many draws.

    Returns:
        The bounds, in nats, `(len(num_particles), N)`.

    Raises:
        ValueError: if there is no K, or one below 1 or above `num_samples`.

    References:
        Burda et al. (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> x = model.sample(1000)
        >>> bounds(model.vae, x, [1, 10, 100]).mean(1), model.log_likelihood(x).mean().item()
        (tensor([-6.00, -5.90, -5.89], dtype=torch.float64), -5.88)
    """
    if not num_particles or not all(1 <= k <= num_samples for k in num_particles):
        raise ValueError(
            f"num_particles must be numbers from 1 to num_samples, which is {num_samples}, not {list(num_particles)}"
        )
    batches = []
    for reconstruction, kl in _terms(vae, x, num_samples, seed, compile):
        log_weight = reconstruction - kl  # (num_samples, B)
        groups = [log_weight[: num_samples // k * k].unflatten(0, (-1, k)) for k in num_particles]  # each (n, K, B)
        batches.append(torch.stack([group.logsumexp(1).mean(0) - math.log(group.shape[1]) for group in groups]))
    return torch.cat(batches, -1)


def kl_per_dimension(vae: VAE, x: Tensor) -> Tensor | None:
    """KL(q(z_d | x) || p(z_d)), the mean over data, `(D,)`; None where prior or posterior does not factorise over d.

    Args:
        vae: the model.
        x: data, `(N, *event)`.

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> kl_per_dimension(vae, torch.zeros(20, 5)).shape
        torch.Size([2])
    """
    kl = kl_of_each(vae, x)
    return None if kl is None else kl.mean(0)


def kl_of_each(vae: VAE, x: Tensor) -> Tensor | None:
    """KL(q(z_d | x) || p(z_d)), `(N, D)`; None where there is none in closed form."""
    with evaluating(vae), isolated(0):  # an encoder may draw
        p_d, p_n = base(vae.prior())
        kl = []
        for q in encoded(vae, x):
            q_d, q_n = base(q)
            if is_point(q) or not q_n == p_n == 1:
                return None
            try:
                kl.append(kl_divergence(q_d, p_d.expand(q_d.batch_shape)))
            except NotImplementedError:  # no closed form for this pair of families
                return None
        return torch.cat(kl)


def kl_per_layer(vae: Model, x: Data, num_samples: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """E_q[log q(z_l | ...) - log p(z_l | ...)] of each latent site, given what it depends on, `(N,)` each, in nats.

    Their sum is the KL of the ELBO. Where the guide draws sites in the order of the model, as a ladder does, each is
    the mean of a KL, at least 0; where it goes upwards it is what the layer adds, and may be negative.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_samples: K, draws for each datum.
        seed: of the draws, which are those of `elbo` for as many.

    References:
        Sonderby et al. (2016), Ladder variational autoencoders, https://arxiv.org/abs/1602.02282

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(20)
        >>> layers = kl_per_layer(model.vae, x)
        >>> [*layers], torch.allclose(layers["z"], elbo(model.vae, x, 100).kl)
        (['z'], True)
    """
    names = []

    def of_sites(densities: LogDensities) -> list[Tensor]:
        names[:] = densities.log_posterior
        return [densities.log_posterior[name] - densities.log_prior[name] for name in names]

    batches = [torch.stack([t.mean(0) for t in part]) for part in _terms(vae, x, num_samples, seed, False, of_sites)]
    return dict(zip(names, torch.cat(batches, 1), strict=True))


def active_units(vae: Model, x: Data, threshold: float = 0.01) -> ActiveUnits:
    """The number of latent dimensions with Var_x(E_q[z_d | x]) above the threshold.

    Args:
        vae: the model, with `encode`, q(z | x).
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        threshold: least variance of an active dimension.

    Raises:
        ValueError: for a single datum, which has no variance.

    References:
        Burda et al. (2016), Importance weighted autoencoders, section 5.2, https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> active_units(vae, torch.zeros(20, 5)).value  # all data alike: nothing moves
        0
    """
    if (n := len(columns(x)[0])) < 2:
        raise ValueError(f"a variance over data needs at least two of them, not {n}")
    with evaluating(vae), isolated(0):  # an encoder may draw, and a flow must
        means = torch.cat([_means(q) for q in encoded(vae, x)], 1)
    off = means - means.mean(1, keepdim=True)
    variance = (off[0] * off[-1]).sum(0) / (n - 1)  # of two estimates of the mean the covariance, without a bias
    return ActiveUnits(int((variance > threshold).sum()), variance)


def moments(q: TorchDistribution, num_samples: int = 64) -> tuple[Tensor, Tensor]:
    """E_q[z] and the standard deviation of each z_d, `(B, D)` each: exact where they are known, else from draws.

    Args:
        q: q(z | x) of each datum, batch `(B,)`.
        num_samples: draws for each datum where they are not known.

    Example:
        >>> import pyro.distributions as dist
        >>> moments(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    try:
        return q.mean, q.stddev
    except NotImplementedError:  # a flow's are unknown
        draws = q.sample((num_samples,))
        return draws.mean(0), draws.std(0)


def _means(q: TorchDistribution) -> Tensor:
    """E_q[z | x], `(1, B, D)`; where it is not known, two estimates of it, `(2, B, D)`."""
    try:
        return q.mean[None]
    except NotImplementedError:
        return q.sample((2, 64)).mean(1)


def metrics(
    vae: Model,
    x: Data,
    num_samples: int = 1000,
    seed: int = 0,
    per_datum: Scores | None = None,
    compile: bool = False,
) -> dict[str, float | int | list[float] | None]:
    """Means over data of all of the above, in nats, by flat names; each `_std_error` is Monte Carlo's alone.

    The KL comes from the ELBO's draws, KL per dimension from its closed form, so they agree up to the draws' error.
    What a model does not have is NaN, None or, of what few models have, not there.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        num_samples: K, draws for each datum.
        seed: of the draws.
        per_datum: scores of the same data and draws, if they are there already.
        compile: whether to trace the pass and compile it, which takes seconds and pays for many draws.
    """
    bound, evidence = per_datum or scores(vae, x, num_samples, seed, compile)
    per_dimension = kl_per_dimension(vae, x) if isinstance(vae, VAE) else None
    return {
        "elbo": _mean(bound.value),
        "elbo_std_error": _mean_error(bound.std_error),
        "log_likelihood": _mean(evidence.value),
        "log_likelihood_std_error": _mean_error(evidence.std_error),
        "log_likelihood_ess": _mean(evidence.ess),
        "reconstruction": _mean(bound.reconstruction),
        "kl": _mean(bound.kl),
        "kl_per_dimension": None if per_dimension is None else per_dimension.tolist(),
        "active_units": active_units(vae, x).value if hasattr(vae, "encode") else None,
        "num_samples": num_samples,
    }


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _mean_error(std_error: Tensor) -> float:
    """Standard error of a mean of independent estimates."""
    return std_error.double().square().sum().sqrt().item() / len(std_error)


@contextmanager
def evaluating(vae: Model) -> Iterator[None]:
    """Evaluation mode without gradients; each module's mode is restored."""
    modes = {module: module.training for module in vae.modules()}
    vae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def encoded(vae: Model, x: Data, batch_size: int = 1000) -> Iterator[TorchDistribution]:
    """q(z | x) of some data at a time, as a network may take much memory for each.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or all that the programs take, on any device and of any precision.
        batch_size: data at a time.
    """
    return (vae.encode(*moved(part, next(vae.parameters()))) for part in split(arguments(vae, x), batch_size))


def _whole(densities: LogDensities) -> list[Tensor]:
    """Log p(x | z) and log q(z | x) - log p(z), `(K, B)` each."""
    return [densities.reconstruction, densities.rate]


def _terms(
    vae: Model,
    x: Data,
    num_samples: int,
    seed: int,
    compile: bool,
    terms: Callable[[LogDensities], list[Tensor]] = _whole,
) -> Iterator[tuple[Tensor, ...]]:
    """For each batch of data, terms of the log-densities of K draws, some at a time, `(K, B)` each."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    vae.check(*(data := arguments(vae, x)))
    draws = max(_CHUNK // density_size(vae, data[0]), 1)  # of x given z, at a time
    k = min(num_samples, max(draws // len(data[0]), 64))
    batch_size, full, rest = max(draws // k, 1), *divmod(num_samples, k)

    def run(size: int, *batch: Tensor) -> list[Tensor]:
        with ModuleParameters():
            densities = log_densities(vae.model, vae.guide, *batch, num_samples=size)
        return [torch.stack(terms(densities))]  # (T, size, B)

    staged = Staged(run, "the evaluation") if compile else run
    # What takes long shows how far it is, on a terminal, and how fast.
    bar = tqdm(total=len(data[0]) * num_samples, unit=" draws", unit_scale=True, delay=3, disable=None, leave=None)
    with evaluating(vae), isolated(seed, "evaluation"), unvalidated(), bar:
        for batch in split(data, batch_size):
            batch = moved(batch, next(vae.parameters()))
            many = staged if len(batch[0]) == batch_size else run  # what is left is not worth a graph of its own
            parts = [part for _ in range(full) for part in many(k, *batch)]
            parts += run(rest, *batch) if rest else []
            bar.update(len(batch[0]) * num_samples)
            yield torch.cat(parts, 1).unbind()


def decoded_size(vae: Model, x: Tensor) -> int:
    """How many numbers p(x | z) of a datum takes: those of x, or all that the decoder gives for them."""
    return max(x[0].numel(), math.prod(getattr(getattr(vae.likelihood, "network", None), "out_shape", ())))


def density_size(vae: Model, x: Tensor) -> int:
    """How many numbers p(x, z) of a datum and a z takes: those of p(x | z), or of a mixture's table for p(z)."""
    if isinstance(vae.prior, Conditional):  # p(z | y), a vector's parameters
        return decoded_size(vae, x)
    with evaluating(vae), isolated():  # a prior may be made of the encoder
        return max(decoded_size(vae, x), table_size(vae.prior()))
