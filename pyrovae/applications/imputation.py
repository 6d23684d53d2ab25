"""Imputation by importance sampling: p(x_mis | x_obs) of a fitted model, where only some elements of x are observed."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyrovae.arguments import whole
from pyrovae.check import unvalidated
from pyrovae.columns import arity
from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import _CHUNK, LogLikelihood, decoded_size, evaluating, log_mean_weight
from pyrovae.incomplete_vae import IncompleteVAE
from pyrovae.missing import masked
from pyrovae.model import Model
from pyrovae.one_vector import require_one_vector
from pyrovae.rng import isolated, stream
from pyrovae.sites import family

__all__ = ["Imputations", "LogScore", "importance_resampling", "log_score", "observed_log_likelihood"]

_ROUNDS = 5  # of filling in and encoding, before the draws that count
_TRIED = 10  # draws in such a round, for each filling


class Imputations(NamedTuple):
    """What the model makes of the missing elements; those that are observed are as they were."""

    x: Tensor  # S draws of p(x_mis | x_obs), `(S, N, *event)`
    mean: Tensor  # E[x | x_obs], `(N, *event)`
    std: Tensor  # standard deviation of x | x_obs, `(N, *event)`, 0 where x is observed
    log_likelihood: LogLikelihood  # log p(x_obs), its Monte Carlo error and the effective number of draws, `(N,)` each


class LogScore(NamedTuple):
    """Estimates of log p(x_mis | x_obs) for each datum, in nats, each `(N,)`."""

    value: Tensor
    std_error: Tensor  # Monte Carlo's
    bias: Tensor  # by how much value is too large on average, to first order in 1 / K
    ess: Tensor  # the smaller effective number of draws of the two that value is the difference of


def importance_resampling(
    vae: Model,
    x: Tensor,
    observed: Tensor,
    num_imputations: int = 10,
    num_samples: int = 1000,
    num_fillings: int = 20,
    seed: int = 0,
) -> Imputations:
    """x_mis ~ p(x_mis | z_k), k drawn by w_k = p(z_k) p(x_obs | z_k) / q(z_k), z_1, ..., z_K ~ q: exact as K grows.

    q(z | x) was trained on whole data. So q is the mixture of q(z | x_obs, x_mis) over M fillings x_mis, with p(z) as
    one more component that bounds the weights; w has the density of the whole mixture (the balance heuristic). The
    fillings come from five rounds of the same sampling, which starts from x_mis of p(x): a population Monte Carlo. The
    q(z | x_obs) of an `IncompleteVAE` is a component more.

    Args:
        vae: the model, of one vector z, and elements of x that are independent given z.
        x: data, `(N, *event)`; where they are not observed, anything, NaN included.
        observed: which elements are, booleans `(N, *event)`.
        num_imputations: S, draws of x_mis for each datum.
        num_samples: K, draws of z for each datum.
        num_fillings: M.
        seed: of all draws.

    Raises:
        ValueError: if the model has no density that can be weighed so, or an observed x none; if K is not above M.

    References:
        Rubin (1988), Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3
        Mattei and Frellsen (2019), MIWAE, section 3, https://arxiv.org/abs/1812.02633
        Cappe et al. (2004), Population Monte Carlo, https://doi.org/10.1198/106186004X12803
        Veach and Guibas (1995), Optimally combining sampling techniques, https://doi.org/10.1145/218380.218498

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> x = model.sample(20)
        >>> found = importance_resampling(model.vae, x, torch.arange(5).expand(20, 5) < 3)
        >>> found.x.shape, torch.equal(found.mean[:, :3], x[:, :3]), bool((found.log_likelihood.ess > 100).all())
        (torch.Size([10, 20, 5]), True, True)
    """
    whole("num_imputations", num_imputations)
    parts = []
    for x_b, o, p, log_weight in _weighted(vae, x, observed, num_samples, num_fillings, seed):
        w = log_weight.softmax(0).reshape(*log_weight.shape, *(1,) * len(p.event_shape))  # (K, B, 1, ...)
        draws, mean = p.sample(), (w * p.mean).sum(0)
        first, second = (w * draws).sum(0), (w * draws.square()).sum(0)  # moments of x | x_obs
        chosen = Categorical(logits=log_weight.mT).sample((num_imputations,))  # (S, B)
        drawn = draws[chosen, torch.arange(len(x_b), device=x_b.device)]  # (S, B, *event)
        std = (second - first.square()).clamp(min=0).sqrt()
        parts.append([torch.where(o, x_b, drawn), torch.where(o, x_b, mean), torch.where(o, 0.0, std)])
        parts[-1] += log_mean_weight(log_weight)
    drawn, *others = zip(*parts, strict=True)
    mean, std, *log_likelihood = map(torch.cat, others)
    return Imputations(torch.cat(drawn, 1), mean, std, LogLikelihood(*log_likelihood))


def observed_log_likelihood(
    vae: Model, x: Tensor, observed: Tensor, num_samples: int = 1000, num_fillings: int = 20, seed: int = 0
) -> LogLikelihood:
    """log p(x_obs) ~ log 1/K sum_k p(z_k) p(x_obs | z_k) / q(z_k), z_k ~ q; arguments and q of `importance_resampling`.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> x = model.sample(20)
        >>> found = observed_log_likelihood(model.vae, x, torch.ones(20, 5, dtype=torch.bool))
        >>> (found.value - model.log_likelihood(x)).abs().max() < 0.2
        tensor(True)
    """
    batches = _weighted(vae, x, observed, num_samples, num_fillings, seed)
    parts = [log_mean_weight(log_weight) for _, _, _, log_weight in batches]
    return LogLikelihood(*map(torch.cat, zip(*parts, strict=True)))


def log_score(
    vae: Model,
    x: Tensor,
    observed: Tensor,
    scored: Tensor,
    num_samples: int = 1000,
    num_fillings: int = 20,
    seed: int = 0,
) -> LogScore:
    """log p(x_mis | x_obs) = log p(x_mis, x_obs) - log p(x_obs), of elements that are known but were not shown.

    Each term is estimated by draws of its own, so that those of the first may know x_mis. Both are too small on
    average, by about half the square of their standard error; what is left of that in the difference is `bias`.

    Args:
        vae: the model, as that of `importance_resampling`.
        x: data, `(N, *event)`.
        observed: which elements are shown, booleans `(N, *event)`.
        scored: which others are x_mis, booleans `(N, *event)`.
        num_samples: K, draws of z for each datum and term.
        num_fillings: M.
        seed: of all draws.

    References:
        Gneiting and Raftery (2007), Strictly proper scoring rules, https://doi.org/10.1198/016214506000001437

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> left = torch.arange(5).expand(20, 5) < 3
        >>> log_score(model.vae, model.sample(20), left, ~left).value.shape
        torch.Size([20])
    """
    whole = observed_log_likelihood(vae, x, observed | scored, num_samples, num_fillings, stream(seed, "whole"))
    part = observed_log_likelihood(vae, x, observed, num_samples, num_fillings, stream(seed, "part"))
    variances = whole.std_error.square(), part.std_error.square()
    bias = (variances[1] - variances[0]) / 2
    return LogScore(whole.value - part.value, sum(variances).sqrt(), bias, torch.minimum(whole.ess, part.ess))


def require_imputable(vae: Model, x: Tensor, observed: Tensor) -> None:
    """Refuse a model of which p(x_mis | x_obs) is not to be had so.

    Raises:
        ValueError: that tells why.
    """
    if x.shape != observed.shape or observed.dtype != torch.bool or not len(x):
        raise ValueError(
            f"imputation takes data (N, *event) with booleans of the same shape, at least one datum, not "
            f"{tuple(x.shape)} and {observed.dtype} {tuple(observed.shape)}"
        )
    if not isinstance(vae, IncompleteVAE):
        require_one_vector(vae, x if arity(vae) == 1 else (x, observed), "imputation")
    with evaluating(vae), isolated(0):
        q = posterior(vae, *ready(vae, x[:1], observed[:1]))
        masked(vae.likelihood(q.sample()), observed[:1])
    if is_point(q) or not scores_any(q):
        raise ValueError(
            f"imputation weighs draws by the density of q(z | x) at any z, which {family(q)} does not have: take "
            f"another encoder, such as DiagonalNormal"
        )


def ready(vae: Model, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Data on the model's device, with 0 in place of what is missing, and what is observed."""
    like = next(vae.parameters())
    return torch.where(observed, x, 0.0).to(like), observed.to(like.device)


