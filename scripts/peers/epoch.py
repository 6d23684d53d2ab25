"""An epoch of `pyrovae.fit`, with its handling of data, against as many bare steps."""

from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from peers import load
from peers.case import LEARNING_RATE, Case
from peers.measure import quartiles
from peers.ours import bound, build
from peers.timing import seconds_of
from pyrovae import data, fit

__all__ = ["epochs_and_bare_steps"]

_UNTIMED = 1  # epochs in which steps are compiled


def epochs_and_bare_steps(case: Case, name: str, device: torch.device, size: int, rounds: int) -> dict[str, Any]:
    """Seconds of each epoch of `fit`, which shuffles, and of as many bare steps right after it; both binarize.

    Args:
        case: what is trained.
        name: of one of ours among the peers.
        device: where; the data are there, too.
        size: data of an epoch, a multiple of the batch size.
        rounds: epochs.
    """
    generator = torch.Generator().manual_seed(2)
    intensities = data.Intensities(torch.rand(size, case.pixels, generator=generator).to(device) ** 4)
    steps, bare = size // case.batch_size, load(name)(case, data.Intensities(case.batches(device)))
    bare.take(3)
    between: list[float] = []

    class BareSteps(LRScheduler):
        """Takes bare steps when an epoch is over, which is when `fit` calls a scheduler; leaves the rate alone."""

        def step(self, *args: Any) -> None:
            if hasattr(self, "started"):
                between.append(steps * seconds_of(bare, steps))
            self.started = True

    history = fit(
        build(case, device),
        intensities,
        objective=bound(case),
        epochs=_UNTIMED + rounds,
        batch_size=case.batch_size,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=LEARNING_RATE),
        scheduler=BareSteps,
        compile=bare.compile,
        progress=False,
    )
    epochs, bare_steps = history["seconds"][_UNTIMED:], between[_UNTIMED:]
    return {
        "contender": name,
        "case": case.to_dict(),
        "steps": steps,
        "epoch_seconds": quartiles(epochs),
        "bare_seconds": quartiles(bare_steps),
        "ratio": quartiles(np.array(epochs) / bare_steps),
        "round_seconds": {"epoch": epochs, "bare_steps": bare_steps},
    }
