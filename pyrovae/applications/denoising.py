"""Denoising: what data were before they were corrupted, where it is known how."""

import math
from typing import NamedTuple

import torch
from pyro.distributions import Bernoulli, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.corruptions import Corruption, GaussianNoise, Masking, SaltAndPepper
from pyrovae.draws import is_point, scores_any
from pyrovae.evaluation import _CHUNK, density_size, evaluating, log_mean_weight
from pyrovae.one_vector import require_one_vector
from pyrovae.rng import isolated
from pyrovae.sites import base, family
from pyrovae.vae import VAE

__all__ = ["Denoised", "denoise"]

_PLAIN = "take reconstruct(x), which treats x~ as if it were a datum"


class Denoised(NamedTuple):
    """What is told of data by their corrupted versions."""

    mean: Tensor  # E[x | x~], (N, *event)
    sample: Tensor  # x ~ p(x | x~), (N, *event)
    ess: Tensor  # effective number of draws, of K, (N,)


def denoise(vae: VAE, corrupted: Tensor, corruption: Corruption, num_samples: int = 1000, seed: int = 0) -> Denoised:
    """E[x | x~] = E_p(z|x~)[E[x | x~, z]], where p(z | x~) ~ p(z) int p(x~ | x) p(x | z) dx, x~ the corrupted x.

    By importance sampling with half of the draws from q(z | x~) and half from p(z), weighted as draws of the mixture:
    the first are good where x~ looks like data, the second where it does not. (All are from a q(z | x~) that scores no
    z but its own draws, as some flows.)

    Args:
        vae: the model.
        corrupted: x~, `(N, *event)`.
        corruption: what was done to the data: `SaltAndPepper` or `Masking` of binary data, `GaussianNoise` of data with
            a normal p(x | z).
        num_samples: K, draws for each datum.
        seed: of the draws.

    Raises:
        ValueError: if the model is not of one vector z, q(z | x) has no density, or p(x~ | z) has no closed form.

    References:
        Vincent et al. (2010), Stacked denoising autoencoders, https://jmlr.org/papers/v11/vincent10a.html
        Robert and Casella (2004), Monte Carlo statistical methods, section 3.3,
        https://doi.org/10.1007/978-1-4757-4145-2

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5, scale=0.1)
        >>> noise, x = GaussianNoise(0.5), model.sample(100)
        >>> seen = noise(x)
        >>> (denoise(model.vae, seen, noise).mean - x).square().mean() < 0.7 * (seen - x).square().mean()
        tensor(True)
    """
    require_one_vector(vae, corrupted, "denoising")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    found = []
    with evaluating(vae), isolated(seed, "denoise"), unvalidated():
        p = vae.prior()
        rows = max(_CHUNK // (num_samples * density_size(vae, corrupted)), 1)  # data at a time
        for x in tqdm(corrupted.split(rows), unit=" batches", delay=3, disable=None, leave=None):
            q = vae.encode(x := x.to(next(vae.parameters())))
            if is_point(q):
                raise ValueError(f"q(z | x) is a point, by which no draw can be weighted: {_PLAIN}")
            from_p = num_samples // 2 if scores_any(q) else 0
            z = q.sample((num_samples - from_p,))
            z = torch.cat([z, p.sample((from_p, len(x)))]) if from_p else z  # (K, B, D)
            log_p, log_q = p.log_prob(z), q.log_prob(z) + math.log(num_samples - from_p)
            proposal = torch.logaddexp(log_q, log_p + math.log(from_p)) if from_p else log_q
            log_likelihood, clean = _through(corruption, vae.likelihood(z), x)  # (K, B); batch (K, B, *event)
            log_weight = log_p + log_likelihood - proposal
            weight = log_weight.softmax(0)
            drawn = clean.sample()[weight.T.multinomial(1)[:, 0], torch.arange(len(x))]
            mean = torch.einsum("kb,kb...->b...", weight, clean.mean)
            found.append((mean, drawn, log_mean_weight(log_weight).ess))
    return Denoised(*map(torch.cat, zip(*found, strict=True)))


def _through(corruption: Corruption, p: TorchDistribution, x: Tensor) -> tuple[Tensor, TorchDistribution]:
    """log p(x~ | z), `(K, B)`, and p(x | x~, z) of each element, of p(x | z) and corrupted data x~, `(B, *event)`."""
    element, _ = base(p)
    if isinstance(element, Bernoulli) and isinstance(corruption, SaltAndPepper | Masking):
        lost = corruption.probability
        one, zero = (1 - lost / 2, lost / 2) if isinstance(corruption, SaltAndPepper) else (1 - lost, 0.0)
        # With P(x~ = 1 | x) being `one` for x = 1 and `zero` for x = 0, log p(x = 1, x~ | z) and log p(x = 0, x~ | z):
        log_one = logsigmoid(element.logits) + (x * one + (1 - x) * (1 - one)).log()
        log_zero = logsigmoid(-element.logits) + (x * zero + (1 - x) * (1 - zero)).log()
        density, clean = torch.logaddexp(log_one, log_zero), Bernoulli(logits=log_one - log_zero)
    elif isinstance(element, Normal) and isinstance(corruption, GaussianNoise):
        variance, noise = element.scale.square(), corruption.scale**2
        density = Normal(element.loc, (variance + noise).sqrt()).log_prob(x)
        share = variance / (variance + noise)
        clean = Normal(torch.lerp(element.loc, x, share), (share * noise).sqrt())
    else:
        raise ValueError(
            f"p(x~ | z) of {type(corruption).__name__} on a {family(p)} p(x | z) is not known: take SaltAndPepper or "
            f"Masking for a Bernoulli one, GaussianNoise for a Normal one, or {_PLAIN}"
        )
    return density.flatten(2).sum(-1), clean
