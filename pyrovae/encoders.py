"""Encoders q(z | x): amortised posterior families, modules whose call on data gives the distribution.

An encoder of your own is a small subclass of `Encoder` whose `forward(x)` returns a Pyro distribution of event `(D,)`.
"""

from abc import abstractmethod

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.conditional import Build, Conditional
from pyrovae.scale import positive

__all__ = ["Bernoulli", "DiagonalNormal"]


class Encoder(Conditional):
    """Abstract q(z | x); arguments as those of `Conditional`."""

    def __init__(self, network: nn.Module | Build, num_parameters: int) -> None:
        super().__init__(network, num_parameters)
        if self.event_shape is not None and len(self.event_shape) > 1:
            raise ValueError(f"z is a vector, but the network of {type(self).__name__} gives {self.network.out_shape}")

    @abstractmethod
    def forward(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(...)`, event `(D,)`, of data x `(..., *event)`."""


class DiagonalNormal(Encoder):
    """q(z | x) = N(z; mu(x), diag(sigma(x)^2)), with sigma = softplus(a) + 1e-4.

    Args:
        network: maps x to mu and a, `(..., 2 D)`; or a function that builds it, given 2.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = DiagonalNormal(networks.MLP((1, 8, 8), 2 * 3))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=2)

    def forward(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(...)`, event `(D,)`, of data x `(..., *event)`."""
        loc, unconstrained_scale = self.parameters_of(x, dim=-1)
        return dist.Normal(loc, positive(unconstrained_scale)).to_event(1)


class Bernoulli(Encoder):
    """q(z | x) = prod_d Bernoulli(z_d; sigmoid(logit_d(x))), for z_d in {0, 1}.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        network: maps x to the logits, `(..., D)`; or a function that builds it, given 1.

    References:
        Mnih and Gregor (2014), Neural variational inference and learning in belief networks,
        https://arxiv.org/abs/1402.0030

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Bernoulli(networks.MLP((1, 8, 8), 3))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=1)

    def forward(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(...)`, event `(D,)`, of data x `(..., *event)`."""
        (logits,) = self.parameters_of(x, dim=-1)
        return dist.Bernoulli(logits=logits).to_event(1)
