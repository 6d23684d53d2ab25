"""The thermodynamic variational objective."""

import torch
from torch import Tensor

from pyrovae.arguments import number, whole
from pyrovae.gradient import Gradient
from pyrovae.gradients import STL, VIMCO, Concrete, Covariance, DReG, Pathwise, ScoreFunction, StraightThrough
from pyrovae.objective import Objective

__all__ = ["TVO"]


class TVO(Objective):
    """E[sum_j (b_(j+1) - b_j) sum_k v_jk log w_k], v_jk ~ w_k^b_j normalised: the thermodynamic bound by left sums.

    The integral of E_(pi_b)[log w] over b from 0 to 1, which is log p(x), by P rectangles at 0 = b_0 < b_1 < ... < 1,
    where b_1, ..., b_P = 1 are evenly spaced on a logarithmic scale. Never above the IWAE bound of the same draws.

    Args:
        num_particles: K, draws of z for each datum.
        partitions: P; with P = 1 it is the ELBO.
        first: b_1, for P > 1.
        gradient: the estimator; by default `gradients.Covariance`, the paper's.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.

    References:
        Masrani et al. (2019), The thermodynamic variational objective, https://arxiv.org/abs/1907.00031

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> TVO(num_particles=10, partitions=5).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    estimators = (Covariance, Pathwise, STL, DReG, ScoreFunction, VIMCO, Concrete, StraightThrough)

    def __init__(
        self,
        num_particles: int = 10,
        partitions: int = 5,
        first: float = 0.03,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        whole("partitions", partitions)
        number("first", first, above=0, below=1)
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        self.partitions, self.first = partitions, first
        self.betas = [0.0, *(first ** (1 - j / (partitions - 1)) for j in range(partitions - 1)), 1.0]

    def reduce(self, terms: Tensor) -> Tensor:
        """Sum_j (b_(j+1) - b_j) sum_k v_jk log w_k."""
        return sum(width * (weight * terms).sum(0) for _, width, weight, _ in self._rectangles(terms))

    def curvature(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """dF / dl_k and d^2 F / dl_k^2."""
        first, second = torch.zeros_like(terms), torch.zeros_like(terms)
        for beta, width, weight, centred in self._rectangles(terms):
            by_l = weight * (1 + beta * centred)  # d/dl_k sum_i v_i l_i
            first = first + width * by_l
            second = second + width * beta * ((1 - weight) * by_l + weight * (1 - by_l))
        return first, second

    def covariance(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of d log w_k and of d/dphi log q(z_k | x) in the bound's gradient, `(K, B)` each."""
        covariance = sum(width * weight * centred for _, width, weight, centred in self._rectangles(log_weight))
        return self.curvature(log_weight)[0], covariance

    def _rectangles(self, terms: Tensor) -> list[tuple[float, float, Tensor, Tensor]]:
        """For each b_j: itself, b_(j+1) - b_j, the weights v_jk, and log w_k less its mean under them."""
        rectangles = []
        for beta, next_beta in zip(self.betas, self.betas[1:], strict=False):
            weight = (beta * terms).softmax(0)
            rectangles.append((beta, next_beta - beta, weight, terms - (weight * terms).sum(0)))
        return rectangles
