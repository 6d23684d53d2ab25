"""Data that stand for their draws: tensors of means, of which `fit` draws data anew each epoch."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Drawn", "Intensities", "Levels"]


class Drawn(Tensor):
    """Abstract E[x], of which each epoch draws its x: a tensor like any other, and so are results of operations on it.

    Indexing, moving and copying alone give data that stand for their draws again.
    """

    @abstractmethod
    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Data x, a plain tensor of the same shape, whose means these are."""

    def alike(self, x: Tensor) -> "Drawn":
        """Means x `(...)` of draws of the same kind."""
        result = x.as_subclass(type(self))
        vars(result).update(vars(self))
        return result

    @classmethod
    def __torch_function__(cls, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """Run func on plain tensors; indexing and moving give means of draws again."""
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        keeping = (Tensor.__getitem__, Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.clone, Tensor.float, Tensor.double)
        keeps = func in keeping and isinstance(args[0], cls) and result.is_floating_point()
        return args[0].alike(result) if keeps else result

    def __deepcopy__(self, memo: dict) -> "Drawn":
        return memo.setdefault(id(self), self.clone())


class Intensities(Drawn):
    """x ~ Bernoulli(intensity): grey values in [0, 1] that stand for their binarizations, drawn anew each epoch.

    Args:
        x: intensities, in floating point.

    Raises:
        ValueError: for integers, or values outside [0, 1].

    References:
        Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks,
        https://doi.org/10.1145/1390156.1390266

    Example:
        >>> x = Intensities(torch.tensor([0.0, 0.5, 1.0]))
        >>> type(x[1:]).__name__, type(x + 0).__name__
        ('Intensities', 'Tensor')
    """

    def __new__(cls: type, x: Tensor) -> "Intensities":
        """See the class."""
        _check_floating_point(x, "intensities")
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(f"intensities lie between 0 and 1, but these go from {x.min():.4g} to {x.max():.4g}")
        return x.as_subclass(cls)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """x ~ Bernoulli(intensity), zeros and ones, a plain tensor of the same shape."""
        means = self.as_subclass(Tensor)
        # [u < p] takes a quarter of the time of torch.bernoulli(p).
        u = torch.rand(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        return (u < means).to(means)


class Levels(Drawn):
    """x = (k + u) / n, u ~ U(0, 1): one of n grey levels k that stands for its dequantization, drawn anew each epoch.

    Draws lie in the open interval (0, 1), each in its level's cell of width 1 / n. The values are the cells' middles,
    (k + 1/2) / n, the means of the draws.

    Args:
        x: grey values k / (n - 1), in floating point, as bytes are divided by 255.
        levels: n, how many grey levels there are, from 2 to 65,536.

    Raises:
        ValueError: for integers, values that are no such grey values, or another number of levels.

    References:
        Uria et al. (2013), RNADE: the real-valued neural autoregressive density-estimator,
        https://arxiv.org/abs/1306.0186
        Theis et al. (2016), A note on the evaluation of generative models, section 3.1, https://arxiv.org/abs/1511.01844

    Example:
        >>> x = Levels(torch.tensor([0.0, 0.5, 1.0]), levels=3)
        >>> x.tolist(), type(x[1:]).__name__, x[1:].levels
        ([0.1667, 0.5000, 0.8333], 'Levels', 3)
        >>> x.draw(torch.Generator().manual_seed(0))
        tensor([0.1654, 0.5894, 0.6962])
    """

    levels: int

    def __new__(cls: type, x: Tensor, levels: int = 256) -> "Levels":
        """See the class."""
        _check_floating_point(x, "grey values")
        if not 2 <= levels <= 2**16:
            raise ValueError(f"there are from 2 to 65,536 grey levels, not {levels}")
        k = (x * (levels - 1)).round()
        off = ~((k / (levels - 1) - x).abs() <= 1e-6) | (k < 0) | (k >= levels)  # NaN is off as well
        if off.any():
            raise ValueError(
                f"grey values of {levels} levels are 0, 1/{levels - 1}, ..., 1, but there is {x[off][0]:.6g}: give the "
                f"number of levels that the data have, or leave out the dequantization"
            )
        result = ((k + 0.5) / levels).as_subclass(cls)
        result.levels = int(levels)
        return result

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """x = (k + u) / n, u ~ U(0, 1), in (0, 1), a plain tensor of the same shape."""
        half = torch.finfo(self.dtype).eps / 2  # the least step below 1
        k = (self.as_subclass(Tensor) * self.levels - 0.5).round()
        u = torch.rand(k.shape, generator=generator, dtype=k.dtype, device=k.device).clamp(min=half)
        return ((k + u) / self.levels).clamp(max=1 - half)  # to which rounding could take it


def _check_floating_point(x: Tensor, name: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{name} are in floating point, not {x.dtype}: convert them, bytes by x.float() / 255")
