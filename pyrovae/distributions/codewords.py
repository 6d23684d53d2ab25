"""Discrete variables whose values are written as vectors: each stands for the code of the codeword nearest to it."""

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from pyrovae.networks.codebook import Codebook

__all__ = ["Codewords", "Nearest"]


class _Codes(TorchDistribution):
    """Abstract: over codes, by vectors `(D L,)`."""

    arg_constraints: ClassVar = {}

    support = constraints.real_vector  # every one stands for a code


class Codewords(_Codes):
    """P(z) = p(c), where e_c is the codeword nearest to z at each position; draws are codewords, z = e_c with c ~ p(c).

    Args:
        codes: p(c), over codes from 0 to K - 1, event `positions`.
        codebook: the codewords.
        validate_args: whether `log_prob` looks at its argument.

    Example:
        >>> import pyro.distributions as dist
        >>> codebook = Codebook(codes=4, shape=(2, 3))
        >>> p = Codewords(dist.Categorical(torch.ones(3, 4)).to_event(1), codebook)
        >>> p.log_prob(torch.zeros(6))  # -3 log 4
        tensor(-4.1589)
    """

    def __init__(self, codes: TorchDistribution, codebook: Codebook, validate_args: bool | None = None) -> None:
        self.codes, self.codebook = codes, codebook
        super().__init__(codes.batch_shape, Size([math.prod(codebook.shape)]), validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: "Codewords | None" = None) -> "Codewords":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.codes, new.codebook = self.codes.expand(Size(batch_shape)), self.codebook
        super(Codewords, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(c) of the nearest codes."""
        if self._validate_args:
            self._validate_sample(value)
        return self.codes.log_prob(self.codebook.nearest(value))

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw e_c, `(*sample_shape, *batch_shape, D L)`."""
        with torch.no_grad():
            return self.codebook.look_up(self.codes.sample(Size(sample_shape)))


class Nearest(_Codes):
    """P(z) = 1 if the codewords nearest to z are those nearest to a vector z_e, else 0: a point mass on one code.

    A reparameterised draw is z_e itself, which stands for its code and has a gradient; `sample` gives the codeword.

    Args:
        vector: z_e, `(..., D L)`.
        codebook: the codewords.
        validate_args: whether `log_prob` looks at its argument.

    Example:
        >>> codebook = Codebook(codes=4, shape=2)
        >>> q = Nearest(codebook.vectors[:2] + 1e-3, codebook)
        >>> q.log_prob(codebook.vectors[1])
        tensor([-inf, 0.])
    """

    has_rsample = True
    support_moves = True  # with z_e

    def __init__(self, vector: Tensor, codebook: Codebook, validate_args: bool | None = None) -> None:
        self.vector, self.codebook = vector, codebook
        super().__init__(vector.shape[:-1], vector.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: "Nearest | None" = None) -> "Nearest":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.vector, new.codebook = self.vector.expand(*batch_shape, *self.event_shape), self.codebook
        super(Nearest, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The codeword."""
        return self.codebook(self.vector)

    @property
    def variance(self) -> Tensor:
        """None."""
        return torch.zeros_like(self.vector)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 or minus infinity."""
        if value is self.vector:  # its own draw, of which rounding must not make that of another code
            return value.new_zeros(self.batch_shape)
        if self._validate_args:
            self._validate_sample(value)
        same = self.codebook(value) == self.codebook(self.vector)  # (..., D L)
        return same.all(-1).to(value).log()

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """z_e, `(*sample_shape, *batch_shape, D L)`."""
        return self.vector.expand(self._extended_shape(sample_shape)) if sample_shape else self.vector

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """The codeword, `(*sample_shape, *batch_shape, D L)`."""
        return self.mean.detach().expand(self._extended_shape(sample_shape))
