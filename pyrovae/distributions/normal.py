"""The normal distribution, its log-density in few operations."""

import math

from pyro.distributions import Normal as PyroNormal
from torch import Tensor

__all__ = ["Normal"]

_HALF_LOG_2_PI = math.log(2 * math.pi) / 2


class Normal(PyroNormal):
    """p(x) = exp(-r^2 / 2) / (sqrt(2 pi) sigma), r = (x - mu) / sigma; arguments as those of Pyro's.

    Example:
        >>> import torch
        >>> Normal(torch.tensor(0.0), 1.0).log_prob(torch.tensor(0.0))
        tensor(-0.9189)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """-r^2 / 2 - log sigma - log(2 pi) / 2, in which no variance can overflow."""
        if self._validate_args:
            self._validate_sample(value)
        r = (value - self.loc) / self.scale
        return -0.5 * r * r - self.scale.log() - _HALF_LOG_2_PI
