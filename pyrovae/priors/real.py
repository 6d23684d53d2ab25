"""Priors over R^D whose dimensions are independent, a mixture of such, and the uniform distribution on the sphere."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import number, whole
from pyrovae.distributions import hyperspherical_uniform, normal
from pyrovae.distributions.mixture import Mixture
from pyrovae.priors.prior import Prior
from pyrovae.scale import positive, unconstrained

__all__ = ["HypersphericalUniform", "Laplace", "MixtureOfNormals", "Normal", "StandardNormal", "StudentT"]


class _Standard(Prior):
    """Abstract: a prior of independent dimensions, each with location 0 and scale 1."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)


class StandardNormal(_Standard):
    """p(z) = N(z; 0, I).

    Args:
        latent_dim: D, dimensions of z.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return normal.Normal(self.loc, self.scale).to_event(1)


class Normal(Prior):
    """p(z) = N(z; mu, diag(sigma^2)), with sigma = softplus(a) + 1e-4, mu and a learned; N(0, I) at the start.

    Args:
        latent_dim: D, dimensions of z.

    References:
        Hoffman and Johnson (2016), ELBO surgery, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Example:
        >>> Normal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379, grad_fn=<SumBackward1>)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(latent_dim)))

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return normal.Normal(self.loc, positive(self.unconstrained_scale)).to_event(1)


class Laplace(_Standard):
    """p(z) = prod_d exp(-|z_d|) / 2, of which sparse codes are more probable than of a normal; the variance is 2.

    Args:
        latent_dim: D, dimensions of z.

    References:
        Barello et al. (2018), Sparse-coding variational auto-encoders, https://doi.org/10.1101/399246

    Example:
        >>> Laplace(2)().log_prob(torch.zeros(2))  # -2 log 2
        tensor(-1.3863)
    """

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(_Standard):
    """p(z) = prod_d t_df(z_d), Student's distribution with df degrees of freedom: tails heavier than a normal's.

    Args:
        latent_dim: D, dimensions of z.
        df: degrees of freedom, from 0.5 to 1000; the larger, the nearer to a normal.

    Raises:
        ValueError: if df is out of range.

    References:
        Mathieu et al. (2019), Disentangling disentanglement in variational autoencoders,
        https://arxiv.org/abs/1812.02833

    Example:
        >>> StudentT(1, df=1.0)().log_prob(torch.zeros(1))  # -log(pi)
        tensor(-1.1447)
    """

    def __init__(self, latent_dim: int, df: float = 5.0) -> None:
        super().__init__(latent_dim)
        # Of less, draws are beyond what float32 can square; of more, it rounds what is left of log Gamma.
        self.df = number("df", df, least=0.5, most=1000)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)


class HypersphericalUniform(Prior):
    """p(z) = 1 / area of S^(D-1), area = 2 pi^(D/2) / Gamma(D/2), for unit vectors z in R^D.

    Args:
        latent_dim: D, dimensions of the space around the sphere, at least 2.

    Raises:
        ValueError: in one dimension.

    References:
        Davidson et al. (2018), Hyperspherical variational auto-encoders, https://arxiv.org/abs/1804.00891

    Example:
        >>> HypersphericalUniform(3)().log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log(4 pi)
        tensor(-2.5310)
    """

    like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("like", torch.empty(0), persistent=False)
        self()  # refuses one dimension

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return hyperspherical_uniform.HypersphericalUniform(self.latent_dim, self.like)


class MixtureOfNormals(Prior):
    """p(z) = sum_c pi_c N(z; mu_c, diag(sigma_c^2)), all learned, the component summed out.

    Args:
        latent_dim: D, dimensions of z.
        components: number of components.

    References:
        Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture variational autoencoders,
        https://arxiv.org/abs/1611.02648

    Example:
        >>> MixtureOfNormals(2, components=3)().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__(latent_dim)
        whole("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(components, latent_dim)))

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        component = dist.Normal(self.loc, positive(self.unconstrained_scale)).to_event(1)
        return Mixture(dist.Categorical(logits=self.logits), component)
