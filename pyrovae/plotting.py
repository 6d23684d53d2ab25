"""Figures: each takes tensors and returns a matplotlib `Figure`; nothing is computed here but the layout."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

__all__ = [
    "decoded_grid",
    "latent_means",
    "learning_curves",
    "paired_differences",
    "reconstructions",
    "samples",
    "signal_to_noise",
    "tightness",
    "training_curves",
]

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
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=names[0], ylabel=names[1], title="Means of q(z | x)")
    return figure


@_styled
def decoded_grid(
    images: Tensor,
    quantiles: Tensor,
    path: Tensor | None = None,
    decoded_path: Tensor | None = None,
    means: Tensor | None = None,
    labels: Tensor | None = None,
) -> Figure:
    """The means of p(x | z) over a grid of two-dimensional z, and over it a path through z with its strip of images.

    With means of q(z | x) the images are faint, and the means over them coloured by label; those off the grid are left
    out.

    Args:
        images: `(n, n, C, H, W)`: z_2 falls along the first dimension, z_1 rises along the second.
        quantiles: values of z_1 and of z_2 on the grid, rising, `(2, n)`.
        path: z from one datum to another, `(m, 2)`.
        decoded_path: the means of p(x | z) along it, `(m, C, H, W)`.
        means: of q(z | x), `(N, 2)`.
        labels: class of each, `(N,)`, or None.

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

    def place(z: Tensor) -> Tensor:
        """Where z `(m, 2)` lies in the picture; NaN off the grid."""
        z = z.detach().cpu().numpy()
        first, second = (np.interp(z[:, d], quantiles[d], centers, np.nan, np.nan) for d in (0, 1))
        return torch.from_numpy(np.stack([width * first, height * (n - second)], 1))

    shown = sorted(set(np.linspace(0, n - 1, 5).round().astype(int).tolist()))
    grid.set_xticks([width * centers[i] for i in shown], [f"{quantiles[0, i].round(1) + 0:.1f}" for i in shown])
    grid.set_yticks([height * (n - centers[i]) for i in shown], [f"{quantiles[1, i].round(1) + 0:.1f}" for i in shown])
    grid.set(xlabel="$z_1$", ylabel="$z_2$", title="Means of p(x | z) at the prior's quantiles")
    if means is not None:
        grid.images[0].set_alpha(0.35)
        inside = (points := place(means)).isfinite().all(1)
        _scatter(grid, points[inside], None if labels is None else labels.cpu()[inside], 45, 0.7)
        grid.set_title("Means of p(x | z) at the prior's quantiles,\nover them means of q(z | x) of test data")
    if path is not None:
        along, color = place(path).numpy(), "tab:red" if means is None else "black"
        grid.plot(*along.T, color=color, marker="o", linewidth=3, markersize=7)
        _write(grid, *along[0], "A", color)
        _write(grid, *along[-1], "B", color)
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


