"""Linear models with normal noise: p(x), p(z | x), the ELBO of any Gaussian q and its gap in closed form."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyrovae.exact.exact import Exact
from pyrovae.scale import positive, unconstrained
from pyrovae.vae import VAE

__all__ = ["LinearNormal", "eye", "set_scale"]


class LinearNormal(Exact):
    """Abstract: p(z) = N(z; m, I), p(x | z) = N(x; W z + b, s^2 I), with any Gaussian q(z | x)."""

    @property
    def loc(self) -> Tensor:
        """m, the mean of p(z), `(D,)`."""
        return self.vae.prior.loc

    @property
    def weight(self) -> Tensor:
        """W, the decoder's weight as it is, `(data_dim, D)`."""
        return self.vae.likelihood.network.layers[-1].weight

    @property
    def bias(self) -> Tensor:
        """b, the decoder's bias as it is, `(data_dim,)`."""
        return self.vae.likelihood.network.layers[-1].bias

    @property
    def scale(self) -> Tensor:
        """s, the standard deviation of an element of x given z, `()`."""
        return positive(self.vae.likelihood.unconstrained_scale)

    def marginal(self) -> dist.LowRankMultivariateNormal:
        """p(x) = N(x; W m + b, W W' + s^2 I), batch `()`, event `(data_dim,)`."""
        mean = self.weight @ self.loc + self.bias
        return dist.LowRankMultivariateNormal(mean, self.weight, self.scale.square().expand_as(mean))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) of data `(B, data_dim)`: `(B,)`."""
        return self.marginal().log_prob(self._data(x))

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x) = N(z; m + P^-1 W'(x - W m - b) / s^2, P^-1), P = I + W'W / s^2: batch `(B,)`, event `(D,)`."""
        error = (self._data(x) - self.weight @ self.loc - self.bias) / self.scale.square()  # (B, data_dim)
        precision = eye(self.loc) + self.weight.T @ self.weight / self.scale.square()
        mean = self.loc + torch.linalg.solve(precision, (error @ self.weight).T).T  # (B, D)
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def elbo(self, x: Tensor, q: Distribution | None = None) -> Tensor:
        """L(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)).

        Args:
            x: data, `(B, data_dim)`.
            q: a Gaussian of batch `(B,)` or `()` and event `(D,)`, of any covariance; by default the VAE's q(z | x).

        Returns:
            L(x), in nats, `(B,)`.

        Raises:
            ValueError: if q is no Gaussian over vectors.
        """
        x, q = self._data(x), self._gaussian(x, q)
        error = x - q.mean @ self.weight.T - self.bias  # (B, data_dim)
        spread = (self.weight @ q.scale_tril).square().sum((-2, -1))  # tr(W Cov_q W')
        reconstruction = dist.Normal(0.0, self.scale).log_prob(error).sum(-1) - spread / self.scale.square() / 2
        prior = dist.MultivariateNormal(self.loc, eye(self.loc))
        return reconstruction - kl_divergence(q, prior)

    def gap(self, x: Tensor, q: Distribution | None = None) -> Tensor:
        """log p(x) - L(x) = KL(q(z | x) || p(z | x)), `(B,)`; arguments as those of `elbo`."""
        return kl_divergence(self._gaussian(x, q), self.posterior(x))

    def iwae_limit(self, x: Tensor, q: Distribution | None = None) -> Tensor:
        """lim K (log p(x) - IWAE_K(x)) for K to infinity = chi^2(p(z | x) || q(z | x)) / 2, `(B,)`; as `elbo`.

        With P and Q the covariances of p(z | x) and q, d the difference of their means, 1 + chi^2 is
        |Q| / (|P| |2 Q - P|)^(1/2) exp(d' (2 Q - P)^-1 d), and infinite unless 2 Q - P is positive definite: an
        importance weight then has no variance, and the bound rises more slowly than by 1 / K.

        References:
            Maddison et al. (2017), Filtering variational objectives, https://arxiv.org/abs/1705.09279
            Domke and Sheldon (2018), Importance weighting and variational inference, https://arxiv.org/abs/1808.09034
        """
        p, q = self.posterior(x), self._gaussian(x, q)
        excess = 2 * q.covariance_matrix - p.covariance_matrix  # (B, D, D)
        finite = torch.linalg.cholesky_ex(excess).info == 0  # (B,)
        excess = excess.where(finite[..., None, None], eye(self.loc))
        d = (p.mean - q.mean)[..., None]  # (B, D, 1)
        log_determinants = torch.logdet(q.covariance_matrix) - (p.covariance_matrix.logdet() + excess.logdet()) / 2
        exponent = (d.mT @ torch.linalg.solve(excess, d)).squeeze((-2, -1))
        return torch.where(finite, torch.expm1(log_determinants + exponent) / 2, math.inf)

    def _gaussian(self, x: Tensor, q: Distribution | None) -> dist.MultivariateNormal:
        """A Gaussian q, by default the VAE's q(z | x), in the one form that has a Cholesky factor."""
        q = self.vae.encode(self._data(x)) if q is None else q
        if isinstance(q, torch.distributions.MultivariateNormal):
            return q
        diagonal = isinstance(q, Independent) and isinstance(q.base_dist, torch.distributions.Normal)
        if not diagonal or len(q.event_shape) != 1:
            raise ValueError(f"q must be a MultivariateNormal or Normal(...).to_event(1), not {q}")
        return dist.MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())


def eye(like: Tensor) -> Tensor:
    """I, of the size, type and device of a vector."""
    return torch.eye(len(like)).to(like)


@torch.no_grad()
def set_scale(vae: VAE, scale: float) -> None:
    """Set the scale of p(x | z) to all digits of float64."""
    vae.likelihood.unconstrained_scale.copy_(unconstrained(torch.tensor(scale, dtype=torch.float64)))
