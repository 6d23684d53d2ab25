"""Figures of anomalies: what scores tell apart, and how they lie."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _TILE, _colors, _montage, _panels, _styled

__all__ = ["areas", "curves", "histograms"]

Interval = tuple[float, float, float]  # a value and the ends of its interval


@_styled
def areas(rows: Mapping[str, Mapping[str, Interval]], title: str) -> Figure:
    """A table of areas under ROC curves with intervals, blue above one half, red below it.

    Args:
        rows: by what is told apart, for each score the area and its interval; the last row is set apart.
        title: of the figure.

    Example:
        >>> rows = {name: {"log p(x)": (0.3, 0.2, 0.4), "regret": (0.9, 0.8, 0.95)} for name in ("class 1", "mean")}
        >>> [text.get_text() for text in areas(rows, "A title").axes[0].texts][:2]
        ['0.30', '0.20 to 0.40']
    """
    scores = list(next(iter(rows.values())))
    values = np.array([[of[score][0] for score in scores] for of in rows.values()])
    figure = Figure(
        figsize=(max(1.6 + 2.3 * len(scores), 0.14 * len(title)), 1.5 + 0.62 * len(rows)), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(values, cmap="RdBu", vmin=0, vmax=1, aspect="auto", alpha=0.75)
    for i, of in enumerate(rows.values()):
        for j, (value, low, high) in enumerate(of.values()):
            axes.text(j, i - 0.17, f"{value:.2f}", ha="center", va="center", fontsize=17, fontweight="bold")
            axes.text(j, i + 0.25, f"{low:.2f} to {high:.2f}", ha="center", va="center", fontsize=13)
    axes.set_xticks(range(len(scores)), scores)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.axhline(len(rows) - 1.5, color="black", linewidth=2)
    axes.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


@_styled
def curves(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], title: str) -> Figure:
    """ROC curves, a panel for each set of anomalous data, a line for each score.

    Args:
        panels: by name of the set, for each score, by what the legend says of it, the false and true positive rates.
        title: of the figure.

    Example:
        >>> rates = np.linspace(0, 1, 5)
        >>> [axes.get_title() for axes in curves({"noise": {"log p(x)": (rates, rates**0.5)}}, "A title").axes]
        ['noise']
    """
    figure, grid = _grid(len(panels), width=7.4, height=4.3)
    for axes, (name, lines) in zip(grid, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1.5)
        styles = ("-", "--", "-.", (0, (1, 1)))
        for (score, rates), color, style in zip(lines.items(), _colors(lines).values(), styles, strict=False):
            axes.plot(*rates, color=color, linestyle=style, linewidth=3, label=score)
        axes.set(title=name, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    return figure


@_styled
def histograms(
    panels: Mapping[str, Mapping[str, Tensor]],
    title: str,
    labels: Sequence[str],
    images: Mapping[str, Tensor] | None = None,
) -> Figure:
    """Histograms of sets of data over each other, of area 1 each, in panels.

    Args:
        panels: by the panel's title, for each set its values, `(N,)`; the sets' names are the same in all.
        title: of the figure.
        labels: what each panel's axis shows.
        images: for sets, images of some of their data, `(n, C, H, W)`, as many of each.

    Example:
        >>> values = {"test data": torch.randn(50), "others": torch.randn(50) - 9}
        >>> len(histograms({"noise": values}, "A title", ["log p(x)"]).axes)
        1
    """
    above = 0.0 if images is None else 0.4 + 1.3 * _TILE * len(images)
    figure, grid = _grid(len(panels), width=6.2, height=3.5, above=above)
    if images is not None:
        shown = torch.stack([t.detach().cpu().float() for t in images.values()])
        _montage(figure.subfigs[0].subplots(), shown, list(images))
    for axes, (name, sets), label in zip(grid, panels.items(), labels, strict=True):
        arrays = {of: values.detach().cpu().double().numpy() for of, values in sets.items()}
        bins = np.histogram_bin_edges(np.concatenate(list(arrays.values())), 30)
        for (of, values), color in zip(arrays.items(), ("tab:blue", "tab:orange"), strict=True):
            axes.hist(values, bins, density=True, alpha=0.55, color=color, label=of)
        axes.set(title=name, xlabel=label, ylabel="density", yticks=[])
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def _grid(panels: int, width: float, height: float, above: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Panels of this size, two in a row, and a subfigure above them if there shall be one."""
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(max(width * columns, 9), height * rows + above + 1), layout="constrained")
    part = figure.subfigures(2, height_ratios=[above, height * rows])[1] if above else figure
    return figure, _panels(part, panels, columns)
