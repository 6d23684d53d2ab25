"""Figures of uncertainty: of elements of x, of z, and of how far both can be trusted."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyrovae import family_plots
from pyrovae.diagnostic_plots import _array, _contour_panel, _line_panel
from pyrovae.plotting import _colors, _montage, _panels, _styled

__all__ = ["coverages", "elements", "images", "regions"]


def images(x: Tensor, mean: Tensor, between: Tensor, within: Tensor, title: str) -> Figure:
    """Data over the mean of each pixel of p(x' | x), and over the two parts of its standard deviation.

    Args:
        x: images, `(n, C, H, W)`.
        mean: of p(x' | x), `(n, C, H, W)`.
        between: variance of E[x' | z] over q(z | x), `(n, C, H, W)`, shown by its root, from 0 to the largest.
        within: mean of Var[x' | z], alike.
        title: of the figure.

    Example:
        >>> x = torch.rand(8, 1, 8, 8)
        >>> images(x, x, 0.1 * x, x, "A title").axes[0].get_yticklabels()[2].get_text()
        'sd of E[x′ | z], black 0.32'
    """
    largest = torch.maximum(x.max(), mean.max()).clamp(min=1)  # of counts, say
    rows = {"data x": x / largest, "mean of p(x′ | x)": mean / largest}
    for name, variance in (("E[x′ | z]", between), ("p(x′ | z)", within)):
        deviation = variance.sqrt()
        rows[f"sd of {name}, black {deviation.max():.2f}"] = deviation / deviation.max().clamp(min=1e-12)
    return family_plots.montage(rows, title)


@_styled
def elements(x: Tensor, mean: Tensor, between: Tensor, within: Tensor, title: str) -> Figure:
    """Data that are no images, and the mean of p(x' | x) with two standard deviations, a panel for each datum.

    Args:
        x: data, `(n, ...)`.
        mean: of p(x' | x), alike.
        between: variance of E[x' | z] over q(z | x), alike, in a dark bar.
        within: mean of Var[x' | z], alike, which makes the bar as long as it is.
        title: of the figure.

    Example:
        >>> x = torch.rand(3, 5)
        >>> len(elements(x, x, 0.1 * x, x, "A title").axes)
        3
    """
    n = min(len(x), 4)
    figure = Figure(figsize=(1 + 4 * n, 5), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, n, sharey=True, squeeze=False)[0]):
        values, center, part, rest = (
            t[i].flatten().tolist() for t in (x, mean, between.sqrt(), (between + within).sqrt())
        )
        place = range(1, len(values) + 1)
        axes.errorbar(place, center, [2 * d for d in rest], fmt="none", color="tab:blue", alpha=0.4, elinewidth=5)
        axes.errorbar(place, center, [2 * d for d in part], fmt="_", color="tab:blue", elinewidth=5, markersize=12)
        axes.plot(place, values, "o", color="black", markersize=6)
        axes.set(xlabel="element of x", xlim=(0.4, len(values) + 0.6))
        axes.xaxis.get_major_locator().set_params(integer=True)
    styles = (
        ("data x", "black", "o", 0),
        ("two sd of E[x′ | z]", "tab:blue", "", 1),
        ("two sd of x′", "tab:blue", "", 0.4),
    )
    lines = [
        Line2D([], [], color=c, marker=m, linestyle="" if m else "-", linewidth=6, alpha=a or 1, label=name)
        for name, c, m, a in styles
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


@_styled
def coverages(shares: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]) -> Figure:
    """Shares that regions hold over their nominal levels, with their 95 % intervals; dashed what they say they hold.

    Args:
        shares: by name, levels, shares, and the ends of their intervals, `(C,)` each.

    Example:
        >>> level = torch.linspace(0.1, 0.9, 9)
        >>> coverages({"z in q's region": (level, level - 0.1, level - 0.2, level)}).axes[0].get_xlabel()
        'nominal level'
    """
    figure = Figure(figsize=(7.5, 6.4 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1.5)
    for (name, (level, share, low, high)), color in zip(shares.items(), _colors(shares).values(), strict=True):
        axes.plot(level, share, "o-", color=color, markersize=4, label=name)
        axes.fill_between(level, low, high, color=color, alpha=0.25, linewidth=0)
    axes.text(0.97, 0.05, "below: too sure", ha="right", color="grey", transform=axes.transAxes)
    axes.text(0.03, 0.93, "above: not sure enough", color="grey", transform=axes.transAxes)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal level", ylabel="share that is inside", aspect="equal")
    figure.legend(loc="outside lower center")
    figure.suptitle("Coverage of credible regions and intervals")
    return figure


@_styled
def regions(
    panels: Sequence[tuple[Sequence[Tensor], Tensor, Tensor]], titles: Sequence[str], x: Tensor | None = None
) -> Figure:
    """p(z | x) of single data in colour, with the regions of highest density of it and of q(z | x), 50 and 95 %.

    Args:
        panels: for each datum the nodes of each dimension of z, p(z | x) and q(z | x) on their grid.
        titles: of the panels.
        x: the data, `(n, C, H, W)`, if they are images.

    Example:
        >>> z = torch.linspace(-3, 3, 50)
        >>> p = (-z.square() / 2).exp()
        >>> regions([([z], p, p)], ["a datum"]).axes[0].get_title()
        'a datum'
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    colors = {"p(z | x), true": "tab:blue", "q(z | x)": "tab:red"}
    figure = Figure(figsize=(4 * columns + 0.5, 4.3 * rows + 1), layout="constrained")
    for i, (axes, (nodes, truth, guide)) in enumerate(zip(_panels(figure, len(panels), columns), panels, strict=True)):
        panel = _line_panel if len(nodes) == 1 else _contour_panel
        lines = dict(zip(colors, (truth, guide), strict=True))
        panel(axes, [_array(n) for n in nodes], _array(truth), lines, {}, colors)
        axes.set_title(titles[i], x=0.57)
        axes.locator_params("x", nbins=4)
        if x is not None:
            _montage(axes.inset_axes((-0.06, 1.02, 0.24, 0.24)), x[i][None, None])
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle("Posteriors of single data" + (": lines around 50 and 95 %" if len(panels[0][0]) == 2 else ""))
    return figure
