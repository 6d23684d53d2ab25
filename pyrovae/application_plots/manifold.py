"""Figures of a surface in three dimensions, and of its map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _colors, _legend, _styled

__all__ = ["Panel", "manifold"]


class Panel(NamedTuple):
    """Points, and what is said of them."""

    points: Tensor  # (N, 2) or (N, 3)
    title: str
    names: Sequence[str]  # of the axes
    colored: bool = True


@_styled
def manifold(panels: Sequence[Panel], color: Tensor | None, name: str) -> Figure:
    """Points of two and of three dimensions, three panels a row, those of three dimensions on the same axes.

    Args:
        panels: what is shown, one after the other.
        color: of each point: a position, in floating point, or a class, `(N,)`; or None.
        name: what the colour shows.

    Example:
        >>> import torch
        >>> panel = Panel(torch.randn(9, 3), "data x", ["$x_1$", "$x_2$", "$x_3$"])
        >>> manifold([panel], torch.linspace(0, 1, 9), "position").axes[0].get_title()
        'data x'
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.3 * columns + 1.2, 5.4 * rows), layout="constrained")
    first = next(panel.points for panel in panels if panel.points.shape[1] == 3)
    low, high = first.amin(0), first.amax(0)
    shades, key = _shades(color)
    for place, (points, title, names, colored) in enumerate(panels, 1):
        solid = points.shape[1] == 3
        axes = figure.add_subplot(rows, columns, place, projection="3d" if solid else None)
        axes.scatter(*points.detach().cpu().T, s=12, linewidths=0, c=shades if colored else "0.4")
        axes.set(title=title, xlabel=names[0], ylabel=names[1])
        axes.locator_params(nbins=5)
        if solid:
            limits = [*zip(low.tolist(), high.tolist(), strict=True)]
            axes.set(xlim=limits[0], ylim=limits[1], zlim=limits[2], zlabel=names[2])
            axes.set_box_aspect((high - low).tolist(), zoom=0.95)
            axes.view_init(elev=12, azim=-70)
            axes.tick_params(labelsize=10)
    if isinstance(key, ScalarMappable):
        figure.colorbar(key, ax=figure.axes, label=name, shrink=0.6)
    elif key:
        _legend(figure, key)
    return figure


def _shades(color: Tensor | None) -> tuple[Any, ScalarMappable | dict[str, tuple] | None]:
    """The colour of each point, and what explains it: a scale of positions, or the colour of each class."""
    if color is None:
        return "tab:blue", None
    values = color.detach().cpu().numpy()
    if color.is_floating_point():
        scale = ScalarMappable(Normalize(values.min(), values.max()), "turbo")
        return scale.to_rgba(values), scale
    classes = _colors(np.unique(values).tolist())
    return [classes[value] for value in values.tolist()], {str(label): shade for label, shade in classes.items()}
