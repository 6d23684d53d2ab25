"""A codebook: vectors that stand for all others, each for those that are nearest to it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrovae.arguments import number, whole
from pyrovae.networks.network import Shape, as_shape

__all__ = ["Codebook", "perplexity"]

_DECAY = 0.99  # of the counts, where the vectors have no decay of their own


class Codebook(nn.Module):
    """K vectors e_k in R^D; called on z, gives e_c with c = argmin_k |z_l - e_k|^2, at each of the L positions of z.

    The vectors are learned by exponential moving averages, N_k <- g N_k + (1 - g) n_k of how many z of a batch are
    nearest to e_k, m_k <- g m_k + (1 - g) sum of these z, and e_k = m_k / N_k: with g = 0 a step of k-means. Or, with
    g = None, by the gradient of a loss. Either way a vector that stands for hardly any z starts anew at one of the
    batch's; so do all in the first batch.

    Args:
        codes: K.
        shape: that the D L numbers of a z are read as, `(D, *positions)`, such as `(D, H, W)` for a grid of vectors.
        decay: g, from 0 to below 1; None if the vectors are parameters.
        restart: how many z of a batch, on average, a vector stands for at least; 0 lets it be.

    Raises:
        ValueError: if a number is out of range.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, https://arxiv.org/abs/1711.00937
        Razavi et al. (2019), Generating diverse high-fidelity images with VQ-VAE-2, https://arxiv.org/abs/1906.00446
        Dhariwal et al. (2020), Jukebox (random restarts), https://arxiv.org/abs/2005.00341

    Example:
        >>> codebook = Codebook(codes=64, shape=(8, 7, 7))
        >>> z = torch.randn(20, 8 * 7 * 7)
        >>> codebook(z).shape, codebook.nearest(z).shape
        (torch.Size([20, 392]), torch.Size([20, 7, 7]))
    """

    def __init__(self, codes: int, shape: Shape, decay: float | None = 0.99, restart: float = 0.1) -> None:
        super().__init__()
        self.codes, self.shape = whole("codes", codes), as_shape(shape)
        self.decay = None if decay is None else number("decay", decay, least=0, below=1)
        self.restart = number("restart", restart, least=0)
        vectors = torch.randn(codes, self.shape[0]) / math.sqrt(self.shape[0])  # (K, D)
        if decay is None:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
            self.register_buffer("total", torch.zeros_like(vectors))  # m, (K, D)
        self.register_buffer("count", torch.zeros(codes))  # N, (K,)

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the codes of one z, of L numbers."""
        return self.shape[1:]

    def forward(self, z: Tensor) -> Tensor:
        """e_c of the nearest codes, `(..., D L)`, for z of that shape."""
        return self.look_up(self.nearest(z))

    def distances(self, z: Tensor) -> Tensor:
        """|z_l - e_k|^2 of every k, `(..., *positions, K)`, for z `(..., D L)`."""
        z = self.vectors_of(z)
        return z.square().sum(-1, keepdim=True) - 2 * z @ self.vectors.T + self.vectors.square().sum(-1)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """c_l = argmin_k |z_l - e_k|^2, `(..., *positions)`, for z `(..., D L)`."""
        return (self.vectors.square().sum(-1) - 2 * self.vectors_of(z) @ self.vectors.T).argmin(-1)

    def look_up(self, c: Tensor) -> Tensor:
        """e_c, `(..., D L)`, of codes c `(..., *positions)`."""
        return F.embedding(c, self.vectors).movedim(-1, -len(self.shape)).flatten(-len(self.shape))

    def vectors_of(self, z: Tensor) -> Tensor:
        """z_l, `(..., *positions, D)`, of z `(..., D L)`."""
        return z.unflatten(-1, self.shape).movedim(-len(self.shape), -1)

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Count how many z_l of a batch `(..., D L)` are nearest to each e_k; move the vectors, or restart some.

        Args:
            z: of the batch.
        """
        vectors = self.vectors_of(z).reshape(-1, self.shape[0])  # (N, D)
        dead = self.count < self.restart
        anew = vectors[torch.randint(len(vectors), (self.codes,), device=z.device)]  # (K, D)
        self.vectors.copy_(torch.where(dead[:, None], anew, self.vectors))
        self.count.copy_(torch.where(dead, 1.0, self.count))
        used = F.one_hot(self.nearest(z).flatten(), self.codes).to(z)  # (N, K)
        g = _DECAY if self.decay is None else self.decay
        self.count.lerp_(used.sum(0), 1 - g)
        if self.decay is not None:
            self.total.copy_(torch.where(dead[:, None], anew, self.total)).lerp_(used.T @ vectors, 1 - g)
            mean = self.total / self.count[:, None]
            self.vectors.copy_(torch.where(self.count[:, None] > 0, mean, self.vectors))


def perplexity(counts: Tensor) -> float:
    """exp(-sum_k p_k log p_k), p_k = n_k / sum n: as many codes, used alike, would be as hard to guess.

    Args:
        counts: n_k, how often each code is used, `(K,)`.

    Example:
        >>> perplexity(torch.tensor([5, 5, 5, 0]))
        3.0
    """
    return torch.special.entr(counts.double() / counts.sum()).sum().exp().item()
