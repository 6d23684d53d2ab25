"""Figures of the models of the family: each takes tensors and returns a matplotlib `Figure`."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _TILE, _montage, _styled

__all__ = ["bars", "montage", "usage"]


@_styled
def montage(rows: Mapping[str, Tensor], title: str) -> Figure:
    """Rows of images, each with its name; all rows as long as each other.

    Args:
        rows: by name, images `(n, C, H, W)`.
        title: of the figure.

    Example:
        >>> figure = montage({"data x": torch.rand(8, 1, 8, 8), "mean of p(x | z)": torch.rand(8, 1, 8, 8)}, "A title")
        >>> figure.axes[0].get_title()
        'A title'
    """
    images = torch.stack([row.detach().cpu() for row in rows.values()])  # (rows, n, C, H, W)
    names = 0.17 * max(map(len, rows))
    width = names + _TILE * images.shape[1]
    figure = Figure(figsize=(max(width, 0.14 * len(title)), 0.8 + _TILE * len(rows)), layout="constrained")
    axes = figure.subplots()
    _montage(axes, images, list(rows))
    axes.set_title(title)
    return figure


@_styled
def bars(values: Mapping[str, float], name: str, title: str) -> Figure:
    """A bar for each value.

    Args:
        values: by name.
        name: what they are.
        title: of the figure.

    Example:
        >>> [text.get_text() for text in bars({"z1": 9.0, "z2": 3.0}, "KL (nats)", "A title").axes[0].get_xticklabels()]
        ['z1', 'z2']
    """
    figure = Figure(figsize=(max(3 + 0.6 * len(values), 5), 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(values), list(values.values()), color="tab:blue")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=name, title=title)
    return figure


@_styled
def usage(counts: Tensor, title: str) -> Figure:
    """How often each of K codes is used, from the most to the least frequent, beside all alike.

    Args:
        counts: of each code, `(K,)`.
        title: of the figure.

    Example:
        >>> usage(torch.tensor([3, 0, 1]), "Three codes").axes[0].get_ylabel()
        'share of positions'
    """
    share = (counts.double() / counts.sum()).sort(descending=True).values.tolist()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(1, len(share) + 1), share, width=1.0 if len(share) > 60 else 0.8, color="tab:blue")
    axes.axhline(1 / len(share), color="black", linestyle="--", linewidth=1.0, label="all codes alike")
    axes.set(xlabel="code, by frequency", ylabel="share of positions", title=title)
    axes.legend()
    return figure
