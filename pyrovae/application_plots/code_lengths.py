"""The figure of compression: how long codes are, beside the bounds on them."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from pyrovae.plotting import _styled

__all__ = ["code_lengths"]


@_styled
def code_lengths(lengths: Mapping[str, float], bounds: Mapping[str, float], title: str) -> Figure:
    """A bar for the length of each code, and a line across them for each bound.

    Args:
        lengths: by name, in bits a datum.
        bounds: the same.
        title: of the figure.

    Example:
        >>> figure = code_lengths({"as it is": 64.0, "bits back": 33.5}, {"-ELBO": 33.4}, "A title")
        >>> figure.axes[0].get_xlabel()
        'bits a datum, fewer are better'
    """
    figure = Figure(figsize=(10, 1.8 + 0.5 * len(lengths)), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:blue" if name.startswith("bits back") else "0.75" for name in lengths]
    bars = axes.barh(list(lengths), list(lengths.values()), color=colors)
    axes.bar_label(bars, [f"{length:.4g}" for length in lengths.values()], padding=6)
    for (name, bound), style in zip(bounds.items(), ("--", ":"), strict=False):
        axes.axvline(bound, color="black", linestyle=style, linewidth=1.5, label=f"{name}: {bound:.4g}")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="bits a datum, fewer are better", title=title)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(bounds))
    return figure
