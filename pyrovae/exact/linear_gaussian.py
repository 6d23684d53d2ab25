"""Probabilistic PCA."""

import torch
from torch import Tensor

from pyrovae.encoders import DiagonalNormal
from pyrovae.exact.linear_normal import LinearNormal, eye, set_scale
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.priors import StandardNormal
from pyrovae.rng import isolated
from pyrovae.scale import MIN_SCALE, unconstrained
from pyrovae.vae import VAE

__all__ = ["LinearGaussian"]


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
        set_scale(self.vae, scale)

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
        m = self.weight.T @ self.weight + self.scale.square() * eye(self.loc)  # (D, D)
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

    @torch.no_grad()
    def em_step(self, x: Tensor) -> None:
        """W, b and s maximise E_p(z|x)[log p(x, z)], of the posterior that they had; in place, the encoder stays.

        With u = (z, 1): (W, b) = sum_n x_n E[u]' (sum_n E[u u'])^-1, s^2 = 1 / (N d) sum_n E|x_n - (W, b) u|^2.

        Args:
            x: data, `(N, data_dim)`.

        References:
            Tipping and Bishop (1999), Probabilistic principal component analysis, appendix B,
            https://doi.org/10.1111/1467-9868.00196
        """
        p, x = self.posterior(x), self._data(x)
        n, d = x.shape
        u = torch.cat([p.mean, x.new_ones(n, 1)], 1)  # (N, D + 1)
        moments = u.T @ u  # sum_n E[u u']
        moments[:-1, :-1] += p.covariance_matrix.expand(n, -1, -1).sum(0)
        both = torch.linalg.solve(moments, u.T @ x).T  # (W, b), (d, D + 1)
        squares = (x.square().sum() - 2 * (x * (u @ both.T)).sum() + (both @ moments * both).sum()) / (n * d)
        self.weight.copy_(both[:, :-1])
        self.bias.copy_(both[:, -1])
        set_scale(self.vae, squares.sqrt().item())
