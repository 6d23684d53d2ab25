"""Priors p(z) over latent vectors z of D dimensions: modules whose call gives the distribution.

A prior of your own is a small subclass of `Prior` with a `forward` that returns a Pyro distribution of event `(D,)`.
"""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.scale import positive, unconstrained

__all__ = ["Bernoulli", "MixtureOfNormals", "StandardNormal"]


class Prior(nn.Module, ABC):
    """Abstract p(z).

    Args:
        latent_dim: D, dimensions of z.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, not {latent_dim}")
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    Args:
        latent_dim: D, dimensions of z.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.Normal(self.loc, self.scale).to_event(1)


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
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(components, latent_dim)))

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        component = dist.Normal(self.loc, positive(self.unconstrained_scale)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), component)


class Bernoulli(Prior):
    """p(z) = prod_d Bernoulli(z_d; sigmoid(a_d)), for z_d in {0, 1}, the logits a learned.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        latent_dim: D, dimensions of z.

    References:
        Neal (1992), Connectionist learning of belief networks, https://doi.org/10.1016/0004-3702(92)90065-6
        Mnih and Gregor (2014), Neural variational inference and learning in belief networks,
        https://arxiv.org/abs/1402.0030

    Example:
        >>> Bernoulli(3)().log_prob(torch.tensor([0.0, 1.0, 1.0])).exp()
        tensor(0.1250, grad_fn=<ExpBackward0>)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        return dist.Bernoulli(logits=self.logits).to_event(1)
