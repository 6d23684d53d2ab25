"""An epoch: one pass over the data, which can be left and gone on with between any two steps."""

import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pyrovae.batches import Batches
from pyrovae.check import unvalidated
from pyrovae.columns import Data
from pyrovae.distributed import Processes
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.steps import Step
from pyrovae.trouble import NotFiniteError

__all__ = ["Epoch", "validation"]

_STEPWISE = (OneCycleLR, CyclicLR)  # the schedulers that PyTorch steps with the optimiser, not once an epoch


class Epoch:
    """The epoch that is going on, with what its row of the history is made of.

    Args:
        vae: the model.
        step: of the training.
        batches: of data.
        schedule: of the learning rate.
        max_skips: how many batches may be left out, of all epochs.
    """

    def __init__(
        self, vae: Model, step: Step, batches: Batches, schedule: LRScheduler | None, max_skips: int = 0
    ) -> None:
        self.vae, self.step, self.batches, self.schedule, self.max_skips = vae, step, batches, schedule, max_skips
        self.number, self.skips = 1, 0  # of all epochs
        self._clear()

    def _clear(self) -> None:
        self.totals: list[Tensor] = []  # of the steps, (3,) each
        self.seconds, self.rate = 0.0, 0.0  # until it was gone on with; and of learning, at its beginning
        self.left_out = [0, 0]  # batches and data
        self.batch: tuple[Tensor, ...] = ()  # the last one
        self.start: float | None = None  # no step was taken since it was gone on with

    def steps(self) -> Iterator[None]:
        """Take the steps that are left."""
        self.vae.train()
        self.start = time.perf_counter()
        if self.batches.position == 0:
            self.rate = float(self.step.svi.optim.param_groups[0]["lr"])
        self.batches.before = (self.number - 1) * len(self.batches)
        for batch in self.batches:
            self.batch = batch
            if self.batches.unchecked:
                self.vae.check(*batch, name="train")
            try:
                self.totals.append(self.step(*batch))
            except NotFiniteError as error:
                self._skip(error)
            if isinstance(self.schedule, _STEPWISE):
                self.schedule.step()
            yield
        self.batches.unchecked = False

    def _skip(self, error: NotFiniteError) -> None:
        if self.skips >= self.max_skips:
            raise error
        self.skips += 1
        self.left_out = [self.left_out[0] + 1, self.left_out[1] + len(self.batches.indices)]
        if isinstance(objective := self.step.svi.objective, Objective):
            objective.step += 1  # its schedules go on
        warnings.warn(
            f"{error} in batch {self.batches.position} of epoch {self.number}: it is skipped, {self.skips} of at most "
            f"{self.max_skips}",
            stacklevel=5,
        )

    def end(self) -> dict[str, float]:
        """Its row of the history; the next one can begin."""
        if not self.totals:
            raise FloatingPointError(
                f"all batches of epoch {self.number} were skipped: try a smaller learning rate, and look at the data"
            )
        used = self.batches.size - self.left_out[1]
        objective, reconstruction, kl = (torch.stack(self.totals).double().sum(0) / used).tolist()
        target = self.step.svi.objective
        row = {
            "epoch": self.number,
            "objective": objective,
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            **(target.weights if isinstance(target, Objective) else {}),
            "learning_rate": self.rate,
            **({"skipped": self.left_out[0]} if self.max_skips else {}),
            "seconds": self.seconds + time.perf_counter() - self.start,
        }
        self._clear()
        self.number += 1
        return row

    def step_schedule(self, row: dict[str, float]) -> None:
        """After an epoch, of which the history has a row."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(-row["valid_elbo"])
        elif self.schedule is not None and not isinstance(self.schedule, _STEPWISE):
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """What it has come to."""
        return {
            "totals": torch.stack(self.totals) if self.totals else torch.empty(0, 3),
            "seconds": self.seconds + (0.0 if self.start is None else time.perf_counter() - self.start),
            "rate": self.rate,
            "left_out": self.left_out,
            "skips": self.skips,
            "number": self.number,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._clear()
        like = next(self.vae.parameters())
        if state["totals"].shape[1:] != (3,):
            raise ValueError(f"totals of steps are (n, 3), not {tuple(state['totals'].shape)}")
        self.totals = list(state["totals"].to(like.device))
        self.seconds, self.rate = float(state["seconds"]), float(state["rate"])
        batches, data = map(int, state["left_out"])
        self.left_out, self.skips, self.number = [batches, data], int(state["skips"]), int(state["number"])


def validation(vae: Model, valid: Data, num_samples: int, seed: int, processes: Processes) -> dict[str, float]:
    """What a row of the history tells of the validation data.

    Args:
        vae: the model.
        valid: the data.
        num_samples: draws for each datum.
        seed: of the draws.
        processes: of which each takes its share.
    """
    with unvalidated():  # a model that diverged gives NaN, of which the caller tells
        bound, evidence = processes.scores(vae, valid, num_samples, seed)
    terms = {"elbo": bound.value, "reconstruction": bound.reconstruction, "kl": bound.kl}
    if num_samples > 1:
        terms["log_likelihood"] = evidence.value
    return {f"valid_{name}": value.double().mean().item() for name, value in terms.items()}
