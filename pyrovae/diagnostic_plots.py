"""Figures of diagnostics: each takes tensors and returns a matplotlib `Figure`; nothing is computed but the layout."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyrovae.plotting import _colors, _legend, _montage, _panels, _styled, _width

__all__ = [
    "evidence",
    "gap_bars",
    "kl_bars",
    "pareto_k",
    "pixels",
    "posteriors",
    "rank_histograms",
    "rate_distortion",
    "replicated_statistics",
]


@_styled
def evidence(log_likelihoods: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Estimates of log p(x) of single data less the first of them, with bars of two standard errors.

    Args:
        log_likelihoods: by name, values and standard errors in nats, `(N,)` each.

    Example:
        >>> value, error = torch.zeros(10), torch.ones(10)
        >>> figure = evidence({"importance sampling": (value, error), "annealed": (value + 1, error)})
        >>> figure.axes[0].get_ylabel()
        'nats'
    """
    colors = _colors(log_likelihoods)
    first, (reference, _) = next(iter(log_likelihoods.items()))
    figure = Figure(figsize=(9 + _width(colors), 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="lightgrey", linewidth=1, zorder=0)
    for i, (name, (value, error)) in enumerate(log_likelihoods.items()):
        place = np.arange(len(value)) + 0.7 * ((i + 0.5) / len(colors) - 0.5)
        style = {"fmt": "o", "markersize": 4, "elinewidth": 1.5, "color": colors[name]}
        axes.errorbar(place, _array(value - reference), 2 * _array(error), **style)
    axes.set(xlabel="datum", ylabel="nats", title=f"log p(x) less that of {first}, two standard errors")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, colors)
    return figure


