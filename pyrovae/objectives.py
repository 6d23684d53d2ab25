"""Bounds on log p(x): functions F of the log-weights log w_k = log p(x, z_k) - log q(z_k | x) of K draws of z.

`bound` of each is always the number it is named after, per datum and in nats; weights and schedules of what is
maximised are not in it. What objectives with a penalty on q(z) maximise is no bound; their `bound` is the ELBO. The
minus sign, and the scale of a subsampled plate, appear in the loss methods alone.
"""

import math

import torch
from torch import Tensor

from pyrovae.arguments import number, whole
from pyrovae.beta_tcvae import BetaTCVAE
from pyrovae.densities import LogDensities
from pyrovae.discrepancy import WAE, InfoVAE
from pyrovae.elbo import ELBO
from pyrovae.factor_vae import FactorVAE
from pyrovae.gradient import Gradient, with_value
from pyrovae.gradients import STL, DReG, Pathwise, Sleep, Wake
from pyrovae.objective import Objective, log_mean
from pyrovae.tmc import TMC
from pyrovae.tvo import TVO

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "TMC",
    "TVO",
    "WAE",
    "BetaTCVAE",
    "FactorVAE",
    "InfoVAE",
    "Renyi",
]


class IWAE(Objective):
    """E[log 1/K sum_k w_k], the importance weighted bound, which rises to log p(x) with K.

    Args:
        num_particles: K, draws of z for each datum.
        gradient: the estimator; by default `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Burda et al. (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyrovae import VAE, encoders, gradients, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> IWAE(num_particles=50, gradient=gradients.DReG()).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    def reduce(self, terms: Tensor) -> Tensor:
        """log 1/K sum_k w_k."""
        return log_mean(terms)

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2."""
        weight = terms.softmax(0)
        return weight, weight - weight**2


class Renyi(Objective):
    """E[1 / (1 - alpha) log 1/K sum_k w_k^(1 - alpha)], the variational Renyi bound; alpha = -inf is VR-max.

    VR-max is E[max_k log w_k]. A lower bound on log p(x) for alpha >= 0; alpha = 0 is the IWAE bound, alpha = 1 the
    ELBO. With alpha < 0 it may lie above log p(x).

    Args:
        alpha: order of the divergence, or -inf (`-.inf` on the command line).
        num_particles: K, draws of z for each datum.
        gradient: the estimator; by default `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Li and Turner (2016), Renyi divergence variational inference, https://arxiv.org/abs/1602.02311

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> Renyi(alpha=0.5, num_particles=5).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    def __init__(
        self,
        alpha: float = 0.5,
        num_particles: int = 10,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        if alpha != -math.inf:
            number("alpha", alpha)
        else:
            self.estimators = tuple(e for e in type(self).estimators if e is not DReG)
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.alpha = alpha

    def reduce(self, terms: Tensor) -> Tensor:
        """1 / (1 - alpha) log 1/K sum_k w_k^(1 - alpha), and its limits."""
        if self.alpha == -math.inf:
            return terms.amax(0)
        if self.alpha == 1:
            return terms.mean(0)
        return log_mean((1 - self.alpha) * terms) / (1 - self.alpha)

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2."""
        weight = ((1 - self.alpha) * terms).softmax(0)
        return weight, (1 - self.alpha) * (weight - weight**2)


class CIWAE(Objective):
    """beta E[1/K sum_k log w_k] + (1 - beta) E[log 1/K sum_k w_k], the combination of the ELBO and the IWAE bound.

    Args:
        beta: weight of the ELBO, from 0 to 1.
        num_particles: K, draws of z for each datum.
        gradient: the estimator; by default `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        https://arxiv.org/abs/1802.04537

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> CIWAE(beta=0.05, num_particles=5).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    def __init__(
        self,
        beta: float = 0.5,
        num_particles: int = 10,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.beta = number("beta", beta, least=0, most=1)

    def reduce(self, terms: Tensor) -> Tensor:
        """beta 1/K sum_k log w_k + (1 - beta) log 1/K sum_k w_k."""
        return self.beta * terms.mean(0) + (1 - self.beta) * log_mean(terms)

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2."""
        weight = terms.softmax(0)
        return self.beta / len(terms) + (1 - self.beta) * weight, (1 - self.beta) * (weight - weight**2)


