"""Figures of imputation: images with what is hidden and what is filled in; numbers filled in against the truth."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _styled

__all__ = ["against_truth", "hidden", "spread", "tinted"]

_HIDDEN = (1.0, 0.78, 0.45)  # orange
_FILLED = (0.05, 0.35, 0.85)  # blue


def tinted(x: Tensor, observed: Tensor) -> Tensor:
    """Images in colour, the ink of what is not observed in blue; those of three channels as they are.

    Args:
        x: images, `(n, C, H, W)`.
        observed: booleans, `(n, C, H, W)`.

    Example:
        >>> tinted(torch.ones(1, 1, 1, 2), torch.tensor([True, False]).expand(1, 1, 1, 2))[0, :, 0].T
        tensor([[0.0000, 0.0000, 0.0000],
                [0.0500, 0.3500, 0.8500]])
    """
    if x.shape[1] == 3:
        return x
    ink = torch.where(observed, x.new_zeros(1, 3, 1, 1), x.new_tensor(_FILLED)[None, :, None, None])
    return 1 - x.clamp(0, 1) * (1 - ink)


def hidden(x: Tensor, observed: Tensor) -> Tensor:
    """Images in colour, orange where they are not observed, `(n, 3, H, W)`.

    Args:
        x: images, `(n, C, H, W)`.
        observed: booleans, `(n, C, H, W)`.

    Example:
        >>> hidden(torch.zeros(1, 1, 1, 2), torch.tensor([True, False]).expand(1, 1, 1, 2))[0, :, 0].T
        tensor([[1.0000, 1.0000, 1.0000],
                [1.0000, 0.7800, 0.4500]])
    """
    seen = x if x.shape[1] == 3 else 1 - x.clamp(0, 1).expand(-1, 3, -1, -1)
    return torch.where(observed, seen, x.new_tensor(_HIDDEN)[None, :, None, None])


def spread(std: Tensor) -> Tensor:
    """Standard deviations as grey values in colour, the largest black, `(n, 3, H, W)`.

    Args:
        std: of each pixel, `(n, C, H, W)`.

    Example:
        >>> spread(torch.tensor([0.0, 0.5]).expand(1, 1, 1, 2))[0, :, 0].T
        tensor([[1., 1., 1.],
                [0., 0., 0.]])
    """
    return (1 - std.mean(1, keepdim=True) / std.mean(1).max().clamp(min=1e-12)).expand(-1, 3, -1, -1)


@_styled
def against_truth(
    truth: Tensor, mean: Tensor, low: Tensor, high: Tensor, baselines: Mapping[str, Tensor], title: str
) -> Figure:
    """What is filled in against what was hidden, a panel for the model, with its intervals, and for each baseline.

    Args:
        truth: hidden values, `(n,)`.
        mean: of their imputations, `(n,)`.
        low: end of an interval, `(n,)`.
        high: the other end, `(n,)`.
        baselines: by name, what else is filled in, `(n,)`.
        title: of the model's panel.

    Example:
        >>> truth = torch.randn(9)
        >>> figure = against_truth(truth, truth, truth - 1, truth + 1, {"column means": truth * 0}, "E[x | x_obs]")
        >>> [axes.get_title() for axes in figure.axes]
        ['E[x | x_obs]', 'column means']
    """
    figure = Figure(figsize=(1 + 4.6 * (1 + len(baselines)), 5), layout="constrained")
    panels = figure.subplots(1, 1 + len(baselines), sharex=True, sharey=True, squeeze=False)[0]
    ends = [truth.min().item(), truth.max().item()]
    panels[0].errorbar(
        truth, mean, torch.stack([mean - low, high - mean]).clamp(min=0), fmt="o", markersize=4, elinewidth=0.8
    )
    for axes, (name, values) in zip(panels[1:], baselines.items(), strict=True):
        axes.plot(truth, values, "o", markersize=4, color="tab:gray")
        axes.set_title(name)
    for axes in panels:
        axes.plot(ends, ends, color="black", linewidth=1, zorder=0)
        axes.set_xlabel("hidden value")
    panels[0].set(ylabel="filled in", title=title)
    return figure
