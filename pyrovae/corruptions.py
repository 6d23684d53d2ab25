"""Corruptions of data, from which denoising autoencoders learn to recover them: they act in training mode alone."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pyrovae.arguments import number

__all__ = ["GaussianNoise", "Masking", "SaltAndPepper"]


class Corruption(nn.Module, ABC):
    """Abstract: c(x), drawn anew each time."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Corrupted data, of the same shape."""

    def extra_repr(self) -> str:
        """How much, in its representation."""
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if isinstance(value, float))


class GaussianNoise(Corruption):
    """c(x) = x + scale eps, eps ~ N(0, I).

    Args:
        scale: standard deviation, positive.

    References:
        Vincent et al. (2010), Stacked denoising autoencoders, https://jmlr.org/papers/v11/vincent10a.html

    Example:
        >>> GaussianNoise(0.5)(torch.zeros(10_000)).std()
        tensor(0.50)
    """

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = number("scale", scale, above=0)

    def forward(self, x: Tensor) -> Tensor:
        """Corrupted data, of the same shape."""
        return x + self.scale * torch.randn_like(x) if self.training else x


class Masking(Corruption):
    """c(x)_i = 0 with the given probability, else x_i.

    Args:
        probability: of each element to be lost, between 0 and 1.

    References:
        Vincent et al. (2010), Stacked denoising autoencoders, https://jmlr.org/papers/v11/vincent10a.html

    Example:
        >>> Masking(0.25)(torch.ones(10_000)).mean()
        tensor(0.75)
    """

    def __init__(self, probability: float = 0.3) -> None:
        super().__init__()
        self.probability = number("probability", probability, above=0, below=1)

    def forward(self, x: Tensor) -> Tensor:
        """Corrupted data, of the same shape."""
        return x * (torch.rand_like(x) >= self.probability) if self.training else x


class SaltAndPepper(Corruption):
    """c(x)_i = 0 or 1, by a fair coin, with the given probability, else x_i.

    Args:
        probability: of each element to be lost, between 0 and 1.

    References:
        Vincent et al. (2010), Stacked denoising autoencoders, https://jmlr.org/papers/v11/vincent10a.html

    Example:
        >>> SaltAndPepper(0.5)(torch.ones(10_000)).mean()
        tensor(0.75)
    """

    def __init__(self, probability: float = 0.3) -> None:
        super().__init__()
        self.probability = number("probability", probability, above=0, below=1)

    def forward(self, x: Tensor) -> Tensor:
        """Corrupted data, of the same shape."""
        if not self.training:
            return x
        u = torch.rand_like(x) / self.probability  # below 1 where x is lost, below 1/2 where it becomes 0
        return torch.where(u < 1, (u >= 0.5).to(x.dtype), x)
