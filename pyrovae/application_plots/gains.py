"""The figure of augmentation: accuracy, and what is gained, against how many labels there are."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyrovae.paired import Difference
from pyrovae.plotting import _colors, _styled

__all__ = ["gains"]


@_styled
def gains(
    labelled: Sequence[int],
    accuracies: Mapping[str, Sequence[Difference]],
    differences: Mapping[str, Sequence[Difference]],
    title: str,
) -> Figure:
    """Accuracy on the left, differences from the first method's on the right, with intervals, a line for each method.

    Args:
        labelled: how many labels there are, for each of the values.
        accuracies: shares by method.
        differences: of all methods but the first, from it.
        title: of the figure.

    Example:
        >>> found = [Difference(0.5, 0.1, 0.3, 0.7, 0.1, 0.1, True)]
        >>> figure = gains([20], {"alone": found, "more": found}, {"more": found}, "A title")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['accuracy on test data (%)', 'gain over alone (points)']
    """
    figure = Figure(figsize=(12, 6), layout="constrained")
    colors = _colors(list(accuracies))
    left, right = figure.subplots(1, 2)
    names = "accuracy on test data (%)", f"gain over {next(iter(accuracies))} (points)"
    for axes, values, name in zip((left, right), (accuracies, differences), names, strict=True):
        _lines(axes, values, colors)
        axes.set(xlabel="labels", ylabel=name)
        axes.set_xticks(range(len(labelled)), [str(n) for n in labelled])
    right.axhline(0, color="black", linewidth=1.0)
    figure.suptitle(title)
    handles = [Line2D([], [], color=color, linewidth=3, label=method) for method, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _lines(axes: Axes, values: Mapping[str, Sequence[Difference]], colors: Mapping[str, tuple]) -> None:
    """Side by side, so that intervals can be told apart."""
    places = np.linspace(-0.2, 0.2, len(colors))
    for place, (method, color) in zip(places, colors.items(), strict=True):
        if method in values:
            value, low, high = (
                100 * np.array([getattr(of, end) for of in values[method]]) for end in ("value", "low", "high")
            )
            x = np.arange(len(value)) + place
            axes.errorbar(
                x, value, np.stack([value - low, high - value]), color=color, marker="o", elinewidth=1.5, capsize=3
            )
