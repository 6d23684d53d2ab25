"""Objectives that pay for the maximum mean discrepancy between q(z) = 1/N sum_n q(z | x_n) and p(z)."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae.arguments import number
from pyrovae.densities import LogDensities
from pyrovae.draws import is_point
from pyrovae.gradient import Gradient
from pyrovae.regularised import Regularised

__all__ = ["WAE", "InfoVAE", "mmd"]


class InfoVAE(Regularised):
    """E_q[log p(x | z)] - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + lambd - 1) MMD^2(q(z), p(z)).

    With alpha = 0 and lambd = 1 it is the ELBO, with alpha = 1 the objective of `WAE`; the larger alpha, the more z may
    tell of x. What is maximised is no bound on log p(x); `bound` is the ELBO. The MMD is that of `mmd`, between the
    batch's draws of q(z) and as many of p(z), one site after the other, given those that it depends on in the model. A
    batch of a single datum, which tells nothing of q(z), has an MMD of 0.

    Args:
        alpha: what is left out of the KL, between 0 and 1.
        lambd: with alpha, the weight of the MMD.
        scale: sigma of the kernel, about the standard deviation of p(z).
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: for a term with a negative weight.

    References:
        Zhao et al. (2019), InfoVAE: balancing learning and inference in variational autoencoders,
        https://arxiv.org/abs/1706.02262

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> objective = InfoVAE(alpha=0.5, lambd=100.0)
        >>> objective.bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
        >>> [*objective.penalties(vae.model, vae.guide, torch.zeros(20, 5))]
        ['kl', 'mmd']
    """

    def __init__(
        self,
        alpha: float = 0.5,
        lambd: float = 10.0,
        scale: float = 1.0,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        number("alpha", alpha, least=0, most=1)
        if number("lambd", lambd) + alpha < 1:
            raise ValueError(
                f"lambd must be at least 1 - alpha, or a term would have a negative weight, but they are {lambd} and "
                f"1 - {alpha}"
            )
        self.alpha, self.lambd, self.scale = alpha, lambd, number("scale", scale, above=0)
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised that are not the bound's own, by name."""
        return {"alpha": self.alpha, "lambd": self.lambd}

    def terms_of(self, densities: LogDensities) -> dict[str, tuple[float, Tensor]]:
        """The KL, `(K, B)`, and the MMD, `(K, 1)`, and their weights."""
        found = _mmd_of_sites(densities, self.scale)
        return {"kl": (1 - self.alpha, densities.kl), "mmd": (self.alpha + self.lambd - 1, found)}


class WAE(Regularised):
    """E_q[log p(x | z)] - lambd MMD^2(q(z), p(z)), the Wasserstein autoencoder with the MMD penalty (WAE-MMD).

    Of a `likelihoods.Normal` with a fixed scale the first term is the squared error of the paper, but for a factor and
    a constant. The encoder may be a point (`encoders.Delta`), as in the paper: then there is no ELBO, and `bound` is
    NaN; else `bound` is the ELBO. What is maximised is no bound on log p(x). The MMD is that of `mmd`, between the
    batch's draws of q(z) and as many of p(z), one site after the other, given those that it depends on in the model. A
    batch of a single datum, which tells nothing of q(z), has an MMD of 0.

    Args:
        lambd: weight of the MMD.
        scale: sigma of the kernel, about the standard deviation of p(z).
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: for a negative weight.

    References:
        Tolstikhin et al. (2018), Wasserstein auto-encoders, https://arxiv.org/abs/1711.01558

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.Delta(encode))
        >>> [*WAE(lambd=10.0).penalties(vae.model, vae.guide, torch.zeros(20, 5))]
        ['mmd']
    """

    def __init__(
        self,
        lambd: float = 100.0,
        scale: float = 1.0,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        self.lambd, self.scale = lambd, number("scale", scale, above=0)
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised that are not the bound's own, by name."""
        return {"lambd": self.lambd}

    def trouble(self, fn: TorchDistributionMixin) -> str | None:
        """Why the objective is not for a guide's site of this distribution, and what is, if it is not."""
        return None if is_point(fn) else super().trouble(fn)

    def terms_of(self, densities: LogDensities) -> dict[str, tuple[float, Tensor]]:
        """The MMD, `(K, 1)`, and its weight."""
        return {"mmd": (self.lambd, _mmd_of_sites(densities, self.scale))}


def mmd(x: Tensor, y: Tensor, scale: float = 1.0, score: Tensor | None = None) -> Tensor:
    """MMD^2 = E[k(x, x') + k(y, y') - k(x, y') - k(x', y)], k(a, b) = C / (C + |a - b|^2), C = 2 D scale^2.

    The mean over all n != m of pairs (x_n, y_n) and (x_m, y_m), a U-statistic: without bias, whether x_n and y_n are
    independent or not, so that it may be negative; of a single pair it is 0.

    Args:
        x: `(..., N, D)`.
        y: as many, `(..., N, D)`.
        scale: of the inverse multiquadric kernel.
        score: log of the density of each y_n, `(..., N)`, for a gradient by its parameters where y has no path to them.

    References:
        Gretton et al. (2012), A kernel two-sample test, section 3, https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> x, y = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
        >>> mmd(x, y), mmd(x, y + 1)
        (tensor(-0.00), tensor(0.18))
    """
    n, d = x.shape[-2:]
    c = 2 * d * scale**2

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """k of each a with each b, `(..., N, N)`."""
        squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * a @ b.mT
        return c / (c + squares)

    between = kernel(x, y)
    h = kernel(x, x) + kernel(y, y) - between - between.mT
    if score is not None:  # d E[h] = E[dh + h (d log p(y_n) + d log p(y_m))]
        by_score = score - score.detach()  # of value 0
        h = h * (1 + by_score.unsqueeze(-1) + by_score.unsqueeze(-2))
    own = torch.eye(n, dtype=torch.bool, device=h.device)
    return h.masked_fill(own, 0.0).sum((-2, -1)) / max(n * (n - 1), 1)


def _mmd_of_sites(densities: LogDensities, scale: float) -> Tensor:
    """MMD^2 between the draws of q(z) and as many of p(z), summed over sites, `(K, 1)`."""
    found = 0
    for name in densities.q:
        p = densities.prior(name)
        y = p.rsample() if p.has_rsample else p.sample()
        score = None if p.has_rsample else densities.layout.fold(p.log_prob(y))  # (K, B)
        found = found + mmd(densities.vectors(name), densities.layout.vectors(y, p.event_dim), scale, score)
    return found.unsqueeze(-1)