class _Grouped(Objective):
    """Abstract: M groups of K draws."""

    def __init__(
        self,
        num_particles: int = 8,
        groups: int = 8,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.groups = whole("groups", groups)

    @property
    def num_draws(self) -> int:
        """Draws of z for each datum in all."""
        return self.num_particles * self.groups

    def in_groups(self, t: Tensor) -> Tensor:
        """Draws `(K M, B)` as `(K, M, B)`."""
        return t.unflatten(0, (self.num_particles, self.groups))


class MIWAE(_Grouped):
    """E[1/M sum_m log 1/K sum_k w_mk], the mean of M importance weighted bounds of K draws each.

    Mattei and Frellsen (2019) call another bound MIWAE, that for data with missing values: it is `IWAE` on the programs
    of an `IncompleteVAE`.

    Args:
        num_particles: K, draws of z for each datum in a group.
        groups: M, groups of draws; M K draws in all.
        gradient: the estimator; by default `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        https://arxiv.org/abs/1802.04537

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> MIWAE(num_particles=8, groups=4).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    grouped = _Grouped.in_groups

    def reduce(self, terms: Tensor) -> Tensor:
        """log 1/K sum_k w_k, of each group."""
        return log_mean(terms)

    def doubly_reparameterised(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the gradients by theta, and by phi through z, `(K M, B)` each."""
        weight = self.grouped(log_weight).softmax(0)
        return (weight / self.groups).flatten(0, 1), (weight**2 / self.groups).flatten(0, 1)


class PIWAE(_Grouped):
    """E[log 1/(M K) sum_mk w_mk] for the model, E[1/M sum_m log 1/K sum_k w_mk] for the guide.

    Partially importance weighted: the model climbs the `IWAE` bound of all M K draws, the guide the `MIWAE` bound of
    the same draws, whose gradient has a better signal-to-noise ratio. `bound` is the model's.

    Args:
        num_particles: K, draws of z for each datum in a group.
        groups: M, groups of draws; M K draws in all.
        gradient: the estimator; by default `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        https://arxiv.org/abs/1802.04537

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> PIWAE(num_particles=8, groups=4).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    routed = True
    estimators = (Pathwise, STL, DReG)

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return "as each network has a bound of its own"

    def reduce(self, terms: Tensor) -> Tensor:
        """log 1/(M K) sum_mk w_mk."""
        return log_mean(terms)

    def target(self, densities: LogDensities) -> Tensor:
        """The model's bound, with each network's own gradient, `(B,)`."""
        log_weight = densities.log_weight
        if not torch.is_grad_enabled():
            return self.reduce(log_weight)
        theta, in_group = self._weights(log_weight.detach())
        return with_value(self.reduce(log_weight), densities.split(theta, in_group / self.groups))

    def doubly_reparameterised(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the gradients by theta, and by phi through z, `(K M, B)` each."""
        theta, in_group = self._weights(log_weight)
        return theta, in_group**2 / self.groups

    def _weights(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights normalised over all draws, and over those of their group, `(K M, B)` each."""
        return log_weight.softmax(0), self.in_groups(log_weight).softmax(0).flatten(0, 1)


class RWS(Objective):
    """E[log 1/K sum_k w_k] for the model, KL(p(z | x) || q(z | x)) for the guide: reweighted wake-sleep, per datum.

    With `gradients.Wake` the guide learns from the weighted draws for the data (wake-wake), with `gradients.Sleep` from
    draws of the model (wake-sleep). `bound` is the model's, the IWAE bound.

    Args:
        num_particles: K, draws of z for each datum.
        gradient: the estimator; by default `gradients.Wake`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Bornschein and Bengio (2015), Reweighted wake-sleep, https://arxiv.org/abs/1406.2751
        Le et al. (2019), Revisiting reweighted wake-sleep, https://arxiv.org/abs/1805.10469

    Example:
        >>> from pyrovae import VAE, encoders, gradients, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> RWS(num_particles=5, gradient=gradients.Sleep()).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    estimators = (Wake, Sleep, DReG)

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return "as the guide learns by another measure than the model"

    def reduce(self, terms: Tensor) -> Tensor:
        """log 1/K sum_k w_k."""
        return log_mean(terms)

    def doubly_reparameterised(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the gradients by theta, and by phi through z, `(K, B)` each."""
        weight = log_weight.softmax(0)
        return weight, weight - weight**2