def posterior(vae: Model, x: Tensor, observed: Tensor) -> TorchDistribution:
    """q(z | x) of data that were filled in; of a model of incomplete data q(z | x_obs)."""
    return vae.encode(x, observed) if isinstance(vae, IncompleteVAE) else vae.encode(x)


def _weighted(
    vae: Model, x: Tensor, observed: Tensor, num_samples: int, num_fillings: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, TorchDistribution, Tensor]]:
    """For each batch x, observed, p(x | z_k) `(K, B)` and log w_k `(K, B)`."""
    if not 1 <= num_fillings < num_samples:
        raise ValueError(f"num_fillings must be at least 1, and below num_samples, not {num_fillings} of {num_samples}")
    require_imputable(vae, x, observed)
    batch_size = max(_CHUNK // (num_samples * decoded_size(vae, x)), 1)
    bar = tqdm(total=len(x) * num_samples, unit=" draws", unit_scale=True, delay=3, disable=None, leave=None)
    with evaluating(vae), isolated(seed, "imputation"), unvalidated(), bar:
        for batch in zip(x.split(batch_size), observed.split(batch_size), strict=True):
            x_b, o = ready(vae, *batch)
            components = _components(vae, x_b, o, num_fillings)
            yield x_b, o, *_drawn(vae, x_b, o, components, num_samples)[1:]
            bar.update(len(x_b) * num_samples)


def _components(vae: Model, x: Tensor, observed: Tensor, num_fillings: int) -> list[TorchDistribution]:
    """q(z | x_obs, x_mis) of M fillings, q(z | x_obs) where there is one, batch `(B,)` each."""
    known = torch.ones_like(observed)  # of what is filled in

    def filled(z: Tensor) -> list[TorchDistribution]:
        return [posterior(vae, torch.where(observed, x, draw), known) for draw in vae.likelihood(z).sample()]

    own = [posterior(vae, x, observed)] if isinstance(vae, IncompleteVAE) or observed.all() else []
    if observed.all():
        return own
    components = own + filled(vae.prior().sample((num_fillings, len(x))))
    for _ in range(_ROUNDS):
        z, _, log_weight = _drawn(vae, x, observed, components, _TRIED * num_fillings)
        chosen = Categorical(logits=log_weight.mT).sample((num_fillings,))  # (M, B)
        components = own + filled(z[chosen, torch.arange(len(x), device=x.device)])
    return components


def _drawn(
    vae: Model, x: Tensor, observed: Tensor, components: list[TorchDistribution], num_samples: int
) -> tuple[Tensor, TorchDistribution, Tensor]:
    """K draws z `(K, B, D)` of the mixture with p(z), p(x | z_k) and log w_k, `(K, B)` each."""
    prior = vae.prior()
    share = max(num_samples // 20, 1)  # of p(z)
    counts = [len(part) for part in torch.arange(num_samples - share).tensor_split(len(components))]
    mixture = [*zip(counts, components, strict=True), (share, prior.expand((len(x),)))]
    z = torch.cat([q.sample((n,)) for n, q in mixture])
    log_q = torch.stack([q.log_prob(z) + torch.tensor(n / num_samples).log() for n, q in mixture]).logsumexp(0)
    p = vae.likelihood(z)
    return z, p, prior.log_prob(z) + masked(p, observed).log_prob(x) - log_q