@_styled
def gap_bars(gaps: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """What of log p(x) - L(x) each part makes up, a stacked bar for each set of data, with two standard errors.

    Args:
        gaps: by the name of the data, by the name of the part, its mean and standard error in nats.

    Example:
        >>> parts = {"approximation": (0.5, 0.1), "amortisation": (1.0, 0.1)}
        >>> [label.get_text() for label in gap_bars({"train": parts, "test": parts}).axes[0].get_yticklabels()]
        ['train', 'test']
    """
    parts = list(dict.fromkeys(part for of in gaps.values() for part in of))
    colors = _colors(parts)
    figure = Figure(figsize=(8 + _width(colors) + _width(gaps), 1.6 + 0.7 * len(gaps)), layout="constrained")
    axes, ends = figure.subplots(), np.zeros(len(gaps))
    for part in parts:
        mean, error = np.array([of.get(part, (0.0, 0.0)) for of in gaps.values()]).T
        bars = axes.barh(range(len(gaps)), mean, left=ends, color=colors[part], height=0.6)
        axes.bar_label(bars, [f"{m:.2f}" for m in mean], label_type="center", color="white", fontsize=12)
        ends = ends + mean
        style = {"fmt": "none", "ecolor": "black", "elinewidth": 1.5, "capsize": 3}
        axes.errorbar(ends, range(len(gaps)), xerr=2 * error, **style)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.invert_yaxis()
    axes.set(xlabel="nats", title="Where log p(x) - L(x) comes from, two standard errors")
    _legend(figure, colors)
    return figure


@_styled
def kl_bars(kl: Tensor, active: Tensor) -> Figure:
    """The KL of each latent dimension, sorted, dimensions whose mean moves with x in colour.

    Args:
        kl: KL(q(z_d | x) || p(z_d)), the mean over data, in nats, `(D,)`.
        active: whether a dimension is, `(D,)` of bool.

    Example:
        >>> figure = kl_bars(torch.tensor([0.0, 2.0, 1.0]), torch.tensor([False, True, True]))
        >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
        [2.0, 1.0, 0.0]
    """
    order = _array(kl).argsort()[::-1]
    figure = Figure(figsize=(min(6.5 + 0.15 * len(order), 15), 4.2), layout="constrained")
    axes = figure.subplots()
    colors = np.where(_array(active)[order], "tab:blue", "lightgrey")
    axes.bar(range(len(order)), _array(kl)[order], color=colors, width=0.8)
    if len(order) <= 25:
        axes.set_xticks(range(len(order)), [str(d + 1) for d in order], fontsize=11)
    else:
        axes.set_xticks([])
    axes.set(xlabel="dimension of z, sorted", ylabel="KL (nats)", title="KL of each dimension")
    lines = [Line2D([], [], color=c, linewidth=6, label=n) for n, c in (("active", "tab:blue"), ("not", "lightgrey"))]
    figure.legend(handles=lines, loc="outside right upper")
    return figure


@_styled
def pareto_k(k: Tensor, threshold: float) -> Figure:
    """How many data have which k-hat; dashed lines are the threshold, below which it is good, and 1.

    Args:
        k: Pareto's k-hat of each datum, `(N,)`; what is no number is left out.
        threshold: below which k is good.

    Example:
        >>> [line.get_xdata()[0] for line in pareto_k(torch.linspace(0, 1.2, 50), 0.7).axes[0].lines]
        [0.7, 1.0]
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes, k = figure.subplots(), _array(k)
    low, high = min([*k[np.isfinite(k)], -0.2]), max([*k[np.isfinite(k)], 1.2])
    _, edges, bars = axes.hist(k[np.isfinite(k)], bins=np.linspace(low, high, 41))
    for edge, bar in zip(edges, bars, strict=False):
        bar.set_color("tab:blue" if edge < threshold else "tab:orange" if edge < 1 else "tab:red")
    for value, name in ((threshold, "threshold"), (1.0, "no mean")):
        axes.axvline(value, color="black", linestyle="--", linewidth=1.5)
        style = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 12}
        axes.annotate(f"{name} {value:.2f}", (value, 0.97), xytext=(4, 0), va="top", rotation=90, **style)
    axes.set(xlabel=r"$\hat{k}$", ylabel="data", title="Pareto's shape of the importance weights")
    return figure


@_styled
def rank_histograms(ranks: Tensor, num_draws: int, band: tuple[float, float], num_bins: int = 20) -> Figure:
    """How many of the z_d have which rank among the draws of q(z | x), a panel for each dimension, at most eight.

    Args:
        ranks: 0 ... L, `(N, D)`.
        num_draws: L.
        band: within which a bin's count lies if ranks are uniform, drawn in grey.
        num_bins: a divisor of L + 1.

    Example:
        >>> figure = rank_histograms(torch.arange(200).remainder(100)[:, None], 99, (4, 18))
        >>> [float(patch.get_height()) for patch in figure.axes[0].patches[:3]]
        [10.0, 10.0, 10.0]
    """
    shown = min(ranks.shape[1], 8)
    columns = min(shown, 4)
    figure = Figure(figsize=(1 + 3.2 * columns, 0.8 + 2.6 * -(-shown // columns)), layout="constrained")
    grid = figure.subplots(-(-shown // columns), columns, squeeze=False, sharey=True)
    for d, axes in enumerate(grid.flat):
        if d >= shown:
            axes.set_visible(False)
            continue
        axes.hist(_array(ranks[:, d]), bins=np.linspace(0, num_draws + 1, num_bins + 1) - 0.5)
        axes.axhspan(*band, color="grey", alpha=0.4, linewidth=0)
        axes.set(title=f"$z_{{{d + 1}}}$", xticks=[0, num_draws])
    figure.supxlabel(f"rank among {num_draws} draws of q(z | x)")
    grid[0, 0].set_ylabel("data")
    return figure


@_styled
def rate_distortion(points: Mapping[str, tuple[float, float]], entropy: float | None = None) -> Figure:
    """Models in the rate-distortion plane; on a dashed line the ELBO is the best of them.

    Args:
        points: by name, the distortion -E[log p(x | z)] and the rate KL(q(z | x) || p(z)), in nats.
        entropy: of the data, if it is known: no model is below the line where distortion and rate sum to it.

    Example:
        >>> figure = rate_distortion({"beta = 1": (20.0, 4.0), "beta = 4": (25.0, 1.0)})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['beta = 1', 'beta = 4']
    """
    figure = Figure(figsize=(7.5 + _width(points), 5), layout="constrained")
    axes, colors = figure.subplots(), _colors(points)
    distortion, rate = np.array(list(points.values())).T
    for name, place in points.items():
        axes.plot(*place, "o", color=colors[name], markersize=8)
        axes.annotate(name, place, xytext=(7, 4), textcoords="offset points", fontsize=12)
    margin = 0.08 * max(distortion.max() - distortion.min(), rate.max() - rate.min(), 0.1)
    low, high = distortion.min() - margin, distortion.max() + 2 * margin
    lines = {f"ELBO {-(distortion + rate).min():.2f}": ((distortion + rate).min(), "--")}
    lines |= {} if entropy is None else {f"entropy of the data {entropy:.2f}": (entropy, "-")}
    for name, (total, style) in lines.items():
        axes.plot([low, high], [total - low, total - high], style, color="grey", linewidth=1.5, label=name)
    axes.set(xlim=(low, high), ylim=(max(rate.min() - margin, 0), rate.max() + margin))
    axes.set(xlabel="distortion, -E[log p(x | z)] (nats)", ylabel="rate, KL (nats)", title="Rate and distortion")
    axes.legend()
    return figure


@_styled
def replicated_statistics(checks: Mapping[str, tuple[float, Tensor, float]], title: str) -> Figure:
    """Test statistics of data sets that the model gives, and of the data, a panel for each.

    Args:
        checks: by name, T of the data, T of the replicated data sets `(R,)`, and the p-value.
        title: of the figure.

    Example:
        >>> figure = replicated_statistics({"mean": (1.0, torch.linspace(0, 1, 50), 0.04)}, "By the prior")
        >>> figure.axes[0].get_title()
        'mean, p = 0.04'
    """
    columns = min(len(checks), 3)
    rows = -(-len(checks) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 1 + 2.5 * rows), layout="constrained")
    figure.suptitle(title)
    panels = _panels(figure, len(checks), columns)
    for axes, (name, (observed, replicated, p)) in zip(panels, checks.items(), strict=True):
        axes.hist(_array(replicated), bins=30, color="lightgrey")
        axes.axvline(observed, color="tab:red")
        axes.set(title=f"{name}, p = {p:.2g}", yticks=[])
        axes.locator_params("x", nbins=4)
        axes.title.set_fontsize(13)
    lines = [Line2D([], [], color=c, linewidth=w, label=n) for n, c, w in _STATISTICS]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return figure


_STATISTICS = (("data", "tab:red", 2), ("data sets that the model gives", "lightgrey", 6))


@_styled
def pixels(x: Tensor, mean: Tensor, deviation: Tensor) -> Figure:
    """Data over the mean of each pixel of p(x' | x), and over its standard deviation, one datum a column.

    Data above 1, such as counts, and means are shown from 0 to the largest of them.

    Args:
        x: images, `(n, C, H, W)`.
        mean: of pixels of images x' ~ p(x' | z), z ~ q(z | x), `(n, C, H, W)`.
        deviation: their standard deviation, `(n, C, H, W)`, shown from 0 to its largest.

    Example:
        >>> x = torch.rand(8, 1, 8, 8)
        >>> pixels(x, x, 0.1 * x).axes[0].get_title()
        'Posterior predictive distribution of each pixel'
    """
    figure = Figure(figsize=(max(2.6 + 0.55 * len(x), 6.5), 0.8 + 3 * 0.55), layout="constrained")
    axes, largest = figure.subplots(), deviation.max().clamp(min=1e-12)
    names, scale = ["data x", "mean", f"std, black {largest:.2f}"], 1.0
    if x.max() > 1:
        scale = torch.maximum(x.max(), mean.max())
        names[:2] = (f"{name}, up to {scale:.3g}" for name in names[:2])
    _montage(axes, torch.stack([x / scale, mean / scale, deviation / largest]), names)
    axes.set_title("Posterior predictive distribution of each pixel")
    return figure


@_styled
def posteriors(
    nodes: Sequence[Tensor],
    truth: Tensor,
    guides: Mapping[str, Tensor],
    draws: Mapping[str, Tensor],
    x: Tensor | None = None,
) -> Figure:
    """p(z | x) of single data on a grid, with other densities and draws over it, a panel for each datum.

    Args:
        nodes: of each dimension of z, rising, `(G_d,)`, one or two of them.
        truth: the density p(z | x) on the grid, `(n, G_1)` or `(n, G_1, G_2)`, in colour.
        guides: other densities on it by name, as lines.
        draws: draws by name, `(n, K, D)`, as points; of one dimension, as small lines below.
        x: the data, `(n, C, H, W)`, if they are images, shown above the panels.

    Example:
        >>> z = torch.linspace(-3, 3, 50)
        >>> p = (-z.square() / 2).exp().expand(2, 50)
        >>> len(posteriors([z], p, {"q(z | x)": p}, {}).axes)
        2
    """
    columns = min(len(truth), 4)
    rows = -(-len(truth) // columns)
    colors = dict(zip([*guides, *draws], ("tab:red", "tab:orange", "black", "tab:green", "tab:purple"), strict=False))
    figure = Figure(figsize=(1 + 3.4 * columns + 2.5, 0.6 + (3.4 if x is None else 4.0) * rows), layout="constrained")
    for i, axes in enumerate(_panels(figure, len(truth), columns)):
        panel = _line_panel if len(nodes) == 1 else _contour_panel
        of_datum = ({name: t[i] for name, t in group.items()} for group in (guides, draws))
        panel(axes, [_array(n) for n in nodes], _array(truth[i]), *of_datum, colors)
        if x is not None:
            _montage(axes.inset_axes((0.4, 1.03, 0.2, 0.2)), x[i][None, None])
    figure.suptitle("The true posterior of single data, and what stands for it")
    lines = [Line2D([], [], color="steelblue", linewidth=6, label="p(z | x)")]
    lines += [Line2D([], [], color=colors[name], label=name) for name in guides]
    lines += [Line2D([], [], color=colors[name], marker=".", linestyle="none", label=name) for name in draws]
    figure.legend(handles=lines, loc="outside right upper")
    return figure


def _contour_panel(axes: Axes, nodes: list, truth: np.ndarray, guides: dict, draws: dict, colors: dict) -> None:
    """Two dimensions: z_1 to the right, z_2 upwards; lines hold 50 and 95 % of the mass, the panel nearly all."""
    axes.contourf(*nodes, truth.T, levels=np.linspace(0.03, 1, 12) * truth.max(), cmap="Blues")
    for name, t in draws.items():
        axes.plot(*_array(t).T, ".", color=colors[name], markersize=2.5, alpha=0.6)
    for name, density in guides.items():
        q = _array(density).T
        falling = np.sort(q, axis=None)[::-1]
        mass = falling.cumsum()
        levels = {falling[(mass < share * mass[-1]).sum()] for share in (0.95, 0.5)} - {falling[0]}
        if levels:  # a needle may be on one point of the grid, or on none
            axes.contour(*nodes, q, levels=sorted(levels), colors=[colors[name]], linewidths=1.5)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    axes.locator_params(nbins=5)
    seen = _seen(truth, guides)
    for d, limit in enumerate((axes.set_xlim, axes.set_ylim)):
        limit(*nodes[d][seen.any(1 - d)][[0, -1]])


def _line_panel(axes: Axes, nodes: list, truth: np.ndarray, guides: dict, draws: dict, colors: dict) -> None:
    """One dimension: densities over z."""
    axes.fill_between(nodes[0], truth, color="steelblue", alpha=0.6, linewidth=0)
    for name, density in guides.items():
        axes.plot(nodes[0], _array(density), color=colors[name])
    for i, (name, t) in enumerate(draws.items()):
        place = np.full(len(t), -0.03 * (i + 1) * truth.max())
        axes.plot(_array(t)[:, 0], place, "|", color=colors[name], markersize=7)
    axes.set(xlabel="z", yticks=[], xlim=nodes[0][_seen(truth, guides)][[0, -1]])
    axes.locator_params("x", nbins=5)


def _seen(truth: np.ndarray, guides: dict) -> np.ndarray:
    """Where on the grid a density can be seen."""
    densities = [t for t in (truth, *map(_array, guides.values())) if t.max() > 0]  # a needle may miss all points
    return np.stack([t / t.max() for t in densities]).max(0) > 0.005


def _array(t: Tensor) -> np.ndarray:
    return t.detach().cpu().numpy()
