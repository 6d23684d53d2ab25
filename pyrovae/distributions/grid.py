"""Grids of equally spaced values, and the distribution of any probabilities on one."""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from pyrovae.arguments import number, whole

__all__ = ["Grid", "GridCategorical"]


class Grid(constraints.Constraint):
    """The constraint that x is one of 0, step, 2 step, ..., (levels - 1) step.

    Args:
        levels: number of values, at least 2.
        step: distance between neighbours; by default 1 / (levels - 1), grey values from 0 to 1.

    Raises:
        ValueError: if there are fewer than two values, or the step is not positive.

    Example:
        >>> Grid(256).check(torch.tensor([0.0, 0.5, 128 / 255]))
        tensor([ True, False,  True])
    """

    is_discrete = True

    def __init__(self, levels: int, step: float | None = None) -> None:
        self.levels = whole("the values of a grid", levels, least=2)
        self.step = 1 / (levels - 1) if step is None else number("step, between values of a grid,", step, above=0)

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is on the grid, up to the rounding of float32."""
        nearest = self.index(value)
        on = (value / self.step - nearest).abs() <= 1e-6 * self.levels
        return on & (nearest >= 0) & (nearest < self.levels)

    def index(self, value: Tensor) -> Tensor:
        """The whole number k of which k step is nearest to each value."""
        return (value / self.step).round()

    def __str__(self) -> str:
        return f"{{0, {self.step:.6g}, ..., {self.step * (self.levels - 1):.6g}}} of {self.levels} values"

    __repr__ = __str__


class GridCategorical(TorchDistribution):
    """P(x = k step) = softmax(logits)_k, for k = 0, ..., n - 1.

    Args:
        logits: unnormalised log-probabilities, `(..., n)`.
        step: distance between neighbouring values; by default 1 / (n - 1), grey values from 0 to 1.
        validate_args: whether to check arguments and values; by default as PyTorch is set.

    Example:
        >>> p = GridCategorical(torch.tensor([0.0, 0.0, 0.0]).log_softmax(-1), step=1)
        >>> p.mean, p.log_prob(torch.tensor(2.0)).exp()
        (tensor(1.), tensor(0.3333))
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, step: float | None = None, validate_args: bool | None = None) -> None:
        self.logits, self.grid = logits, Grid(logits.shape[-1], step)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grid."""
        return self.grid

    def expand(self, batch_shape: Size, _instance: "GridCategorical | None" = None) -> "GridCategorical":
        """The same distribution, its batch shape expanded."""
        new = self._get_checked_instance(type(self), _instance)
        new.logits, new.grid = self.logits.expand(*batch_shape, -1), self.grid
        super(GridCategorical, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        log_probs = self.logits.log_softmax(-1)
        index = self.grid.index(value).long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.batch_shape)
        return log_probs.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_k P(x = k step) k step."""
        values = torch.arange(self.grid.levels, dtype=self.logits.dtype, device=self.logits.device) * self.grid.step
        return self.logits.softmax(-1) @ values

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw x, `(*sample_shape, ...)`."""
        index = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return index.to(self.logits) * self.grid.step
