"""What every model with answers is: a live VAE, and methods that tell what is known of it."""

from abc import ABC, abstractmethod

from torch import Tensor

from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Exact"]


class Exact(ABC):
    """Abstract: a model with answers, of the VAE that it holds."""

    vae: VAE

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw z ~ p(z) and x ~ p(x | z), n times: data `(n, data_dim)`."""
        with isolated(seed):
            return self.vae.sample(n)

    @abstractmethod
    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) of data `(B, data_dim)`: `(B,)`."""

    def _data(self, x: Tensor) -> Tensor:
        """Data, once they are checked, in the precision and on the device of the VAE."""
        self.vae.check(x)
        return x.to(next(self.vae.parameters()))
