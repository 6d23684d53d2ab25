"""What z tells of x: the rate, split by the aggregate posterior q(z) = 1/N sum_n q(z | x_n) into parts."""

import math
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.diagnostics.gaps import Mean
from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import encoded, evaluating
from pyrovae.rng import isolated
from pyrovae.sites import base, family
from pyrovae.vae import VAE

__all__ = ["Information", "information"]

_BATCH = 128  # data encoded, and posteriors that score draws, at a time
_CHUNK = 2**17  # numbers in a table at a time, 0.5 MiB in float32: in a processor's cache it is several times as fast
_FULL = math.log(2)  # nats below log N, from where on half of q(z) at a draw is the 1/N of its own q(z | x)


class Information(NamedTuple):
    """The rate and its parts: the rate is the sum of the next two, of which the second is the sum of the last two."""

    rate: Mean  # E KL(q(z | x) || p(z))
    mutual_information: Mean  # E KL(q(z | x) || q(z)), of z and which of the N data it encodes; at most log N
    aggregate_kl: Mean  # KL(q(z) || p(z))
    num_data: int  # N
    total_correlation: Mean | None = None  # KL(q(z) || prod_d q(z_d))
    dimension_kl: Mean | None = None  # sum_d KL(q(z_d) || p(z_d))
    notes: tuple[str, ...] = ()  # why parts are None, and whether N is too small

    @property
    def ceiling(self) -> float:
        """log N, the greatest mutual information that N data can show."""
        return math.log(self.num_data)

    @property
    def at_ceiling(self) -> bool:
        """Whether the mutual information is within log 2 of log N, and so tells of N rather than of z."""
        return self.mutual_information.value > self.ceiling - _FULL


