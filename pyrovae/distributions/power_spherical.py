"""The power spherical distribution, a density on the unit sphere whose draws have a pathwise gradient."""

import math

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import register_kl
from torch.nn.functional import normalize

from pyrovae.distributions.hyperspherical_uniform import HypersphericalUniform

__all__ = ["PowerSpherical"]


class PowerSpherical(TorchDistribution):
    """p(z) = (1 + mu . z)^kappa / N(kappa) on the unit sphere of R^D, D >= 2.

    N(kappa) = 2^(a + b) pi^b Gamma(a) / Gamma(a + b), with a = b + kappa and b = (D - 1) / 2. Unlike von Mises and
    Fisher's, which it resembles, it is drawn without rejection: (1 + mu . z) / 2 is of Beta(a, b).

    Args:
        loc: mu, unit vectors `(..., D)`.
        concentration: kappa, positive, `(...)`; the larger, the closer to mu the draws.
        validate_args: whether arguments and values are checked.

    References:
        De Cao and Aziz (2020), The power spherical distribution, https://arxiv.org/abs/2006.04437

    Example:
        >>> p = PowerSpherical(torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        >>> p.log_prob(torch.tensor([[0.0, 1.0], [0.0, -1.0]])).exp(), p.mean  # (1 + z_2) / (2 pi)
        (tensor([0.3183, 0.0000]), tensor([0.0000, 0.5000]))
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True
    twice_differentiable = False  # nor is PyTorch's own sampler of the gamma distribution

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(*batch_shape, -1), concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """Draw z, `(*sample_shape, ..., D)`: (1 + mu . z) / 2 by two gammas, the rest of z uniform around mu."""
        shape = self._extended_shape(sample_shape)
        a = (self._b + self.concentration).expand(shape[:-1])
        near, far = torch._standard_gamma(a), torch._standard_gamma(torch.full_like(a, self._b))
        near, far = near / (near + far), far / (near + far)  # each accurate however small
        around = torch.randn(*shape[:-1], shape[-1] - 1, dtype=a.dtype, device=a.device)
        radius = 2 * (near * far).clamp(min=torch.finfo(a.dtype).tiny).sqrt().unsqueeze(-1)
        return self._turned(torch.cat([(near - far).unsqueeze(-1), normalize(around, dim=-1) * radius], -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density with respect to the sphere's surface."""
        if self._validate_args:
            self._validate_sample(value)
        near = (value + self.loc).square().sum(-1) / 4  # (1 + mu . z) / 2
        far = (value - self.loc).square().sum(-1) / 4  # (1 - mu . z) / 2
        close = far < 0.5
        log_near = torch.where(
            close,
            torch.log1p(-torch.where(close, far, 0.0)),
            torch.where(close, 1.0, near).clamp(min=torch.finfo(near.dtype).tiny).log(),
        )
        return self.concentration * log_near - self._log_constant

    @property
    def mean(self) -> Tensor:
        """E[z] = mu kappa / (kappa + D - 1), `(..., D)`."""
        return self.loc * (self.concentration / (self.concentration + 2 * self._b)).unsqueeze(-1)

    @property
    def variance(self) -> Tensor:
        """Var[z_i], `(..., D)`, of what lies along mu and what lies around it."""
        a, n = self._b + self.concentration, 2 * self._b + self.concentration
        around = 4 * a * self._b / (n * (n + 1)) / (2 * self._b)
        along = 4 * a * self._b / (n.square() * (n + 1))
        return around.unsqueeze(-1) + (along - around).unsqueeze(-1) * self.loc.square()

    def entropy(self) -> Tensor:
        """-E[log p(z)], `(...)`."""
        a = self._b + self.concentration.double()
        log_near = (torch.digamma(a) - torch.digamma(a + self._b)).to(self.concentration.dtype)
        return self._log_constant - self.concentration * log_near

    def expand(self, batch_shape: Size, _instance: "PowerSpherical | None" = None) -> "PowerSpherical":
        """The same for a batch of this shape."""
        new = self._get_checked_instance(PowerSpherical, _instance)
        new.loc = self.loc.expand(*batch_shape, *self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(PowerSpherical, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _b(self) -> float:
        return (self.event_shape[-1] - 1) / 2

    @property
    def _log_constant(self) -> Tensor:
        """log N(kappa) - kappa log 2, in float64 as the log-gammas of large kappa cancel."""
        a, b = self._b + self.concentration.double(), self._b
        log_n = 2 * b * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b)
        return log_n.to(self.concentration.dtype)

    def _turned(self, z: Tensor) -> Tensor:
        """Turn the first axis to mu, by the reflection that takes it to -mu or mu, whichever is farther from it."""
        first = torch.zeros_like(self.loc)
        first[..., 0] = torch.where(self.loc[..., 0] < 0, -1.0, 1.0)
        normal = self.loc + first  # of length at least the root of 2
        reflected = z - 2 * normal * ((normal * z).sum(-1) / normal.square().sum(-1)).unsqueeze(-1)
        turned = reflected * -first[..., :1]
        return normalize(turned, dim=-1)


@register_kl(PowerSpherical, HypersphericalUniform)
def _kl_to_uniform(p: PowerSpherical, q: HypersphericalUniform) -> Tensor:
    return -p.entropy() - q.log_prob(p.loc)
