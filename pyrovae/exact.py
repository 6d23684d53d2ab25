"""Models whose answers are known: log p(x), p(z | x), the ELBO and its gap in closed form, or as sums and integrals.

Each holds a `vae`, a live `VAE` in float64: its methods give the answers for the parameters as they are, in nats for
each datum, differentiably. Train `model.vae` with any objective, and `model.log_likelihood(x)` still is exact;
`torch.autograd.grad(model.elbo(x).sum(), model.vae.parameters())` is the gradient that estimators are to meet.
"""

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from pyrovae.encoders import Bernoulli as BernoulliEncoder
from pyrovae.encoders import DiagonalNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.likelihoods import Bernoulli, Normal
from pyrovae.networks import MLP
from pyrovae.priors import Bernoulli as BernoulliPrior
from pyrovae.priors import StandardNormal
from pyrovae.priors.prior import Prior
from pyrovae.quadrature import GridPosterior, grid_posterior, log_bernoulli
from pyrovae.rng import isolated
from pyrovae.scale import MIN_SCALE, positive, unconstrained
from pyrovae.vae import VAE

__all__ = ["BernoulliToy", "GaussianToy", "GridPosterior", "LinearGaussian", "grid_posterior"]


class _Exact(ABC):
    """Abstract: a model with answers, of the VAE that it holds."""

    vae: VAE

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw z ~ p(z) and x ~ p(x | z), n times: data `(n, data_dim)`."""
        with isolated(seed):
            return self.vae.sample(n)

    @abstractmethod
    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) of data `(B, data_dim)`: `(B,)`."""

    def _data(self, x: Tensor) -> Tensor:
        """Data, once they are checked, in the precision and on the device of the VAE."""
        self.vae.check(x)
        return x.to(next(self.vae.parameters()))


class LinearNormal(_Exact):
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
        precision = _eye(self.loc) + self.weight.T @ self.weight / self.scale.square()
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
        prior = dist.MultivariateNormal(self.loc, _eye(self.loc))
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
        excess = excess.where(finite[..., None, None], _eye(self.loc))
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


class LinearGaussian(LinearNormal):
    """p(z) = N(z; 0, I), p(x | z) = N(x; W z + b, s^2 I), q(z | x) = N(z; V x + c, diag(t^2)): probabilistic PCA.

    Marginally p(x) = N(x; b, W W' + s^2 I). W, b and s are learned with V, c and t. W and b start as independent
    standard normal draws, so that the posterior is no diagonal Gaussian; the encoder starts as any does, until
    `solve_encoder` makes it the best of its family.

    Args:
        latent_dim: D, dimensions of z.
        data_dim: dimensions of x.
        scale: s.
        seed: of W, b and the encoder's start.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis,
        https://doi.org/10.1111/1467-9868.00196
        Lucas et al. (2019), Don't blame the ELBO!, https://arxiv.org/abs/1911.02469

    Example:
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> x = model.sample(1000)
        >>> model.log_likelihood(x).mean().item(), model.elbo(x).mean().item(), model.gap(x).mean().item()
        (-5.884, -6.000, 0.116)
    """

    def __init__(self, latent_dim: int = 2, data_dim: int = 5, scale: float = 0.5, seed: int = 0) -> None:
        with isolated(seed), torch.no_grad():
            self.vae = VAE(
                prior=StandardNormal(latent_dim),
                likelihood=Normal(MLP(latent_dim, data_dim, hidden=()), scale),
                encoder=DiagonalNormal(MLP(data_dim, 2 * latent_dim, hidden=())),
            ).double()
            self.weight.normal_()
            self.bias.normal_()
        _set_scale(self.vae, scale)

    @classmethod
    def maximum_likelihood(cls, x: Tensor, latent_dim: int) -> "LinearGaussian":
        """The model of the greatest likelihood: W = U (L - s^2 I)^(1/2), b = mean x, s^2 the mean discarded eigenvalue.

        L holds the D largest eigenvalues of the data's covariance, U their eigenvectors. The columns of W are
        orthogonal, so that p(z | x) is a diagonal Gaussian; the encoder is set to it, and L(x) = log p(x).

        Args:
            x: data, `(N, data_dim)`.
            latent_dim: D, dimensions of z, fewer than those of x.

        Raises:
            ValueError: if there is no maximum, because D dimensions hold the data without any error.

        References:
            Tipping and Bishop (1999), Probabilistic principal component analysis, appendix A,
            https://doi.org/10.1111/1467-9868.00196

        Example:
            >>> x = LinearGaussian(latent_dim=2, data_dim=5).sample(1000)
            >>> model = LinearGaussian.maximum_likelihood(x, latent_dim=2)
            >>> torch.allclose(model.elbo(x), model.log_likelihood(x))
            True
        """
        if x.dim() != 2:
            raise ValueError(f"x must be data of shape (N, data_dim), not {tuple(x.shape)}: flatten each datum")
        data_dim = x.shape[1]
        if not 0 < latent_dim < data_dim:
            raise ValueError(f"latent_dim must be at least 1 and below the {data_dim} of the data, not {latent_dim}")
        x = x.double()
        values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))  # ascending
        variance = values[:-latent_dim].mean().clamp(min=0)
        scale = variance.sqrt().item()
        if not scale > MIN_SCALE:
            raise ValueError(
                f"the data lie within {scale:.1g} of {latent_dim} dimensions, and the likelihood asks for a scale "
                f"below the least, {MIN_SCALE}: take fewer dimensions, more data, or smaller units"
            )
        model = cls(latent_dim, data_dim, scale)
        with torch.no_grad():
            columns = vectors[:, -latent_dim:] * (values[-latent_dim:] - variance).clamp(min=0).sqrt()
            model.weight.copy_(columns.flip(1))
            model.bias.copy_(x.mean(0))
        model.solve_encoder()
        return model

    @torch.no_grad()
    def solve_encoder(self) -> None:
        """Set V = M^-1 W', c = -V b, t^2 = s^2 / diag(M), with M = W'W + s^2 I: the diagonal q that maximises L(x).

        It is p(z | x) if the columns of W are orthogonal; else the gap is (sum_d ln M_dd - ln |M|) / 2 for every x.

        Raises:
            ValueError: if t would be below the encoder's least scale.

        References:
            Lucas et al. (2019), Don't blame the ELBO!, https://arxiv.org/abs/1911.02469
        """
        m = self.weight.T @ self.weight + self.scale.square() * _eye(self.loc)  # (D, D)
        v = torch.linalg.solve(m, self.weight.T)  # (D, data_dim)
        t = self.scale / m.diagonal().sqrt()  # (D,)
        if not (t > MIN_SCALE).all():
            raise ValueError(
                f"the best q(z | x) has a scale of {t.min():.1g}, below the encoder's least of {MIN_SCALE}: give "
                f"p(x | z) a larger scale, or W smaller columns"
            )
        layer = self.vae.encoder.network.layers[-1]
        layer.weight.copy_(torch.cat([v, torch.zeros_like(v)]))
        layer.bias.copy_(torch.cat([-v @ self.bias, unconstrained(t)]))