def information(vae: VAE, x: Tensor, num_samples: int = 2, seed: int = 0) -> Information:
    """E KL(q(z | x) || p(z)) = I_q(n; z) + KL(q(z) || p(z)), with the exact mixture q(z) = 1/N sum_n q(z | x_n).

    Where q(z | x) and p(z) factorise over dimensions, the last term is the total correlation
    KL(q(z) || prod_d q(z_d)) and the sum of KL(q(z_d) || p(z_d)). All are means over the same draws, K from each
    q(z | x_n), and the sums hold draw by draw. Each draw is scored by all N posteriors.

    For these N data no estimate has a bias. Of the population they come from they show too small a mutual information,
    by up to about E[q(z | x) / q(z)] / 2N, and too large a KL(q(z) || p(z)), by as much; near log N neither tells of
    the population.

    Args:
        vae: the model, whose encoder gives a density, of any z.
        x: data, `(N, *event)`, at least two.
        num_samples: K, draws for each datum, at least 2 for a standard error over draws.
        seed: of the draws.

    Raises:
        ValueError: for a single datum, an encoder that gives points, or a flow that can score none but its last draw.

    References:
        Hoffman and Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        Chen et al. (2018), Isolating sources of disentanglement in VAEs, https://arxiv.org/abs/1802.04942

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> x = LinearGaussian(latent_dim=1, data_dim=5).sample(1000)
        >>> model = LinearGaussian.maximum_likelihood(x, latent_dim=1)  # with q(z | x) = p(z | x), so that q(z) is p(z)
        >>> found = information(model.vae, x)
        >>> found.mutual_information.value, found.aggregate_kl.value
        (1.66, 0.00)
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    if len(x) < 2:
        raise ValueError(f"z tells which of the data it encodes, so it takes at least two of them, not {len(x)}")
    vae.check(x)
    with evaluating(vae), isolated(seed, "information"), unvalidated():
        prior, posteriors = vae.prior(), [*encoded(vae, x, _BATCH)]  # N in all
        _check(posteriors[0])
        draws = [q.sample((num_samples,)) for q in posteriors]  # (K, B, D) each
        log_own = torch.cat([q.log_prob(z) for q, z in zip(posteriors, draws, strict=True)], 1)  # log q(z | x), (K, N)
        log_prior = torch.cat([prior.log_prob(z) for z in draws], 1)  # log p(z), (K, N)
        log_q, log_product = _aggregate(posteriors, torch.cat(draws, 1))  # log q(z), log prod_d q(z_d), (K, N) each
    factors, notes = {"total_correlation": log_q - log_product, "dimension_kl": log_product - log_prior}, []
    if not _factorises(posteriors[0]):
        factors = {}
        notes.append(
            f"q(z | x) ({family(posteriors[0])}) does not factorise over dimensions, so there is no total correlation "
            f"and no dimension-wise KL"
        )
    elif not _factorises(prior):
        del factors["dimension_kl"]
        notes.append(f"p(z) ({family(prior)}) does not factorise over dimensions, so there is no dimension-wise KL")
    found = Information(
        rate=_mean(log_own - log_prior),
        mutual_information=_mean(log_own - log_q),
        aggregate_kl=_mean(log_q - log_prior),
        num_data=len(x),
        **{name: _mean(terms) for name, terms in factors.items()},
    )
    if found.at_ceiling:
        notes.append(
            f"the mutual information, {found.mutual_information.value:.2f} nats, is near log {len(x)} = "
            f"{found.ceiling:.2f}, the most that so many data can show: KL(q(z) || p(z)) as given is an upper bound"
        )
    return found._replace(notes=tuple(notes))


def _check(q: TorchDistribution) -> None:
    """Refuse what cannot score the draws of others."""
    if is_point(q):
        raise ValueError(
            "the encoder gives points, which have no density, so KL(q(z | x) || p(z)) and all of its parts are "
            "infinite: use an encoder with a density, such as encoders.DiagonalNormal"
        )
    if not scores_any(q):
        raise ValueError(
            f"each draw is scored by the posteriors of all data, but the encoder's flow ({family(q)}) can score none "
            f"but its last draw: use another encoder, such as encoders.FullRankNormal"
        )


def _factorises(fn: TorchDistribution) -> bool:
    """Whether the elements of z are independent, as far as a distribution tells."""
    return base(fn)[1] == 1


def _aggregate(posteriors: list[TorchDistribution], z: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) and sum_d log q(z_d) of draws `(K, N, D)`, `(K, N)` each; the first twice if it has no factors."""
    k, n, d = z.shape
    joint, product = [], []
    with tqdm(total=k * n, unit=" draws", unit_scale=True, delay=3, disable=None, leave=None) as bar:
        for part in z.flatten(0, 1).split(max(_CHUNK // (min(n, _BATCH) * d), 1)):  # (r, D)
            tables = (_log_factors(q, part[:, None]) for q in posteriors)  # (r, D, B) each
            log_q, log_marginals = zip(*[(t.sum(1).logsumexp(-1), t.logsumexp(-1)) for t in tables], strict=True)
            joint.append(torch.stack(log_q).logsumexp(0))
            product.append(torch.stack(log_marginals).logsumexp(0))  # (r, D)
            bar.update(len(part))
    log_q, log_marginals = (torch.cat(t).double() - math.log(n) for t in (joint, product))
    return log_q.view(k, n), log_marginals.sum(-1).view(k, n)


def _log_factors(q: TorchDistribution, z: Tensor) -> Tensor:
    """log q(z_d | x) of each datum, `(r, D, B)`, for z `(r, 1, D)`; log q(z | x), `(r, 1, B)`, if it is no product."""
    # Sums over data are twice as fast where data stand side by side.
    return base(q)[0].log_prob(z).mT.contiguous() if _factorises(q) else q.log_prob(z)[:, None]


def _mean(terms: Tensor) -> Mean:
    """The mean over draws and data, `(K, N)`."""
    terms, (k, n) = terms.double(), terms.shape
    over_draws = (terms.var(0).sum() / k).sqrt().item() / n if k > 1 else math.nan
    return Mean(terms.mean().item(), over_draws, terms.mean(0).std().item() / math.sqrt(n))
