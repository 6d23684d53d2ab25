"""Grids of images, side by side."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _TILE, _montage, _styled

__all__ = ["grids"]


@_styled
def grids(panels: Mapping[str, Tensor], title: str, across: int = 2, names: Sequence[str] = ()) -> Figure:
    """Grids of images, each with its title, so many side by side.

    Args:
        panels: by title, images `(rows, columns, C, H, W)`, alike in shape.
        title: of the figure.
        across: panels side by side.
        names: of the rows of the panels on the left.

    Example:
        >>> import torch
        >>> x = torch.rand(6, 6, 1, 8, 8)
        >>> [axes.get_title() for axes in grids({"means": x, "samples": x.round()}, "A title").axes]
        ['means', 'samples']
    """
    rows, columns = next(iter(panels.values())).shape[:2]
    down = -(-len(panels) // across)
    width = 0.15 * max(map(len, names), default=0) + across * (_TILE * columns + 0.3)
    figure = Figure(figsize=(max(width, 0.14 * len(title)), 0.6 + down * (_TILE * rows + 0.5)), layout="constrained")
    figure.suptitle(title)
    for number, (axes, (name, images)) in enumerate(
        zip(figure.subplots(down, across, squeeze=False).flat, panels.items(), strict=True)
    ):
        _montage(axes, images, names if number % across == 0 else ())
        axes.set_title(name)
    return figure
