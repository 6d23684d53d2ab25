"""Numerical trouble: what is told of a step whose loss or gradient is not finite."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.sites import family

__all__ = ["NotFiniteError", "NumericalError", "Sites", "is_of_values", "require_finite", "statistics", "told"]


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is not finite, and no step was taken along it.

    Args:
        message: what is not finite.
        gradients: statistics of the gradients that are not finite, by parameter.
    """

    def __init__(self, message: str, gradients: dict[Tensor, dict[str, float]]) -> None:
        super().__init__(message)
        self.gradients = gradients


class NumericalError(FloatingPointError):
    """A training cannot go on, as the next step has no finite loss or gradient.

    Args:
        message: for the user.
        details: for a post-mortem: the batch and its indices in the data, what the sites were like, and the gradients.
    """

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


def require_finite(loss: Any, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Look at what a step is to be taken along, which reads back from the device.

    Raises:
        NotFiniteError: if there is something in it that is not finite.
    """
    losses = [float(part) for part in (loss if isinstance(loss, tuple) else (loss,))]
    bad = {
        p: statistics(g) for p, g in zip(parameters, gradients, strict=True) if g is not None and not g.isfinite().all()
    }
    off = [value for value in losses if not math.isfinite(value)]
    if off or bad:
        raise NotFiniteError(f"the loss is {off[0]}" if off else "the loss is finite, but not its gradient", bad)


def is_of_values(error: Exception) -> bool:
    """Whether an error of PyTorch is of values in the step, not of what the step is."""
    drawn = "expects all elements of std|^Expected p_in|^invalid Poisson rate"  # of NaN
    return re.search(rf"\bnan\b|^Expected parameter|{drawn}", str(error), re.IGNORECASE) is not None


def statistics(t: Tensor) -> dict[str, float]:
    """Least and largest of the values that are finite, and the shares of those that are NaN and infinite.

    Example:
        >>> statistics(torch.tensor([1.0, 2.0, math.nan, math.inf]))
        {'min': 1.0, 'max': 2.0, 'nan': 0.25, 'infinite': 0.25}
    """
    t = t.detach().double().flatten()
    finite = t[t.isfinite()]
    least, most = (finite.min().item(), finite.max().item()) if len(finite) else (math.nan, math.nan)
    shares = [share.double().mean().item() if len(t) else 0.0 for share in (t.isnan(), t.isinf())]
    return {"min": least, "max": most, "nan": shares[0], "infinite": shares[1]}


def told(found: dict[str, float]) -> str:
    """Statistics in words.

    Example:
        >>> told({"min": 1.0, "max": 2.0, "nan": 0.25, "infinite": 0.0})
        '25% NaN, else from 1 to 2'
    """
    shares = [f"{100 * found[key]:.3g}% {name}" for key, name in (("nan", "NaN"), ("infinite", "infinite"))]
    shares = [text for text in shares if not text.startswith("0%")]
    values = "" if math.isnan(found["min"]) else f"from {found['min']:.4g} to {found['max']:.4g}"
    return ", ".join([*shares, f"else {values}" if shares and values else values]).strip(", ")


class Sites(Messenger):
    """Keeps statistics of each site that programs within meet, in their order: of parameters, value and log-density.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with Sites() as sites:
        ...     z = pyro.sample("z", dist.Normal(torch.tensor([0.0, math.nan]), 1.0, validate_args=False))
        >>> print(sites.first_off())
        at site 'z' (Normal) loc is 50% NaN, else from 0 to 0, and scale from 1 to 1
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def _pyro_post_sample(self, msg: dict) -> None:
        if site_is_subsample(msg):
            return
        inner = msg["fn"]
        while hasattr(inner, "base_dist"):
            inner = inner.base_dist
        tensors = {name: t for name, t in vars(inner).items() if name[0] != "_"} | {"value": msg["value"]}
        try:
            with torch.no_grad():
                tensors["log-density"] = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        except (RuntimeError, ValueError):  # which some have no value for
            pass
        told = {name: statistics(t) for name, t in tensors.items() if isinstance(t, Tensor)}
        self.found.append({"site": msg["name"], "family": family(msg["fn"]), "statistics": told})

    def first_off(self) -> str | None:
        """The first site at which something is not finite, in words, if there is one."""
        for site in self.found:
            off = [name for name, s in site["statistics"].items() if s["nan"] or s["infinite"]]
            if off:
                known = ("value", "log-density") if off[0] != "log-density" else ("log-density",)
                others = [name for name in site["statistics"] if name not in (off[0], *known)]
                parts = [f"{off[0]} is {told(site['statistics'][off[0]])}"]
                parts += [f"{name} {told(site['statistics'][name])}" for name in others]
                return f"at site '{site['site']}' ({site['family']}) {', and '.join(parts)}"
        return None