@_styled
def learning_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Figure:
    """ELBO and log p(x) of validation data over epochs and over seconds of training, a colour for each entry.

    A thin line is a seed. Over epochs, a thick one is the mean of an entry's seeds, as far as all of them go.

    Args:
        histories: by the name of an entry, for each seed its rows as `fit` returns them: `epoch`, `seconds` of the
            epoch, `valid_elbo` and `valid_log_likelihood`, which has no panel where no row has it.

    Example:
        >>> rows = [{"epoch": e, "seconds": 2.0, "valid_elbo": -9 / e, "valid_log_likelihood": -8 / e} for e in (1, 2)]
        >>> figure = learning_curves({"ELBO": [rows, rows], "IWAE": [rows, rows]})
        >>> [axes.get_ylabel() for axes in figure.axes[::2]]
        ['ELBO (nats)', 'log p(x) (nats)']
    """
    known = {key for seeds in histories.values() for rows in seeds for row in rows for key in row}
    names = {"valid_elbo": "ELBO", "valid_log_likelihood": "log p(x)"}
    names = {key: name for key, name in names.items() if key in known or key == "valid_elbo"}
    figure = Figure(figsize=(11 + _width(histories), 0.8 + 3.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, sharex="col", sharey="row", squeeze=False)
    colors = _colors(histories)
    for (by_epoch, by_second), (key, name) in zip(panels, names.items(), strict=True):
        for entry, seeds in histories.items():
            _seeds(by_epoch, by_second, [[row for row in rows if key in row] for rows in seeds], key, colors[entry])
        _zoom(by_epoch, share=4)  # for entries differ by less than a model learns in an epoch
        by_epoch.set(ylabel=f"{name} (nats)")
    by_epoch.set(xlabel="epoch", xlim=(0, None))
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_second.set(xlabel="seconds of training", xlim=(0, None))
    figure.suptitle("Validation data")
    _legend(figure, colors)
    return figure


@_styled
def tightness(
    num_particles: Sequence[int], bounds: Mapping[str, Sequence[float]], exact: Mapping[str, float] | None = None
) -> Figure:
    """Importance weighted bounds of trained models over the number of particles, below log p(x) where it is known.

    Args:
        num_particles: K of each bound.
        bounds: by the name of an entry, its bounds in nats, one for each K.
        exact: by the name of an entry, its log p(x) in nats, for those where it is known.

    References:
        Burda et al. (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519

    Example:
        >>> figure = tightness([1, 10, 100], {"ELBO": [-9.0, -8.5, -8.1], "IWAE": [-9.2, -8.3, -8.0]}, {"IWAE": -7.9})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['ELBO', 'IWAE', 'exact log p(x)']
    """
    figure = Figure(figsize=(8 + _width(bounds), 5.5), layout="constrained")
    axes = figure.subplots()
    colors = _colors(bounds)
    for entry, values in bounds.items():
        axes.plot(num_particles, values, "o-", color=colors[entry])
        if entry in (exact or {}):
            axes.axhline(exact[entry], color=colors[entry], linestyle="--")
    axes.set_xscale("log")
    shown = _apart(sorted(num_particles))
    axes.set_xticks(shown, [str(k) for k in shown])
    axes.minorticks_off()
    axes.set(xlabel="particles K", ylabel="K-sample bound (nats)", title="How tight is the bound?")
    dashed = [Line2D([], [], color="black", linestyle="--", label="exact log p(x)")]
    _legend(figure, colors, dashed if exact else [])
    return figure


@_styled
def paired_differences(
    rows: Sequence[Mapping[str, str | float | bool]], quantity: str = "log p(x)", level: float = 0.95
) -> Figure:
    """Differences of entries with their intervals, in colour and filled where the interval leaves 0 out.

    Args:
        rows: `entry`, `minus`, `difference`, `low`, `high` and `real` of each pair, as `paired.differences` gives them.
        quantity: what differs.
        level: of the intervals.

    Example:
        >>> row = {"entry": "IWAE", "minus": "ELBO", "difference": 1.0, "low": 0.5, "high": 1.5, "real": True}
        >>> [label.get_text() for label in paired_differences([row]).axes[0].get_yticklabels()]
        ['IWAE - ELBO']
    """
    labels = [f"{row['entry']} - {row['minus']}" for row in rows]
    figure = Figure(figsize=(7 + _width(labels), 2.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for i, row in enumerate(rows):
        color = "tab:blue" if row["real"] else "tab:gray"
        axes.plot([row["low"], row["high"]], [i, i], color=color)
        axes.plot(row["difference"], i, "o", color=color, markerfacecolor=color if row["real"] else "white")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    title = f"{100 * level:g} % intervals over seeds and images\nin blue: 0 lies outside"
    axes.set(xlabel=f"difference of {quantity} (nats)", title=title)
    return figure


def _seeds(
    by_epoch: Axes, by_second: Axes, seeds: Sequence[Sequence[Mapping[str, float]]], key: str, color: tuple
) -> None:
    """A line for each seed on both axes, and on the first their mean."""
    for rows in seeds:
        values = [row[key] for row in rows]
        style = {"color": color, "marker": "o" if len(rows) == 1 else "", "linewidth": 2 if len(seeds) == 1 else 1.2}
        by_epoch.plot([row["epoch"] for row in rows], values, **style)
        by_second.plot(np.cumsum([row["seconds"] for row in rows]), values, **style)
    if len(seeds) > 1:
        together = list(zip(*seeds, strict=False))  # as many epochs as the shortest history has
        mean = [np.mean([row[key] for row in rows]) for rows in together]
        by_epoch.plot([rows[0]["epoch"] for rows in together], mean, color=color, linewidth=3)


def _colors(names: Iterable[Hashable]) -> dict[Any, tuple]:
    """A colour for each name, as unlike each other as can be."""
    names = list(names)
    few = len(names) <= 10
    colors = matplotlib.colormaps["tab10" if few else "turbo"]
    return {name: colors(i if few else i / (len(names) - 1)) for i, name in enumerate(names)}


def _legend(figure: Figure, colors: Mapping[str, tuple], more: Sequence[Line2D] = ()) -> None:
    """One legend for all axes, beside them."""
    lines = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in colors.items()]
    figure.legend(handles=[*lines, *more], loc="outside right upper")


def _width(names: Iterable[str]) -> float:
    """Inches that the longest of the names takes, about."""
    return 0.11 * max(map(len, names), default=0)


def _apart(numbers: Sequence[int], share: float = 0.08) -> list[int]:
    """Of rising numbers those a share of the logarithmic axis apart, so that there is room to write them."""
    shown = list(numbers[:1])
    for number in numbers[1:]:
        if np.log(number / shown[-1]) >= share * np.log(numbers[-1] / numbers[0]) > 0:
            shown.append(number)
    return shown


@_styled
def signal_to_noise(rows: Sequence[Mapping[str, str | int | float]]) -> Figure:
    """The signal-to-noise ratio of gradient estimates over K on logarithmic axes, a panel for each block.

    Dashed lines have the slopes of K^(1/2) and K^(-1/2). A ratio of 0, or infinite as without noise, is left out.

    Args:
        rows: as `gradient_study.gradient_study` returns.

    Example:
        >>> row = {"pair": "IWAE", "block": "inference", "snr_std_error": 0.1}
        >>> rows = [row | {"num_particles": k, "snr": k**-0.5} for k in (1, 10, 100)]
        >>> [axes.get_title() for axes in signal_to_noise(rows).axes]
        ['inference']
    """
    blocks, pairs = (list(dict.fromkeys(row[key] for row in rows)) for key in ("block", "pair"))
    figure = Figure(figsize=(5.6 * len(blocks) + 1 + _width(pairs), 4.6), layout="constrained")
    colors = _colors(pairs)
    for axes, block in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks, strict=True):
        of_block = [row for row in rows if row["block"] == block]
        for pair, color in colors.items():
            _ratios(axes, [row for row in of_block if row["pair"] == pair], color)
        axes.set(xscale="log", yscale="log", title=block, xlabel="number of particles $K$")
        _slopes(axes, of_block)
    figure.axes[0].set_ylabel("signal-to-noise ratio")
    _legend(figure, colors)
    return figure


def _ratios(axes: Axes, rows: Sequence[Mapping[str, str | int | float]], color: tuple) -> None:
    """A line with error bars, without the ratios that logarithmic axes cannot show."""
    k, ratio, error = ([row[key] for row in rows] for key in ("num_particles", "snr", "snr_std_error"))
    ratio = [r if 0 < r < np.inf else np.nan for r in ratio]
    axes.errorbar(k, ratio, error, color=color, marker="o", markersize=5, elinewidth=1.5, capsize=3)


def _slopes(axes: Axes, rows: Sequence[Mapping[str, str | int | float]]) -> None:
    """K^(1/2) and K^(-1/2) from the middle of the first ratios, and axes that hold both these and the ratios."""
    ks = sorted({row["num_particles"] for row in rows})
    shown = [(row["num_particles"], row["snr"]) for row in rows if 0 < row["snr"] < np.inf]
    first = min((k for k, _ in shown), default=1)
    start = np.exp(np.mean([np.log(snr) for k, snr in shown if k == first] or [0.0]))
    ends = {name: start * (ks[-1] / ks[0]) ** power for name, power in (("1/2", 0.5), ("-1/2", -0.5))}
    for name, end in ends.items() if len(ks) > 1 else ():
        axes.plot([ks[0], ks[-1]], [start, end], "--", color="lightgrey", linewidth=1.5, zorder=0)
        style = {"textcoords": "offset points", "va": "center", "color": "grey", "fontsize": 13}
        axes.annotate(rf"$\propto K^{{{name}}}$", (ks[-1], end), xytext=(6, 0), annotation_clip=False, **style)
    values = [*(snr for _, snr in shown), *ends.values()]
    axes.set_ylim(min(values) / 1.6, max(values) * 1.6)
    written = _apart(ks, 0.13)
    axes.set_xticks(written, [str(k) for k in written])
    axes.set_xticks([], minor=True)


def _zoom(axes: Axes, share: int = 20) -> None:
    """Leave the steep beginning of the curves, one of `share` parts, out of view, so that the rest can be read."""
    kept = [value for line in axes.lines for value in line.get_ydata()[len(line.get_ydata()) // share :]]
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


def _scatter(axes: Axes, points: Tensor, labels: Tensor | None, size: float = 10, edge: float = 0) -> None:
    """Points `(N, 2)`, coloured by label, each label written at the mean of its class; with an edge, in its colour."""
    points = points.detach().cpu().numpy()
    style = {"s": size, "linewidths": edge, "edgecolors": "black"}
    if labels is None:
        axes.scatter(*points.T, **style)
        return
    labels = labels.cpu().numpy()
    classes = np.unique(labels).tolist()
    colors = _colors(classes)
    for label in classes:
        axes.scatter(*points[labels == label].T, color=colors[label], **style)
    for label in classes:
        _write(axes, *points[labels == label].mean(0).tolist(), str(label), colors[label] if edge else "black")


def _panels(figure: FigureBase, number: int, columns: int) -> list[Axes]:
    """So many axes, row after row, and none in what is left of the last row."""
    return [figure.add_subplot(-(-number // columns), columns, place) for place in range(1, number + 1)]


def _write(axes: Axes, x: float, y: float, text: str, color: str | tuple = "black") -> None:
    effects = [withStroke(linewidth=5, foreground="white")]
    axes.text(x, y, text, color=color, fontsize=20, fontweight="bold", ha="center", va="center", path_effects=effects)