class GaussianToy(LinearNormal):
    """p(z) = N(z; mu, I), p(x | z) = N(x; z, I), q(z | x) = N(z; A x + b, v I): mu, A and b are learned.

    The model on which the signal-to-noise ratio of gradient estimators was studied: tighter bounds give worse
    gradients of A and b. It starts at mu = 0, A = I / 2, b = 0.

    Args:
        latent_dim: D, dimensions of z and of x.
        variance: v; not that of p(z | x), which is 1/2, so that a gap stays.

    Raises:
        ValueError: if the variance is not positive.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, section 4,
        https://arxiv.org/abs/1802.04537

    Example:
        >>> model = GaussianToy()
        >>> x = model.sample(1024)
        >>> model.solve(x)
        >>> model.gap(x).mean().item()
        0.4565
    """

    def __init__(self, latent_dim: int = 20, variance: float = 2 / 3) -> None:
        if not 0 < variance < math.inf:
            raise ValueError(f"variance must be positive and finite, not {variance}")
        identity = nn.Identity()
        identity.in_shape = identity.out_shape = (latent_dim,)
        with isolated():
            self.vae = VAE(
                prior=_ShiftedNormal(latent_dim),
                likelihood=Normal(identity, scale=1.0, learned=False),
                encoder=_FixedScaleNormal(MLP(latent_dim, latent_dim, hidden=()), variance),
            ).double()
        _set_scale(self.vae, 1.0)
        self._set(torch.zeros(latent_dim))

    @property
    def weight(self) -> Tensor:
        """W = I, `(D, D)`."""
        return _eye(self.loc)

    @property
    def bias(self) -> Tensor:
        """b = 0 of p(x | z), `(D,)`."""
        return torch.zeros_like(self.loc)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw mu ~ N(0, I) once, then z ~ N(mu, I) and x ~ N(z, I) n times, in the paper 1024: data `(n, D)`."""
        with isolated(seed):
            mu = torch.randn_like(self.loc)
            z = mu + torch.randn_like(mu.expand(n, -1))
            return z + torch.randn_like(z)

    def solve(self, x: Tensor) -> None:
        """Set mu = mean x, A = I / 2, b = mu / 2, where the mean of L(x) over the data `(N, D)` is greatest."""
        self._set(self._data(x).mean(0))

    @torch.no_grad()
    def perturb(self, std: float = 0.01, seed: int = 0) -> None:
        """Move each element of mu, A and b by an independent draw from N(0, std^2)."""
        with isolated(seed):
            for parameter in self.vae.parameters():
                parameter.add_(std * torch.randn_like(parameter))

    @torch.no_grad()
    def _set(self, mu: Tensor) -> None:
        self.vae.prior.loc.copy_(mu)
        layer = self.vae.encoder.network.layers[-1]
        nn.init.eye_(layer.weight).div_(2)
        layer.bias.copy_(mu / 2)


class _ShiftedNormal(Prior):
    """p(z) = N(z; mu, I), mu learned."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, 1.0).to_event(1)


