"""Figures of the models of the family: each takes tensors and returns a matplotlib `Figure`."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _TILE, _colors, _legend, _montage, _styled, _width

__all__ = ["accuracies", "bars", "clouds", "montage", "posteriors", "usage"]


@_styled
def montage(
    rows: Mapping[str, Tensor],
    title: str,
    lines: Mapping[str, int] | None = None,
    columns: Sequence[str] = (),
    below: str = "",
) -> Figure:
    """Rows of images, each with its name; one that is shorter than others ends in white, as an image of NaN is.

    Args:
        rows: by name, images `(n, C, H, W)`.
        title: of the figure.
        lines: by name, under how many of the pixels' rows the images have a line through them.
        columns: what stands under each column.
        below: what stands under all of them.

    Example:
        >>> figure = montage({"data x": torch.rand(8, 1, 8, 8), "mean of p(x | z)": torch.rand(8, 1, 8, 8)}, "A title")
        >>> figure.axes[0].get_title()
        'A title'
    """
    each = [row.detach().cpu().float() for row in rows.values()]
    longest = max(map(len, each))
    white = [row.new_full((longest - len(row), *row.shape[1:]), torch.nan) for row in each]
    images = torch.stack([torch.cat(row) for row in zip(each, white, strict=True)])  # (rows, n, C, H, W)
    names = 0.3 + 0.17 * max(map(len, rows))
    width = names + _TILE * images.shape[1]
    under = 0.3 * bool(columns) + 0.3 * bool(below)
    figure = Figure(figsize=(max(width, 0.14 * len(title)), 0.8 + under + _TILE * len(rows)), layout="constrained")
    axes = figure.subplots()
    _montage(axes, images, list(rows))
    axes.set_xticks([(images.shape[-1] + 1) * (i + 0.5) for i in range(len(columns))], columns)
    axes.set_xlabel(below)
    for row, name in enumerate(rows):
        if lines and name in lines:  # above each image are a pixel of white, and half of one to the picture's edge
            axes.axhline(row * (images.shape[-2] + 1) + lines[name] + 0.5, color="tab:red", linewidth=1.5)
    axes.set_title(title)
    return figure


@_styled
def clouds(groups: Mapping[str, Tensor], behind: Tensor, names: Sequence[str], title: str) -> Figure:
    """Points of the plane in groups, each of its colour, over grey draws of p(z).

    Args:
        groups: by name, points `(n, 2)`.
        behind: draws of p(z), `(m, 2)`.
        names: what the two axes show.
        title: of the figure.

    Example:
        >>> codes = {"0": torch.randn(9, 2), "1": torch.randn(9, 2)}
        >>> axes = clouds(codes, torch.randn(20, 2), ("$z_1$", "$z_2$"), "A title").axes[0]
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['p(z)', '0', '1']
    """
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*behind.detach().cpu().T, s=4, color="0.85", linewidths=0, label="p(z)")
    for number, (name, points) in enumerate(groups.items()):
        color = "black" if number % 10 == 7 else f"C{number}"  # as C7 is grey
        axes.scatter(*points.detach().cpu().T, s=14, linewidths=0, color=color, label=name)
    axes.set(xlabel=names[0], ylabel=names[1], title=title, aspect="equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, handletextpad=0.1)
    return figure


@_styled
def posteriors(x: Tensor, draws: Tensor, behind: Tensor, names: Sequence[str]) -> Figure:
    """Data, and under each of them draws of its q(z | x), over grey draws of p(z).

    Args:
        x: images, `(n, C, H, W)`.
        draws: points of each, `(S, n, 2)`.
        behind: draws of p(z), `(m, 2)`.
        names: what the two axes show.

    Example:
        >>> figure = posteriors(torch.rand(3, 1, 8, 8), torch.randn(9, 3, 2), torch.randn(20, 2), ("$z_1$", "$z_2$"))
        >>> len(figure.axes)
        6
    """
    n, points, behind = len(x), draws.detach().cpu(), behind.detach().cpu()
    figure = Figure(figsize=(0.6 + 2.4 * n, 4.4), layout="constrained")
    tops, bottoms = figure.subplots(2, n, sharex="row", sharey="row", height_ratios=[1, 2.4], squeeze=False)
    for datum, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
        _montage(top, x[datum].detach().cpu()[None, None])
        bottom.scatter(*behind.T, s=3, color="0.85", linewidths=0)
        bottom.scatter(*points[:, datum].T, s=4, color="tab:blue", linewidths=0)
        bottom.set(xlabel=names[0], aspect="equal")
    bottoms[0].set_ylabel(names[1])
    figure.suptitle("Data x, and draws of q(z | x) (blue) over draws of p(z) (grey)")
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


@_styled
def accuracies(rows: Sequence[Mapping[str, str | int | float]], num_data: int) -> Figure:
    """Accuracy on test data over the number of labels and their share of the training data, a line for each method.

    Args:
        rows: `method`, `labelled`, `accuracy`; a thin line for each `seed`, a thick one for their mean.
        num_data: of training.

    Example:
        >>> rows = [{"method": "enumerated", "labelled": n, "seed": 0, "accuracy": n / 100} for n in (10, 50)]
        >>> accuracies(rows, num_data=1000).axes[0].get_ylabel()
        'accuracy on test data'
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(7.5 + _width(methods), 4.8), layout="constrained")
    axes, colors = figure.subplots(), _colors(methods)
    for method, color in colors.items():
        points: dict[int, dict[int, float]] = {}  # by seed and number of labels
        for row in rows:
            if row["method"] == method:
                points.setdefault(row["seed"], {})[row["labelled"]] = row["accuracy"]
        for seed in points.values():
            axes.plot(list(seed), list(seed.values()), color=color, linewidth=0.8, alpha=0.6)
        counts = list(next(iter(points.values())))
        means = [sum(seed[n] for seed in points.values()) / len(points) for n in counts]
        axes.plot(counts, means, color=color, marker="o")
    axes.set(xscale="log", ylabel="accuracy on test data", xlabel="labels (share of the training data)")
    axes.set_xticks(counts, [f"{n}\n({n / num_data:.2%})" for n in counts], minor=False)
    axes.set_xticks([], minor=True)
    _legend(figure, colors, [])
    return figure
