"""Figures of speed: each takes numbers and returns a matplotlib `Figure`; nothing is computed here but the layout."""

from collections.abc import Mapping, Sequence

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from pyrovae.plotting import _colors, _legend, _styled, _width

__all__ = ["growth", "relative_times"]

_FLOOR = "matrix products"
_ALONG = {"K": "draws $K$ for each datum", "batch": "data in a batch", "width": "hidden units"}


@_styled
def relative_times(rows: Sequence[Mapping[str, str | float]]) -> Figure:
    """Times of a step over that of a reference, medians and quartiles over rounds, on a logarithmic axis.

    Args:
        rows: `case`, `contender`, `reference`, and `median`, `low` and `high` of the ratio, in the order of the figure.

    Example:
        >>> row = {"case": "elbo-20", "reference": "ours", "low": 1.9, "median": 2.0, "high": 2.1}
        >>> figure = relative_times([row | {"contender": "ours"}, row | {"contender": "theirs"}])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['elbo-20']
    """
    cases, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("case", "contender"))
    size = (8 + _width(cases) + _width(names), 2.0 + 0.2 * len(rows) + 0.1 * len(cases))
    figure = Figure(figsize=size, layout="constrained")
    axes, colors, middles, top = figure.subplots(), _colors(names), [], 0.0
    for i, case in enumerate(cases):
        of_case = [row for row in rows if row["case"] == case]
        bottom = top + len(of_case) + 0.5
        axes.axhspan(top, bottom, color="black", alpha=0.05 * (i % 2), linewidth=0)
        for y, row in enumerate(of_case, start=1):
            color = colors[row["contender"]]
            axes.plot([row["low"], row["high"]], [top + y - 0.25] * 2, color=color, linewidth=2.5)
            axes.plot(row["median"], top + y - 0.25, "o", color=color, markersize=7)
        middles.append((top + bottom) / 2)
        top = bottom
    axes.axvline(1, color="black", linewidth=1, zorder=0)
    axes.set_yticks(middles, cases)
    axes.tick_params("y", length=0)
    axes.set_ylim(top, 0)
    axes.set_xscale("log")
    _write_numbers(axes.xaxis, (1, 1.2, 1.5, 2, 3, 4, 5, 7))
    reference = " or ".join(dict.fromkeys(row["reference"] for row in rows))
    axes.set(
        xlabel=f"time over that of {reference}", title="Time of a training step, medians and quartiles over rounds"
    )
    _legend(figure, colors)
    return figure


@_styled
def growth(rows: Sequence[Mapping[str, str | float]]) -> Figure:
    """Time of a step over what grows, medians and quartiles over rounds, on logarithmic axes, a panel for each.

    Args:
        rows: `along`, "K", "batch" or "width", its `value`, `contender`, and `median`, `low` and `high` of the seconds;
            what the contender "matrix products" takes is drawn as a floor.

    Example:
        >>> row = {"along": "K", "contender": "ours", "low": 0.9e-3, "median": 1e-3, "high": 1.1e-3}
        >>> figure = growth([row | {"value": 1}, row | {"value": 50}])
        >>> figure.axes[0].get_xlabel()
        'draws $K$ for each datum'
    """
    panels, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("along", "contender"))
    figure = Figure(figsize=(4.6 * len(panels) + 1 + _width(names), 4.6), layout="constrained")
    colors = _colors(name for name in names if name != _FLOOR) | {_FLOOR: "grey"}
    colors = {name: colors[name] for name in names}
    for axes, along in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, color in colors.items():
            of = [row for row in rows if (row["along"], row["contender"]) == (along, name)]
            values = [row["value"] for row in of]
            low, median, high = ([1e3 * row[key] for row in of] for key in ("low", "median", "high"))
            axes.fill_between(values, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(values, median, "--" if name == _FLOOR else "o-", color=color, markersize=5)
        axes.set(xscale="log", yscale="log", xlabel=_ALONG[along])
        values = sorted({row["value"] for row in rows if row["along"] == along})
        axes.set_xticks(values, [str(v) for v in values])
        axes.set_xticks([], minor=True)
        _write_numbers(axes.yaxis, (1, 2, 5))
    figure.axes[0].set_ylabel("milliseconds a step")
    figure.suptitle("Time of a training step")
    _legend(figure, colors)
    return figure


def _write_numbers(axis: Axis, multiples: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at these multiples of powers of 10, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