class _FixedScaleNormal(Encoder):
    """q(z | x) = N(z; mu(x), v I), v given."""

    def __init__(self, network: nn.Module, variance: float) -> None:
        super().__init__(network, num_parameters=1)
        self.register_buffer("scale", torch.tensor(variance, dtype=torch.float64).sqrt())

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(output, self.scale).to_event(1)


class BernoulliToy(_Exact):
    """p(z) = Ber(z; sigmoid(a)), p(x | z) = Ber(x; sigmoid(W z + b)), q(z | x) = Ber(z; sigmoid(V x + c)).

    Ber is a product of Bernoullis: a sigmoid belief network of one hidden layer, of so few units that all 2^D states of
    z are summed. All parameters are learned, and start as independent standard normal draws.

    Args:
        latent_dim: D, dimensions of z, at most 16.
        data_dim: dimensions of x.
        seed: of the parameters.

    Raises:
        ValueError: if the states are too many to sum.

    References:
        Neal (1992), Connectionist learning of belief networks, https://doi.org/10.1016/0004-3702(92)90065-6

    Example:
        >>> model = BernoulliToy(latent_dim=3, data_dim=5)
        >>> x = model.sample(20)
        >>> model.posterior(x).shape
        torch.Size([20, 8])
        >>> torch.allclose(model.elbo(x) + model.gap(x), model.log_likelihood(x))
        True
    """

    def __init__(self, latent_dim: int = 4, data_dim: int = 8, seed: int = 0) -> None:
        if latent_dim > 16:
            raise ValueError(f"latent_dim is at most 16, where 65536 states of z are summed, not {latent_dim}")
        with isolated(seed), torch.no_grad():
            self.vae = VAE(
                prior=BernoulliPrior(latent_dim),
                likelihood=Bernoulli(MLP(latent_dim, data_dim, hidden=())),
                encoder=BernoulliEncoder(MLP(data_dim, latent_dim, hidden=())),
            ).double()
            for parameter in self.vae.parameters():
                parameter.normal_()

    def latents(self) -> Tensor:
        """All z in {0, 1}^D, in the order of binary numbers, `(2^D, D)`."""
        a = self.vae.prior.logits
        digits = torch.arange(len(a) - 1, -1, -1, device=a.device)
        return (torch.arange(2 ** len(a), device=a.device)[:, None] >> digits & 1).to(a.dtype)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) = log sum_z p(x, z) of data `(B, data_dim)`: `(B,)`."""
        return self._log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> Tensor:
        """p(z | x) of data `(B, data_dim)` for each z of `latents()`: `(B, 2^D)`."""
        return self._log_joint(x).softmax(-1)

    def elbo(self, x: Tensor) -> Tensor:
        """L(x) = sum_z q(z | x) (log p(x, z) - log q(z | x)) of data `(B, data_dim)`: `(B,)`."""
        log_q = self._log_q(x)
        return (log_q.exp() * (self._log_joint(x) - log_q)).sum(-1)

    def gap(self, x: Tensor) -> Tensor:
        """log p(x) - L(x) = KL(q(z | x) || p(z | x)) of data `(B, data_dim)`: `(B,)`."""
        log_q = self._log_q(x)
        return (log_q.exp() * (log_q - self._log_joint(x).log_softmax(-1))).sum(-1)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z), `(B, 2^D)`."""
        z = self.latents()
        log_prior = log_bernoulli(z, self.vae.prior.logits[None]).T  # (1, 2^D)
        return log_prior + log_bernoulli(self._data(x), self.vae.likelihood.network(z))

    def _log_q(self, x: Tensor) -> Tensor:
        """log q(z | x), `(B, 2^D)`."""
        return log_bernoulli(self.latents(), self.vae.encoder.network(self._data(x))).T


def _eye(like: Tensor) -> Tensor:
    """I, of the size, type and device of a vector."""
    return torch.eye(len(like)).to(like)


@torch.no_grad()
def _set_scale(vae: VAE, scale: float) -> None:
    """Set the scale of p(x | z) to all digits of float64."""
    vae.likelihood.unconstrained_scale.copy_(unconstrained(torch.tensor(scale, dtype=torch.float64)))
