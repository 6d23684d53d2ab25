"""The Gaussian mixture, the model of which EM is best known."""

import torch
from torch import Tensor, nn

from pyrovae.arguments import number, whole
from pyrovae.encoders import OneHotCategorical as OneHotEncoder
from pyrovae.exact.discrete import Discrete
from pyrovae.likelihoods import Normal
from pyrovae.networks import MLP
from pyrovae.priors import OneHotCategorical
from pyrovae.rng import isolated
from pyrovae.scale import MIN_SCALE, positive, unconstrained
from pyrovae.vae import VAE

__all__ = ["GaussianMixture"]


class GaussianMixture(Discrete):
    """p(z) = pi_z, p(x | z) = N(x; mu_z, diag(sigma_z^2)), q(z | x) = softmax(A (x, x^2) + a)_z, z one of C components.

    z is a one-hot vector. The family of q holds p(z | x), to which `solve_encoder` sets it; any other encoder of such z
    may take its place, as `model.vae.encoder`. All parameters are learned. The means start as independent normal draws,
    the components equal in weight and scale; the encoder starts as any does. Train by `gradients.Enumerate`, which sums
    over z, or another gradient that is not pathwise; or in closed form, by `em_step`.

    Args:
        components: C.
        data_dim: dimensions of x.
        scale: sigma of all components at the start.
        spread: standard deviation of the draws of the means.
        seed: of the means and the encoder's start.

    Raises:
        ValueError: if there is no component, or the scale is not finite or not above its floor.

    References:
        Dempster et al. (1977), Maximum likelihood from incomplete data via the EM algorithm,
        https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
        Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants,
        https://doi.org/10.1007/978-94-011-5014-9_12

    Example:
        >>> model = GaussianMixture(components=3, data_dim=2)
        >>> x = model.sample(20)
        >>> bool((model.gap(x) > 0).all())
        True
        >>> model.solve_encoder()
        >>> torch.allclose(model.elbo(x), model.log_likelihood(x))
        True
    """

    def __init__(
        self, components: int = 3, data_dim: int = 2, scale: float = 1.0, spread: float = 3.0, seed: int = 0
    ) -> None:
        whole("components", components)
        whole("data_dim", data_dim)
        number("scale", scale, above=MIN_SCALE)
        number("spread", spread)
        with isolated(seed), torch.no_grad():
            table = nn.Linear(components, 2 * data_dim, bias=False)  # of one-hot vectors: a column for each component
            table.in_shape, table.out_shape = (components,), (2 * data_dim,)
            self.vae = VAE(
                prior=OneHotCategorical(components),
                likelihood=Normal(table, scale=None),
                encoder=OneHotEncoder(_Quadratic(data_dim, components)),
            ).double()
            means = spread * torch.randn(components, data_dim, dtype=torch.float64)
            self._set(torch.zeros(components), means, torch.full_like(means, scale))

    @property
    def weights(self) -> Tensor:
        """pi, `(C,)`."""
        return self.vae.prior.logits.softmax(-1)

    @property
    def means(self) -> Tensor:
        """mu, `(C, data_dim)`."""
        return self._table.T.chunk(2, -1)[0]

    @property
    def scales(self) -> Tensor:
        """sigma, `(C, data_dim)`."""
        return positive(self._table.T.chunk(2, -1)[1])

    def latents(self) -> Tensor:
        """All z, `(C, C)`: the unit vectors."""
        return torch.eye(len(self.vae.prior.logits)).to(self.vae.prior.logits)

    @torch.no_grad()
    def solve_encoder(self) -> None:
        """Set q(z | x) to p(z | x) ~ exp(log pi_z - sum_i (x_i - mu_zi)^2 / (2 sigma_zi^2) - sum_i log sigma_zi)."""
        precision = self.scales**-2  # (C, data_dim)
        constant = -(precision * self.means**2 / 2 + self.scales.log()).sum(-1)
        layer = self.vae.encoder.network.linear.layers[-1]
        layer.weight.copy_(torch.cat([precision * self.means, -precision / 2], 1))
        layer.bias.copy_(self.weights.log() + constant)

    @torch.no_grad()
    def em_step(self, x: Tensor) -> None:
        """pi, mu and sigma maximise E_p(z|x)[log p(x, z)], of the posterior that they had; in place, the encoder stays.

        With r_nz = p(z | x_n), N_z = sum_n r_nz: pi_z = N_z / N, mu_z = sum_n r_nz x_n / N_z, and
        sigma_z^2 = sum_n r_nz (x_n - mu_z)^2 / N_z, down to the floor of scales, without which log p(x) would have no
        greatest value: a component may sit on a single datum.

        Args:
            x: data, `(N, data_dim)`.

        Raises:
            ValueError: if a component is left without data.

        References:
            Dempster et al. (1977), Maximum likelihood from incomplete data via the EM algorithm,
            https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
        """
        r, x = self.posterior(x), self._data(x)  # (N, C), (N, data_dim)
        size = r.sum(0)  # N_z
        if not (size > 0).all():
            raise ValueError(
                f"component {int(size.argmin())} has no data left, as it is so far from all: start EM from means that "
                f"lie among the data, or from larger scales"
            )
        share = r / size  # of each component's mass, (N, C)
        means = share.T @ x
        variances = torch.einsum("nc,ncd->cd", share, (x[:, None] - means) ** 2)
        self._set((size / len(x)).log(), means, variances.sqrt())

    def _set(self, logits: Tensor, means: Tensor, scales: Tensor) -> None:
        self.vae.prior.logits.copy_(logits)
        self._table.copy_(torch.cat([means, unconstrained(scales)], 1).T)

    @property
    def _table(self) -> Tensor:
        """mu over the unconstrained sigma, `(2 data_dim, C)`."""
        return self.vae.likelihood.network.weight

    def _log_joint(self, x: Tensor) -> Tensor:
        z = self.latents()
        return self.vae.prior().log_prob(z) + self.vae.likelihood(z).log_prob(self._data(x)[:, None])

    def _log_q(self, x: Tensor) -> Tensor:
        return self.vae.encode(self._data(x)).logits  # of sum 1 in exp


class _Quadratic(nn.Module):
    """x to A (x, x^2) + a: the logits of p(z | x) of any Gaussian mixture of diagonal covariances."""

    def __init__(self, data_dim: int, components: int) -> None:
        super().__init__()
        self.in_shape, self.out_shape = (data_dim,), (components,)
        self.linear = MLP(2 * data_dim, components, hidden=())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x, x**2], -1))
