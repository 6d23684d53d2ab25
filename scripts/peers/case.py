"""What is trained: a VAE of 784-400-50 units and its variations, its weights, its data, and the work of a step."""

from dataclasses import asdict, dataclass
from math import sqrt

import torch
from torch import Tensor

__all__ = ["LEARNING_RATE", "Case"]

LEARNING_RATE = 1e-3  # Adam's
_BATCHES = 10  # resident on the device, taken in turn


@dataclass(frozen=True)
class Case:
    """A VAE of fully connected networks with one hidden softplus layer each, the bound, and the batches.

    The encoder maps x to mu and a, sigma = softplus(a) + 1e-4; the decoder maps z to the logits of x in {0, 1}.

    Args:
        name: of the case.
        batch_size: B, data in a batch.
        num_particles: K, draws of z for each datum; 1 for the ELBO, more for the IWAE bound.
        hidden: H, units of both hidden layers.
        latent_dim: D.
        pixels: X, elements of x.
        prior: class of p(z) in `pyrovae.priors`.
        encoder: class of q(z | x) in `pyrovae.encoders`.
    """

    name: str
    batch_size: int
    num_particles: int = 1
    hidden: int = 400
    latent_dim: int = 50
    pixels: int = 784
    prior: str = "StandardNormal"
    encoder: str = "DiagonalNormal"

    @property
    def normal(self) -> bool:
        """Whether prior and posterior are those that every peer has."""
        return (self.prior, self.encoder) == ("StandardNormal", "DiagonalNormal")

    def to_dict(self) -> dict[str, str | int]:
        """As a dictionary of plain values."""
        return asdict(self)

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a normal case, by their names in our VAE."""
        return {
            "encoder.network.layers.1": (self.pixels, self.hidden),
            "encoder.network.layers.3": (self.hidden, 2 * self.latent_dim),
            "likelihood.network.layers.1": (self.latent_dim, self.hidden),
            "likelihood.network.layers.3": (self.hidden, self.pixels),
        }

    def weights(self) -> dict[str, Tensor]:
        """The weights that all peers start from in a normal case, by their names in our VAE: uniform by Xavier.

        Biases are not 0, nor are the outputs' weights small, so that a peer that leaves one out has another bound.
        """
        generator = torch.Generator().manual_seed(0)

        def uniform(*shape: int, limit: float) -> Tensor:
            return torch.rand(shape, generator=generator).mul_(2 * limit).sub_(limit)

        weights = {}
        for name, (i, o) in self.layers.items():
            weights[f"{name}.weight"] = uniform(o, i, limit=sqrt(6 / (i + o)))
            weights[f"{name}.bias"] = uniform(o, limit=0.1)
        return weights

    def batches(self, device: torch.device) -> Tensor:
        """Batches of binary data of ten classes, `(batches, B, X)`: x_i ~ Bernoulli(u_ci^4), u_ci ~ U(0, 1)."""
        generator = torch.Generator().manual_seed(1)
        intensity = torch.rand(10, self.pixels, generator=generator) ** 4
        c = torch.randint(10, (_BATCHES, self.batch_size), generator=generator)
        return torch.bernoulli(intensity[c], generator=generator).to(device)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows that go through each linear layer: B through the encoder's, K B through the decoder's."""
        b, kb = self.batch_size, self.num_particles * self.batch_size
        return b, b, kb, kb

    @property
    def parameters(self) -> int:
        """P, how many numbers are learned in a normal case."""
        return sum(i * o + o for i, o in self.layers.values())

    @property
    def operations(self) -> int:
        """Floating point operations of a step's matrix products, an addition and a multiplication being two.

        A layer of n rows, i inputs and o outputs needs 2 n i o for its output, as many for its weight's gradient, and
        as many for its input's, but the first, whose input is x.
        """
        products = (2, 3, 3, 3)
        sizes = self.layers.values()
        return sum(2 * k * n * i * o for k, n, (i, o) in zip(products, self.rows, sizes, strict=True))

    @property
    def activations(self) -> int:
        """A, how many outputs the linear layers have."""
        return sum(n * o for n, (_, o) in zip(self.rows, self.layers.values(), strict=True))

    @property
    def bytes(self) -> int:
        """Bytes that a step reads and writes if every use of a number goes to memory: 4 (10 P + 6 A + 2 B X).

        A parameter is read forward and backward; its gradient is written; Adam reads both and two moments, and writes
        all but the gradient: 10. A layer's output is written and read forward and read backward; its gradient is
        written, and read for the weight's and for the input's: 6. Data are read forward, and for the first weight's
        gradient: 2.
        """
        return 4 * (10 * self.parameters + 6 * self.activations + 2 * self.batch_size * self.pixels)

    @property
    def resident(self) -> int:
        """Bytes of parameters, their gradients and two moments, and of outputs and their gradients: 4 (4 P + 2 A)."""
        return 4 * (4 * self.parameters + 2 * self.activations)
