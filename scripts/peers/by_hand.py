"""PyTorch by hand, as a good engineer writes it: logits, fused Adam, nothing read back; eager, and compiled."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from peers.case import LEARNING_RATE, Case
from peers.networks import Networks
from peers.peer import Peer

__all__ = ["Compiled", "Eager"]


class Eager(Peer):
    """One function for the loss, one optimiser. K = 1: closed-form KL(q(z | x) || p(z)).

    Args:
        case: a normal case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        self.networks = Networks(case, self.device)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=LEARNING_RATE, fused=True)
        self.loss = self.negative_elbo if case.num_particles == 1 else self.negative_iwae

    def take(self, n: int) -> None:
        """Take n steps."""
        for x in self.next(n):
            self.optimizer.zero_grad()
            self.loss(x, self.noise()).backward()
            self.optimizer.step()

    def noise(self) -> Tensor:
        """Standard normal, `(K, B, D)`, or `(B, D)` for K = 1. Drawn outside of what is compiled, which is faster."""
        k, b, d = self.case.num_particles, self.case.batch_size, self.case.latent_dim
        return torch.randn((b, d) if k == 1 else (k, b, d), device=self.device)

    def negative_elbo(self, x: Tensor, noise: Tensor) -> Tensor:
        """-(E_q[log p(x | z)] - KL(q(z | x) || p(z))), summed over data."""
        loc, scale = self.posterior(x)
        kl = 0.5 * (loc**2 + scale**2 - 1).sum() - scale.log().sum()
        return kl - self.log_likelihood(x, loc + scale * noise).sum()

    def negative_iwae(self, x: Tensor, noise: Tensor) -> Tensor:
        """-log 1/K sum_k w_k, summed over data."""
        loc, scale = self.posterior(x)
        z = loc + scale * noise
        log_ratio = (0.5 * (noise**2 - z**2) + scale.log()).sum(-1)  # log p(z) - log q(z | x)
        log_weight = self.log_likelihood(x, z) + log_ratio
        return (math.log(len(z)) - log_weight.logsumexp(0)).sum()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and scale of q(z | x), `(B, D)` each."""
        loc, a = self.networks.encoder(x).chunk(2, -1)
        return loc, softplus(a) + 1e-4

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x | z), `(..., B)`. Faster in this form than by `binary_cross_entropy_with_logits`."""
        logits = self.networks.decoder(z)
        return (x * logits - softplus(logits)).sum(-1)

    @torch.no_grad()
    def losses(self, x: Tensor, n: int) -> Tensor:
        """See `Peer`."""
        loss = self.negative_elbo if self.case.num_particles == 1 else self.negative_iwae
        return torch.stack([loss(x, self.noise()) for _ in range(n)]) / len(x)

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        return self.networks.weights()


class Compiled(Eager):
    """The same with its loss compiled, and its backward pass with it; on a GPU as CUDA graphs.

    Args:
        case: a normal case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        self.loss = torch.compile(self.loss, mode="reduce-overhead" if self.device.type == "cuda" else None)
