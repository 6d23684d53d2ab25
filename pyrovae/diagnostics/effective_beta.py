"""The weight of the KL that a posterior is adapted to: what beta was q(z | x) trained with?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.check import unvalidated
from pyrovae.draws import is_point
from pyrovae.evaluation import _CHUNK, density_size, evaluating, moments
from pyrovae.rng import isolated
from pyrovae.sites import family
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["EffectiveBeta", "effective_beta"]

_APART = math.log(3)  # by which the weights that means and scales tell of may be apart
_MOVED = 0.25  # nats by which scaling the means changes the KL; one dimension that is put to use changes it by 1


class EffectiveBeta(NamedTuple):
    """The weight of the KL to which q(z | x) is adapted; NaN where z is collapsed, so that nothing depends on it."""

    value: float
    std_error: float  # of value, over draws and data
    location: float  # by the posterior means alone
    scale: float  # by the posterior scales alone

    @property
    def agrees(self) -> bool:
        """Whether means and scales tell of about the same weight; else it is not beta that q(z | x) is off by."""
        return self.location > 0 and self.scale > 0 and abs(math.log(self.location / self.scale)) < _APART


def effective_beta(vae: VAE, x: Tensor, num_samples: int = 64, seed: int = 0) -> EffectiveBeta:
    """The b under which q(z | x) is best for E_q[log p(x | z)] - b KL(q(z | x) || p(z)), as its derivatives tell.

    Where training has come to its end, the derivatives of both terms cancel in any direction in which q(z | x) can
    move, so b = d E_q[log p(x | z)] / d KL. The direction is that of less KL: with m = E_q[z | x] and m_0 = E[z], z
    moves by v = -(m - m_0) + (z - m), the means towards the prior's, the scales outwards, for which

        d E_q[log p(x | z)] = E_q[v . d/dz log p(x | z)],   d KL = -E_q[v . d/dz log p(z) + div v].

    Its two parts alone give `location` and `scale`. Take the training data: on others q(z | x) is not at its best for
    any b. A b other than 1 may be due to beta, and as well to free bits, a warm-up or a training that was cut short, or
    a bound other than the ELBO: IWAE's q(z | x) is wider than the ELBO's, as is that of a beta above 1. The error is
    not that of training, whose noise leaves q(z | x) off the mark where the learning rate is large to the end.

    Args:
        vae: the model, of z in R^D.
        x: training data, `(N, *event)`, at least two.
        num_samples: draws for each datum.
        seed: of the draws.

    Raises:
        ValueError: for z that is no density on R^D, a prior that is made of the encoder, or a single datum.

    References:
        Higgins et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl
        Lucas et al. (2019), Don't blame the ELBO!, https://arxiv.org/abs/1911.02469

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()  # the best q(z | x) for the ELBO, b = 1
        >>> effective_beta(model.vae, model.sample(1000)).value
        0.99
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    if len(x) < 2:
        raise ValueError(f"a standard error over data needs at least two of them, not {len(x)}")
    if hasattr(vae.prior, "join"):
        raise ValueError(
            f"{type(vae.prior).__name__} is made of the encoder and moves with it, so the KL has no derivative by "
            f"q(z | x) alone: effective_beta needs a prior of its own"
        )
    vae.check(x)
    size = max(_CHUNK // (num_samples * density_size(vae, x)), 1)
    like = next(vae.parameters())
    with evaluating(vae), isolated(seed, "effective beta"), unvalidated():
        slopes = torch.cat([_slopes(vae, part.to(like), num_samples) for part in x.split(size)], -1)
    reconstruction, kl = slopes  # (2, N) each: by the means, by the scales
    if kl[0].mean().abs() < _MOVED:
        return EffectiveBeta(*[math.nan] * 4)
    (value, std_error), (location, _), (scale, _) = (
        _ratio(r, k) for r, k in ((reconstruction.sum(0), kl.sum(0)), *zip(reconstruction, kl, strict=True))
    )
    return EffectiveBeta(value, std_error, location, scale)


def _slopes(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
    """d E_q[log p(x | z)] and d KL(q(z | x) || p(z)), by the means and by the scales, `(2, 2, B)`."""
    q, p = vae.encode(x), vae.prior()
    if is_point(q) or not describe(q.support) == describe(p.support) == "R^D":
        raise ValueError(
            f"means and scales are to be moved, but q(z | x) ({family(q)}) or p(z) ({family(p)}) is no density on R^D"
        )
    z = q.sample((num_samples,)).requires_grad_()
    with torch.enable_grad():
        (by_x,) = torch.autograd.grad(vae.likelihood(z).log_prob(x).sum(), z)
        (by_p,) = torch.autograd.grad(p.log_prob(z).sum(), z)
    (m, _), (m_0, _) = moments(q), moments(p)
    z = z.detach()
    directions = torch.stack([(m_0 - m).expand_as(z), z - m])  # (2, K, B, D)
    divergence = z.new_tensor([0.0, z.shape[-1]])[:, None]
    by_x, by_p = ((directions * g).sum(-1).mean(1) for g in (by_x, by_p))  # (2, B)
    return torch.stack([by_x, -by_p - divergence]).double()


def _ratio(reconstruction: Tensor, kl: Tensor) -> tuple[float, float]:
    """sum r / sum k of N data, and its standard error by the delta method."""
    value = reconstruction.sum() / kl.sum()
    error = (reconstruction - value * kl).std() / math.sqrt(len(kl)) / kl.mean().abs()
    return value.item(), error.item()
