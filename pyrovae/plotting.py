"""Figures: each takes tensors and returns a matplotlib `Figure`; nothing is computed here but the layout."""

from collections.abc import Callable, Sequence
from functools import wraps

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

__all__ = ["decoded_grid", "latent_means", "reconstructions", "samples", "training_curves"]

_STYLE = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "image.origin": "upper",
    "lines.linewidth": 2,
    "legend.frameon": False,
}
_TILE = 0.55  # inches of an image in a montage


def _styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style of this file, and leave matplotlib's settings as they were."""

    @wraps(plot)
    def styled(*args: object, **kwargs: object) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return plot(*args, **kwargs)

    return styled


@_styled
def reconstructions(x: Tensor, mean: Tensor, sample: Tensor) -> Figure:
    """Data over the mean of p(x | z) and a sample of p(x | z), z ~ q(z | x), one datum a column.

    Args:
        x: images, `(n, C, H, W)`.
        mean: their reconstructions by the mean, `(n, C, H, W)`.
        sample: their reconstructions by a sample, `(n, C, H, W)`.

    Example:
        >>> x = torch.rand(8, 1, 8, 8)
        >>> reconstructions(x, x, x.round()).axes[0].get_title()
        'Reconstructions, z ~ q(z | x)'
    """
    figure = Figure(figsize=(max(2.6 + _TILE * len(x), 5.6), 0.8 + 3 * _TILE), layout="constrained")
    axes = figure.subplots()
    _montage(axes, torch.stack([x, mean, sample]), ["data x", "mean of p(x | z)", "sample of p(x | z)"])
    axes.set_title("Reconstructions, z ~ q(z | x)")
    return figure


@_styled
def samples(mean: Tensor, sample: Tensor) -> Figure:
    """Means and samples of p(x | z), z ~ p(z), side by side, the same z at the same place.

    Args:
        mean: the means, `(rows, columns, C, H, W)`.
        sample: the samples, `(rows, columns, C, H, W)`.

    Example:
        >>> mean = torch.rand(4, 4, 1, 8, 8)
        >>> [axes.get_title() for axes in samples(mean, mean.round()).axes]
        ['means of p(x | z)', 'samples of p(x | z)']
    """
    rows, columns = mean.shape[:2]
    figure = Figure(figsize=(max(1 + 2 * _TILE * columns, 6), 1.2 + _TILE * rows), layout="constrained")
    figure.suptitle("From the prior, z ~ p(z)")
    titles = ("means of p(x | z)", "samples of p(x | z)")
    for axes, images, title in zip(figure.subplots(1, 2), (mean, sample), titles, strict=True):
        _montage(axes, images)
        axes.set_title(title)
    return figure


@_styled
def latent_means(points: Tensor, labels: Tensor | None = None, names: Sequence[str] = ("$z_1$", "$z_2$")) -> Figure:
    """The means of q(z | x) in two dimensions, coloured by label, each label written at the mean of its class.

    Args:
        points: `(N, 2)`.
        labels: class of each, `(N,)`, or None.
        names: what the two axes show.

    Example:
        >>> figure = latent_means(torch.randn(20, 2), torch.arange(20) % 2)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0', '1']
    """
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    axes = figure.subplots()
    _scatter(axes, points, labels)
    axes.set(xlabel=names[0], ylabel=names[1], title="Means of q(z | x)")
    return figure


