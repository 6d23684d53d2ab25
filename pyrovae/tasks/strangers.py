"""Data unlike a run's, in the shape and values of its own: another set, noise, constant images, means of p(x | z)."""

from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrovae import data
from pyrovae.columns import columns
from pyrovae.rng import isolated
from pyrovae.runs import Run

__all__ = ["strangers"]


def strangers(run: Run, other: str | None = None, num_data: int = 200, seed: int = 0) -> dict[str, Tensor]:
    """Sets of data by name, `(n, *event)` each, n at most `num_data`.

    Noise is uniform from the least to the greatest value of the test data. Constant images have one such value each;
    of binary data there are two. Means of p(x | z), z ~ p(z), lack the noise that all data have: they lie where p(x) is
    large, but where hardly any data are. What is whole numbers, or grey levels, in the run's data is so in all sets.

    Args:
        run: the run.
        other: a named set, or a path; unless given, shapes for images, digits for those of a run on shapes.
        num_data: of each set.
        seed: of the noise, and of which data of the other set.

    Raises:
        ValueError: if the other data cannot be brought to the shape of the run's.
    """
    x = columns(run.dataset.test)[0]
    images = x.dim() == 4
    if other is None and images:
        other = "digits" if run.options.data == "shapes" else "shapes"
    with isolated(seed, "strangers"):
        found = {}
        if other is not None:
            dataset = data.load(other, root=run.options.root)
            others = dataset.test[torch.randperm(len(dataset.test))[:num_data]]
            if images:
                others = _resized(others, x)
            if others.shape[1:] != x.shape[1:]:
                raise ValueError(
                    f"data of {other} have the shape {tuple(others.shape[1:])}, those of the run {tuple(x.shape[1:])}: "
                    f"give data of that shape"
                )
            found[dataset.protocol.data] = others
        least, most = x.min(), x.max()
        found["uniform noise"] = least + (most - least) * torch.rand(num_data, *x.shape[1:])
        if images:
            found["constant images"] = (least + (most - least) * torch.rand(num_data, 1, 1, 1)).expand(-1, *x.shape[1:])
        with suppress(ValueError):  # there is no p(z)
            found["means of p(x | z)"] = run.vae.sample(num_data, "mean").to(x).clamp(least, most)
    found = {name: _in_values_of(run, values) for name, values in found.items()}
    if "constant images" in found:
        found["constant images"] = found["constant images"].unique(dim=0)
    return found


def _resized(others: Tensor, x: Tensor) -> Tensor:
    """Images of the size and the channels of x, each pixel the mean of what it covers."""
    if others.dim() != 4:
        raise ValueError(f"the run's data are images, but the others are of shape {tuple(others.shape[1:])}")
    if others.shape[1] != x.shape[1]:
        others = others.mean(1, keepdim=True).expand(-1, x.shape[1], -1, -1)
    return F.adaptive_avg_pool2d(others, x.shape[-2:]).clamp(x.min(), x.max())


def _in_values_of(run: Run, values: Tensor) -> Tensor:
    """Rounded as the run's data are."""
    x, protocol = columns(run.dataset.test)[0], run.dataset.protocol
    if (x == x.round()).all():
        return values.round()
    if protocol.levels and not protocol.dequantize:
        return (values * (protocol.levels - 1)).round() / (protocol.levels - 1)
    return values
