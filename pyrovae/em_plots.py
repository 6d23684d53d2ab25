"""Figures of EM: each takes numbers and returns a matplotlib `Figure`; nothing is computed here but the layout."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrovae.plotting import _colors, _legend, _styled, _width

__all__ = ["excess"]

_FLOOR = 1e-7  # nats, below which nothing is shown
_START = {"color": "grey", "linestyle": ":", "linewidth": 1.5}
_AXES = {"step": "steps", "seconds": "seconds"}


@_styled
def excess(rows: Sequence[Mapping[str, str | int | float]]) -> Figure:
    """Max log p(x) - log p(x) over steps and over seconds on logarithmic axes, a line of panels for each model.

    Dotted is where all start. What is below 1e-7 nats is not shown.

    Args:
        rows: `model`, and what `em_study.em_study` gives: `method`, `step`, `seconds` and `excess` in nats per datum.

    Example:
        >>> rows = [{"method": "EM", "step": s, "seconds": 2.0 * s, "excess": 10.0**-s} for s in range(4)]
        >>> figure = excess([{"model": name, **row} for name in ("PCA", "mixture") for row in rows])
        >>> [axes.get_title("left") for axes in figure.axes]
        ['PCA', '', 'mixture', '']
    """
    models, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "method"))
    figure = Figure(figsize=(10.5 + _width(methods), 1 + 3.8 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 2, sharex="col", sharey="row", squeeze=False)
    colors = _colors(methods)
    for model, line in zip(models, panels, strict=True):
        for axes, key in zip(line, _AXES, strict=True):
            for method, color in colors.items():
                # Logarithmic axes have no place for the start, at step 0, nor for the maximum itself.
                shown = [row for row in rows if (row["model"], row["method"]) == (model, method) and row["step"] > 0]
                axes.plot([row[key] for row in shown], [max(row["excess"], _FLOOR / 10) for row in shown], color=color)
            axes.axhline(max(row["excess"] for row in rows if (row["model"], row["step"]) == (model, 0)), **_START)
            axes.set(xscale="log", yscale="log")
        line[0].set_title(model, loc="left")
        line[0].set(ylabel="max log p(x) - log p(x) (nats)", ylim=(_FLOOR, None))
    for axes, name in zip(panels[-1], _AXES.values(), strict=True):
        axes.set(xlabel=name)
    _legend(figure, colors, [Line2D([], [], label="start", **_START)])
    return figure
