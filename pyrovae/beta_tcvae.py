"""The ELBO with weights of its own for mutual information, total correlation and dimension-wise KL."""

import math

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae.arguments import whole
from pyrovae.densities import LogDensities
from pyrovae.gradient import Gradient
from pyrovae.regularised import Regularised
from pyrovae.sites import base

__all__ = ["BetaTCVAE"]


class BetaTCVAE(Regularised):
    """E_q[log p(x | z)] - alpha I(n; z) - beta KL(q(z) || prod_d q(z_d)) - gamma sum_d KL(q(z_d) || p(z_d)).

    The index-code mutual information, the total correlation and the dimension-wise KL: with weights of 1 their sum is
    KL(q(z | x) || p(z)), and the objective the ELBO; with others it is no bound on log p(x), and `bound` is the ELBO.
    Of a p(z) that does not factorise, the last term is what the others leave of the KL.

    q(z) of N data is estimated from a batch of B, and is exact if the batch is all data. By 1/B sum_m q(z | x_m), the
    paper's weighted sampling but for a constant, a draw's own q(z | x) counts too much, so that the mutual information
    is told too small, and the total correlation mostly too large. By stratified sampling it counts 1/N, and the others
    share the rest alike: then q(z) has no bias, but log q(z) has, downwards, the more so the larger N / B, so that the
    mutual information is told too large, and the total correlation mostly too small.

    Args:
        alpha: weight of the mutual information.
        beta: weight of the total correlation.
        gamma: weight of the dimension-wise KL.
        stratified: whether q(z) is estimated by stratified sampling, else by weighted sampling.
        num_data: N, for stratified sampling; `fit` tells it, and by default it is that of a subsampling plate, or B.
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    Raises:
        ValueError: for a negative weight; when used, if the guide has several sites, or one that does not factorise
            over its elements.

    References:
        Chen et al. (2018), Isolating sources of disentanglement in VAEs, https://arxiv.org/abs/1802.04942

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> objective = BetaTCVAE(beta=6.0)
        >>> objective.bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
        >>> [*objective.penalties(vae.model, vae.guide, torch.zeros(20, 5))]
        ['mutual_information', 'total_correlation', 'dimension_kl']
    """

    of_one_site = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        stratified: bool = False,
        num_data: int | None = None,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        if num_data is not None:
            whole("num_data", num_data)
        self.alpha, self.beta, self.gamma, self.num_data, self.stratified = alpha, beta, gamma, num_data, stratified
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of what is maximised, by name."""
        return {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}

    def trouble(self, fn: TorchDistributionMixin) -> str | None:
        """Why the objective is not for a guide's site of this distribution, and what is, if it is not."""
        if base(fn)[1] != fn.event_dim and super().trouble(fn) is None:
            return (
                "does not factorise over its elements, so q(z_d) is not known: use objectives.FactorVAE, or an encoder "
                "that does, such as encoders.DiagonalNormal"
            )
        return super().trouble(fn)

    def terms_of(self, densities: LogDensities) -> dict[str, tuple[float, Tensor]]:
        """I(n; z), the total correlation and the dimension-wise KL, `(K, B)` each, and their weights."""
        log_q, log_product = self._aggregate(densities)
        return {
            "mutual_information": (self.alpha, densities.log_guide - log_q),
            "total_correlation": (self.beta, log_q - log_product),
            "dimension_kl": (self.gamma, log_product - sum(densities.log_prior.values())),
        }

    def _aggregate(self, densities: LogDensities) -> tuple[Tensor, Tensor]:
        """log q(z) and sum_d log q(z_d) of each draw, `(K, B)` each."""
        (site,) = densities.q.values()
        layout, n, (fn, _) = densities.layout, site["fn"].event_dim, base(site["fn"])
        z = site["value"][(None,) * (n - layout.left - site["value"].dim())]
        each = z.movedim(layout.data_dim - n, 0).unsqueeze(layout.data_dim - n)  # against all x: (B, K, 1, D)
        table = layout.vectors(fn.log_prob(each), n).transpose(0, 1)  # log q(z_d | x), (K, B of z, B of x, D)
        share = self._log_share(layout.data, self.num_data or layout.population, z)
        log_q = (table.sum(-1) + share).logsumexp(-1)
        return log_q, (table + share.unsqueeze(-1)).logsumexp(-2).sum(-1)

    def _log_share(self, b: int, n: int, like: Tensor) -> Tensor:
        """Log of what each q(z | x) of the batch counts in q(z), for each z, `(B of z, B of x)`."""
        if not self.stratified:
            return like.new_full((b, b), -math.log(b))
        if n < b:
            raise ValueError(f"num_data is {n}, but a batch has {b} data: give the number of all of them")
        others = math.log((n - 1) / (n * (b - 1))) if b > 1 else 0.0
        own = torch.eye(b, dtype=torch.bool, device=like.device)
        return like.new_full((b, b), others).masked_fill(own, -math.log(n))
