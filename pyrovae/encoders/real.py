"""Encoders whose z lies anywhere in R^D: normals, mixtures of them, Laplace's distribution, and points."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.conditional import Build
from pyrovae.distributions import normal
from pyrovae.distributions.reparameterized_mixture import ReparameterizedMixture
from pyrovae.encoders.encoder import Encoder
from pyrovae.scale import positive

__all__ = ["Delta", "DiagonalNormal", "FullRankNormal", "Laplace", "LowRankNormal", "MixtureOfNormals"]


class DiagonalNormal(Encoder):
    """q(z | x) = N(z; mu(x), diag(sigma(x)^2)), with sigma = softplus(a) + 1e-4.

    Args:
        network: maps x to mu and a, `(..., 2 D)`; or a function that builds it, given `num_outputs`.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = DiagonalNormal(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=2)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        loc, unconstrained_scale = output.chunk(2, -1)
        return normal.Normal(loc, positive(unconstrained_scale)).to_event(1)


class FullRankNormal(Encoder):
    """q(z | x) = N(z; mu(x), L L^T), L = diag(sigma) (I + C), with C below the diagonal.

    Of C the network gives the sinh, so that a covariance remains invertible in float32 whatever the network's output.

    Args:
        network: maps x to mu, a, of which sigma = softplus(a) + 1e-4, and C, `(..., 2 D + D (D - 1) / 2)`; or a
            function that builds it, given `num_outputs`.

    References:
        Rezende et al. (2014), Stochastic backpropagation and approximate inference, https://arxiv.org/abs/1401.4082

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = FullRankNormal(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network)

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for z of dimension `size`; it rises with it."""
        return 2 * size + size * (size - 1) // 2

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        size = self._size(output.shape[-1:])
        loc, unconstrained_scale, sinh = output.split([size, size, size * (size - 1) // 2], -1)
        lower = torch.eye(size, dtype=output.dtype, device=output.device).repeat(*output.shape[:-1], 1, 1)
        row, column = torch.tril_indices(size, size, -1, device=output.device)
        lower[..., row, column] = torch.asinh(sinh)
        return dist.MultivariateNormal(loc, scale_tril=positive(unconstrained_scale).unsqueeze(-1) * lower)


class LowRankNormal(Encoder):
    """q(z | x) = N(z; mu(x), S (I + C C^T) S), with S = diag(sigma) and C of few columns.

    Of C the network gives the sinh, so that a covariance remains invertible in float32 whatever the network's output.

    Args:
        network: maps x to mu, a, of which sigma = softplus(a) + 1e-4, and C, `(..., (2 + rank) D)`; or a function that
            builds it, given `num_outputs`.
        rank: columns of C.

    Raises:
        ValueError: if rank is less than 1.

    References:
        Rezende et al. (2014), Stochastic backpropagation and approximate inference, https://arxiv.org/abs/1401.4082

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = LowRankNormal(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build, rank: int = 2) -> None:
        self.rank = whole("rank", rank)  # with no column, it would be a DiagonalNormal
        super().__init__(network, num_parameters=2 + rank)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        loc, unconstrained_scale, sinh = output.unflatten(-1, (2 + self.rank, -1)).split([1, 1, self.rank], -2)
        scale = positive(unconstrained_scale)
        factor = (scale * torch.asinh(sinh)).mT  # (..., D, rank)
        return dist.LowRankMultivariateNormal(loc.squeeze(-2), factor, scale.squeeze(-2).square())


class Laplace(Encoder):
    """q(z | x) = prod_d exp(-|z_d - mu_d(x)| / b_d(x)) / (2 b_d(x)), with b = softplus(a) + 1e-4.

    Args:
        network: maps x to mu and a, `(..., 2 D)`; or a function that builds it, given `num_outputs`.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Laplace(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=2)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        loc, unconstrained_scale = output.chunk(2, -1)
        return dist.Laplace(loc, positive(unconstrained_scale)).to_event(1)


class MixtureOfNormals(Encoder):
    """q(z | x) = sum_c pi_c(x) N(z; mu_c(x), diag(sigma_c(x)^2)), with sigma = softplus(a) + 1e-4.

    Draws have a pathwise gradient to all of pi, mu and sigma, by implicit reparameterisation. That to pi, which moves
    mass from one component to another, has heavy tails where components lie apart: with two components 3 sigma to each
    side of 0 in 8 dimensions, the mean of 100,000 draws is a third of the gradient. There take
    `gradients.ScoreFunction(baselines.LeaveOneOut())`, which does not depend on the way between components.

    Args:
        network: maps x to the logits of pi, and mu and a of each component, `(..., C (1 + 2 D))`; or a function that
            builds it, given `num_outputs`.
        components: C.

    Raises:
        ValueError: if there is no component.

    References:
        Jaakkola and Jordan (1998), Improving the mean field approximation via the use of mixture distributions,
        https://doi.org/10.1007/978-94-011-5014-9_6
        Figurnov et al. (2018), Implicit reparameterization gradients, https://arxiv.org/abs/1805.08498

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = MixtureOfNormals(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build, components: int = 5) -> None:
        self.components = whole("components", components)
        super().__init__(network)

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for z of dimension `size`; it rises with it."""
        return self.components * (1 + 2 * size)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        logits, parameters = output.split([self.components, output.shape[-1] - self.components], -1)
        loc, unconstrained_scale = parameters.unflatten(-1, (2, self.components, -1)).unbind(-3)  # (..., C, D)
        normals = dist.Normal(loc, positive(unconstrained_scale)).to_event(1)
        return ReparameterizedMixture(dist.Categorical(logits=logits), normals)


class Delta(Encoder):
    """q(z | x) = delta(z - mu(x)): one point, at which the prior's and the likelihood's product is large.

    Maximum a posteriori, amortised. It has no density, so that its objective is no bound on log p(x).

    Args:
        network: maps x to mu, `(..., D)`; or a function that builds it, given `num_outputs`.

    References:
        Ghosh et al. (2020), From variational to deterministic autoencoders, https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Delta(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        return dist.Delta(output, event_dim=1)
