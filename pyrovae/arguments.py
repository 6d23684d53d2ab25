"""Arguments of constructors: one that makes no sense is refused by its name at once, not when it is used."""

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor

_SIZES = 1e-30, 1e30  # which float32, in which most is computed, holds with sums and quotients


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, below 2^31.

    Raises:
        ValueError: if the value is none.

    Example:
        >>> whole("layers", 2)
        2
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if value >= 2**31:
        raise ValueError(f"{name} = {value} is more than any memory holds: give a number below 2^31")
    return value


def wholes(name: str, values: Any, least: int = 1) -> tuple[int, ...]:
    """Whole numbers of at least `least`, below 2^31.

    Raises:
        ValueError: if the values are none.

    Example:
        >>> wholes("hidden", [400, 200])
        (400, 200)
    """
    try:
        if isinstance(values, str):
            raise TypeError
        return tuple(whole(name, value, least) for value in values)
    except (TypeError, ValueError):
        sentence = f"{name} must be whole numbers of at least {least}, such as (128, 128), not {values!r}"
        raise ValueError(sentence) from None


def number(
    name: str,
    value: Any,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """A finite number within bounds, neither too large nor too small for float32.

    Raises:
        ValueError: if the value is none.

    Example:
        >>> number("dropout", 0.5, least=0, below=1)
        0.5
    """
    bounds = {"above": above, "at least": least, "below": below, "at most": most}
    said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    if not isinstance(value, Real) or isinstance(value, bool) or not (above < value < below and least <= value <= most):
        raise ValueError(f"{name} must be a finite number{said and ' '}{said}, not {value!r}")
    least_size, most_size = _SIZES
    if value and not least_size <= abs(value) <= most_size:
        raise ValueError(f"{name} = {value!r} is beyond float32: give 0 or a number of size 1e-30 to 1e30")
    return value


def tensor(name: str, value: Any) -> Tensor:
    """A tensor of finite numbers.

    Raises:
        ValueError: if the value is none.

    Example:
        >>> import torch
        >>> tensor("index", torch.zeros(1))
        tensor([0.])
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, not {value!r}")
    if not value.isfinite().all():
        raise ValueError(f"{name} must be finite, but the tensor {tuple(value.shape)} holds NaN or infinity")
    return value


def parts(**given: Any) -> None:
    """Refuse what cannot be a part of a model, such as a prior or a network: those are called.

    Raises:
        ValueError: for a class, or what cannot be called, by the first one's name.

    Example:
        >>> parts(prior=abs)
    """
    for name, value in given.items():
        if isinstance(value, type):
            raise ValueError(f"the {name} is the class {value.__name__}: give an object of it, {value.__name__}(...)")
        if not callable(value):
            raise ValueError(f"the {name} must be a component or a function, not {value!r}")
