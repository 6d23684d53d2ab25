"""Some data of a run, drawn at random, with what is known of them."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyrovae.drawn import Drawn
from pyrovae.rng import isolated
from pyrovae.runs import Run

__all__ = ["Subset", "subset"]


class Subset(NamedTuple):
    """Data `(N, *event)`, their labels `(N,)` and factors `(N, F)`, where they are known."""

    x: Tensor
    labels: Tensor | None
    factors: Tensor | None


def subset(run: Run, part: Literal["train", "valid", "test"], most: int, seed: int = 0) -> Subset:
    """At most so many data of a part, in their order, as the model takes them: what is binarized anew is drawn once.

    Args:
        run: the run, of data that are one tensor.
        part: of the data.
        most: how many; fewer than there are are drawn at random, as data may be sorted.
        seed: of the draws.
    """
    x, labels, factors = (
        getattr(of, part) if of else None for of in (run.dataset, run.dataset.labels, run.dataset.factors)
    )
    with isolated(seed, part):
        chosen = torch.randperm(len(x))[:most].sort().values
        x = x.draw(torch.Generator().manual_seed(seed)) if isinstance(x, Drawn) else x
    return Subset(x[chosen], *(None if of is None else of[chosen] for of in (labels, factors)))