@_styled
def decoded_grid(
    images: Tensor, quantiles: Tensor, path: Tensor | None = None, decoded_path: Tensor | None = None
) -> Figure:
    """The means of p(x | z) over a grid of two-dimensional z, and over it a path through z with its strip of images.

    Args:
        images: `(n, n, C, H, W)`: z_2 falls along the first dimension, z_1 rises along the second.
        quantiles: values of z_1 and of z_2 on the grid, rising, `(2, n)`.
        path: z from one datum to another, `(m, 2)`.
        decoded_path: the means of p(x | z) along it, `(m, C, H, W)`.

    Example:
        >>> levels = torch.linspace(-2, 2, 5).expand(2, 5)
        >>> len(decoded_grid(torch.rand(5, 5, 1, 8, 8), levels).axes)
        1
    """
    if (path is None) != (decoded_path is None):
        raise ValueError("path and decoded_path belong together: give both or none")
    quantiles = quantiles.detach().cpu().numpy()
    n, side = len(images), max(_TILE * len(images), 5)
    figure = Figure(figsize=(side + 0.8, side + (1 if path is None else 2.2)), layout="constrained")
    grid, strip = (figure.subplots(), None) if path is None else figure.subplots(2, 1, height_ratios=[7, 1])
    _montage(grid, images)
    centers = np.arange(n) + 0.5  # of the tiles, of which there are n from left to right
    width, height = images.shape[-1] + 1, images.shape[-2] + 1
    shown = sorted(set(np.linspace(0, n - 1, 5).round().astype(int).tolist()))
    grid.set_xticks([width * centers[i] for i in shown], [f"{quantiles[0, i].round(1) + 0:.1f}" for i in shown])
    grid.set_yticks([height * (n - centers[i]) for i in shown], [f"{quantiles[1, i].round(1) + 0:.1f}" for i in shown])
    grid.set(xlabel="$z_1$", ylabel="$z_2$", title="Means of p(x | z) at the prior's quantiles")
    if path is not None:
        first, second = (np.interp(path[:, d].detach().cpu().numpy(), quantiles[d], centers) for d in (0, 1))
        grid.plot(width * first, height * (n - second), color="tab:red", marker="o", linewidth=3, markersize=7)
        _write(grid, width * first[0], height * (n - second[0]), "A", "tab:red")
        _write(grid, width * first[-1], height * (n - second[-1]), "B", "tab:red")
        _montage(strip, decoded_path[None])
        strip.set_title("means of p(x | z) along the path from A to B")
    return figure


@_styled
def training_curves(history: Sequence[dict[str, float]]) -> Figure:
    """The ELBO and its terms over epochs, training beside validation, each term on its own axes.

    Args:
        history: a row for each epoch, as `fit` returns.

    Example:
        >>> rows = [{"epoch": e, "elbo": -9.0, "reconstruction": -5.0, "kl": 4.0} for e in (1, 2)]
        >>> [axes.get_ylabel() for axes in training_curves(rows).axes]
        ['ELBO (nats)', 'reconstruction (nats)', 'KL (nats)']
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o-" if len(history) == 1 else "-"
    names = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
    for axes, (key, name) in zip(figure.subplots(1, 3), names.items(), strict=True):
        axes.plot(epochs, [row[key] for row in history], marker, label="training")
        if history and f"valid_{key}" in history[0]:
            axes.plot(epochs, [row[f"valid_{key}"] for row in history], marker, label="validation")
        _zoom(axes)
        axes.set(xlabel="epoch", ylabel=f"{name} (nats)")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend()
    return figure


def _zoom(axes: Axes) -> None:
    """Leave the steep beginning of the curves, a twentieth, out of view, so that the rest can be read."""
    kept = [value for line in axes.lines for value in line.get_ydata()[len(line.get_ydata()) // 20 :]]
    if kept and max(kept) > min(kept):
        margin = 0.1 * (max(kept) - min(kept))
        axes.set_ylim(min(kept) - margin, max(kept) + margin)


def _montage(axes: Axes, images: Tensor, names: Sequence[str] = ()) -> None:
    """Images `(rows, columns, C, H, W)` as one picture with a line of white between them; a name for each row."""
    rows, columns, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    tiles = torch.nn.functional.pad(images.detach().cpu().float().clamp(0, 1), (1, 0, 1, 0), value=float("nan"))
    picture = tiles.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), channels).numpy()
    if channels == 1:
        axes.imshow(picture[..., 0], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(np.nan_to_num(picture, nan=1.0), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(height + 1) * (i + 0.5) for i in range(len(names))], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _scatter(axes: Axes, points: Tensor, labels: Tensor | None) -> None:
    points = points.detach().cpu().numpy()
    if labels is None:
        axes.scatter(*points.T, s=10, linewidths=0)
    else:
        labels = labels.cpu().numpy()
        classes = np.unique(labels).tolist()
        colors = matplotlib.colormaps["tab10" if len(classes) <= 10 else "turbo"]
        for i, label in enumerate(classes):
            color = colors(i if len(classes) <= 10 else i / (len(classes) - 1))
            axes.scatter(*points[labels == label].T, s=10, linewidths=0, color=color)
        for label in classes:
            _write(axes, *points[labels == label].mean(0).tolist(), str(label))
    axes.set_aspect("equal", adjustable="datalim")


def _write(axes: Axes, x: float, y: float, text: str, color: str = "black") -> None:
    effects = [withStroke(linewidth=5, foreground="white")]
    axes.text(x, y, text, color=color, fontsize=20, fontweight="bold", ha="center", va="center", path_effects=effects)
