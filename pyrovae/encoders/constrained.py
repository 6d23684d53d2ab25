"""Encoders whose z does not lie just anywhere: bits, one-hot vectors, their relaxations, and the unit sphere."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.arguments import number
from pyrovae.conditional import Build
from pyrovae.distributions import power_spherical, relaxed
from pyrovae.encoders.encoder import Encoder
from pyrovae.scale import positive

__all__ = ["Bernoulli", "OneHotCategorical", "PowerSpherical", "RelaxedBernoulli", "RelaxedOneHotCategorical"]


class Bernoulli(Encoder):
    """q(z | x) = prod_d Bernoulli(z_d; sigmoid(logit_d(x))), for z_d in {0, 1}.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        network: maps x to the logits, `(..., D)`; or a function that builds it, given `num_outputs`.

    References:
        Mnih and Gregor (2014), Neural variational inference and learning in belief networks,
        https://arxiv.org/abs/1402.0030

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = Bernoulli(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        return dist.Bernoulli(logits=output).to_event(1)


class OneHotCategorical(Encoder):
    """q(z | x) = pi_z(x) = softmax(logits(x))_z, for one-hot vectors z.

    Draws of z have no pathwise gradient: train with an objective whose gradient does without.

    Args:
        network: maps x to the logits, `(..., D)`; or a function that builds it, given `num_outputs`.

    References:
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = OneHotCategorical(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    support = constraints.one_hot

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        return dist.OneHotCategorical(logits=output)


class RelaxedBernoulli(Encoder):
    """q(z | x): z_d = sigmoid((logit_d(x) + log u_d - log(1 - u_d)) / temperature), u_d ~ U(0, 1).

    A density on the cube, close to its corners where the temperature is low, with a pathwise gradient.

    Args:
        network: maps x to the logits, `(..., D)`; or a function that builds it, given `num_outputs`.
        temperature: positive.

    Raises:
        ValueError: if the temperature is not positive.

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = RelaxedBernoulli(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    support = constraints.independent(constraints.unit_interval, 1)

    def __init__(self, network: nn.Module | Build, temperature: float = 0.5) -> None:
        super().__init__(network)
        self.temperature = number("temperature", temperature, above=0)  # the limit 0 has no density

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        return relaxed.RelaxedBernoulli(self.temperature, output).to_event(1)


class RelaxedOneHotCategorical(Encoder):
    """q(z | x): z = softmax((logits(x) + g) / temperature), g_d ~ Gumbel.

    A density on the simplex, close to its corners where the temperature is low, with a pathwise gradient.

    Args:
        network: maps x to the logits, `(..., D)`; or a function that builds it, given `num_outputs`.
        temperature: positive.

    Raises:
        ValueError: if the temperature is not positive.

    References:
        Maddison et al. (2017), The concrete distribution, https://arxiv.org/abs/1611.00712
        Jang et al. (2017), Categorical reparameterization with Gumbel-softmax, https://arxiv.org/abs/1611.01144

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = RelaxedOneHotCategorical(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> tuple(q.batch_shape), tuple(q.event_shape)
        ((20,), (3,))
    """

    support = constraints.simplex

    def __init__(self, network: nn.Module | Build, temperature: float = 0.5) -> None:
        super().__init__(network)
        self.temperature = number("temperature", temperature, above=0)  # the limit 0 has no density

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        return relaxed.RelaxedOneHotCategorical(self.temperature, output)


class PowerSpherical(Encoder):
    """q(z | x) = (1 + mu(x) . z)^kappa(x) / N(kappa(x)), for unit vectors z in R^D, D >= 2.

    The direction mu is that of the network's first D outputs, the first axis where they are all 0; kappa is
    softplus(a) + 1e-4. Densities are with respect to the sphere's surface.

    Args:
        network: maps x to mu's direction and a, `(..., D + 1)`; or a function that builds it, given `num_outputs`.

    Raises:
        ValueError: if z has one dimension.

    References:
        Davidson et al. (2018), Hyperspherical variational auto-encoders, https://arxiv.org/abs/1804.00891
        De Cao and Aziz (2020), The power spherical distribution, https://arxiv.org/abs/2006.04437

    Example:
        >>> import torch
        >>> from pyrovae import networks
        >>> q = PowerSpherical(lambda outputs: networks.MLP((1, 8, 8), outputs(3)))(torch.zeros(20, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([20]), torch.Size([3]))
    """

    support = constraints.sphere

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network)
        if self.event_shape == (1,):
            raise ValueError("a sphere lies in a space of at least 2 dimensions, but z has 1: take a larger latent_dim")

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for z of dimension `size`; it rises with it."""
        return size + 1

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has the network's output for parameters."""
        direction, unconstrained_concentration = output[..., :-1], output[..., -1]
        length = direction.norm(dim=-1, keepdim=True)
        first = torch.nn.functional.one_hot(torch.zeros_like(length[..., 0], dtype=torch.long), direction.shape[-1])
        loc = torch.where(length > 1e-6, direction / length.clamp(min=1e-6), first.to(output.dtype))
        return power_spherical.PowerSpherical(loc, positive(unconstrained_concentration))
