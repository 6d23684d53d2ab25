"""Priors over grids of codes, whole numbers from 0 to K - 1: uniform, and one code after another."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import prod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn.auto_reg_nn import MaskedLinear
from torch import Tensor, nn

from pyrovae.arguments import whole, wholes
from pyrovae.distributions.autoregressive import AutoregressiveCategorical

__all__ = ["AutoregressiveCodes", "CodesPrior", "UniformCodes"]


class CodesPrior(nn.Module, ABC):
    """Abstract p(c).

    Args:
        shape: of the positions, such as `(7, 7)`; `()` for a single code.
        codes: K.
    """

    def __init__(self, shape: int | tuple[int, ...], codes: int) -> None:
        super().__init__()
        self.shape = wholes("positions", shape if isinstance(shape, Iterable) else (shape,))
        self.codes = whole("codes", codes)

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """The distribution p(c), batch `()`, event `shape`."""


class UniformCodes(CodesPrior):
    """p(c) = K^-L, for the L positions of `shape`.

    Args:
        shape: of the positions, such as `(7, 7)`; `()` for a single code.
        codes: K.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, https://arxiv.org/abs/1711.00937

    Example:
        >>> UniformCodes((2, 2), codes=8)().sample((5,)).shape
        torch.Size([5, 2, 2])
    """

    def __init__(self, shape: int | tuple[int, ...], codes: int) -> None:
        super().__init__(shape, codes)
        self.register_buffer("logits", torch.zeros(codes), persistent=False)

    def forward(self) -> TorchDistribution:
        """The distribution p(c), batch `()`, event `shape`."""
        logits = self.logits.expand(*self.shape, self.codes)
        return dist.Categorical(logits=logits).to_event(len(self.shape))


class AutoregressiveCodes(CodesPrior):
    """p(c) = prod_i p(c_i | c_1, ..., c_(i-1)), position by position in order of rows, by a masked network (MADE).

    Each position has H units a layer, which see those of earlier positions, from the second layer on their own, too.

    Args:
        shape: of the positions, such as `(7, 7)`; `()` for a single code.
        codes: K.
        hidden: H.
        layers: hidden layers.
        embedding: numbers that a code is written as.

    Raises:
        ValueError: if a number is less than 1.

    References:
        Germain et al. (2015), MADE: masked autoencoder for distribution estimation, https://arxiv.org/abs/1502.03509

    Example:
        >>> p = AutoregressiveCodes((2, 2), codes=8)()
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    def __init__(
        self, shape: int | tuple[int, ...], codes: int, hidden: int = 32, layers: int = 2, embedding: int = 16
    ) -> None:
        super().__init__(shape, codes)
        for name, value in {"hidden": hidden, "layers": layers, "embedding": embedding}.items():
            whole(name, value)
        positions = prod(self.shape)
        self.embedding = nn.Embedding(codes, embedding)
        before = torch.ones(positions, positions).tril(-1)  # of each position, those that it may see
        inner: list[nn.Module] = []
        for size, mask in [(embedding, before), *[(hidden, before + torch.eye(positions))] * (layers - 1)]:
            mask = mask.repeat_interleave(hidden, 0).repeat_interleave(size, 1)  # (L H, L size)
            inner += [MaskedLinear(positions * size, positions * hidden, mask), nn.ReLU()]
        self.layers = nn.Sequential(*inner, nn.Unflatten(-1, (positions, hidden)), nn.Linear(hidden, codes))
        if positions == 1:  # which sees none
            self.embedding.requires_grad_(False)
            self.layers[0].weight.requires_grad_(False)
        nn.init.xavier_uniform_(self.layers[-1].weight, gain=0.1)  # nearly uniform at first
        nn.init.zeros_(self.layers[-1].bias)

    def logits(self, c: Tensor) -> Tensor:
        """Of the code at each position given those before it, `(..., L, K)`, for codes `(..., L)`."""
        return self.layers(self.embedding(c).flatten(-2))

    def forward(self) -> TorchDistribution:
        """The distribution p(c), batch `()`, event `shape`."""
        device = self.embedding.weight.device
        return AutoregressiveCategorical(self.logits, self.shape, self.codes, device)
