"""Figures of maps of the latent space."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plotting import _scatter, _styled

__all__ = ["planes"]


@_styled
def planes(
    pictures: Mapping[str, tuple[Tensor, tuple[str, str], float | None]],
    labels: Tensor | None = None,
    accuracy: float | None = None,
) -> Figure:
    """Means of q(z | x) in planes side by side, coloured by label, with the accuracy of neighbours in each.

    Args:
        pictures: by name, points `(N, 2)`, what the two axes show, and the share of labels that neighbours in the
            plane tell.
        labels: class of each point, `(N,)`, or None.
        accuracy: the same share of neighbours in all dimensions of z.

    Example:
        >>> import torch
        >>> points = {"by t-SNE": (torch.randn(20, 2), ("t-SNE 1", "t-SNE 2"), 0.8)}
        >>> print(planes(points, torch.arange(20) % 2, 0.9).axes[0].get_title())
        by t-SNE: five neighbours tell 80% of labels
        (90% in all dimensions of z)
    """
    figure = Figure(figsize=(0.5 + 6.5 * len(pictures), 7.2), layout="constrained")
    panels = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (name, (points, names, told)) in zip(panels, pictures.items(), strict=True):
        _scatter(axes, points, labels, 14)
        if names[1] != "its standard deviation":
            axes.set_aspect("equal", adjustable="datalim")
        if told is not None:
            name += f": five neighbours tell {told:.0%} of labels\n({accuracy:.0%} in all dimensions of z)"
        axes.set(xlabel=names[0], ylabel=names[1], title=name)
    figure.suptitle("Means of q(z | x) of test data")
    return figure
