"""The record of a training in its folder: checkpoints, the history, and what went wrong."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyrovae.checkpoint import Checkpoint, Parts
from pyrovae.distributed import Processes
from pyrovae.epochs import Epoch
from pyrovae.files import held
from pyrovae.history import History
from pyrovae.interruption import Interrupted
from pyrovae.trouble import NumericalError

__all__ = ["CHECKPOINT", "HISTORY", "TROUBLE", "Record"]

CHECKPOINT, HISTORY, TROUBLE = "checkpoint.pt", "history.csv", "trouble.pt"
_SECONDS = 300.0  # after which a checkpoint is due within an epoch


class Record:
    """History and best parameters of a training, kept with the states of its parts if there is a folder.

    Args:
        checkpoint: of the parts; None where nothing is kept.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self.checkpoint, self.history, self.best = checkpoint, History(), dict[str, Tensor]()
        self._saved = time.monotonic()

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.checkpoint.path.parent

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return time.monotonic() - self._saved > _SECONDS

    @contextmanager
    def begin(self, resume: bool) -> Iterator[None]:
        """Hold the folder, and go on from its checkpoint, or write the first one.

        Args:
            resume: whether to go on.

        Raises:
            FileNotFoundError: if there is nothing to go on from.
            ValueError: if there is, but it shall not go on, or is another run's.
            BlockingIOError: if another process holds the folder.
        """
        if resume and not self.folder.exists():
            raise FileNotFoundError(f"no checkpoint '{self.checkpoint.path}'")
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder):
            if resume:
                values, validated = self.checkpoint.load(), self.checkpoint.settings["validation data"] is not None
                try:
                    self.history, self.best = _known(values, self.checkpoint.parts.parts["vae"], validated)
                    self.history.to_csv(self.folder / HISTORY)
                except (LookupError, TypeError, ValueError, AttributeError) as error:  # of a stranger's file
                    raise ValueError(f"'{self.checkpoint.path}' holds no history of a run") from error
            elif self.checkpoint.path.exists():
                raise ValueError(f"'{self.folder}' keeps a run already: resume it, or give another folder")
            else:
                self.checkpoint.save(history=[], best={})
            yield

    def join(self, processes: Processes, parts: Parts) -> None:
        """Let all processes begin from where the first one is.

        Args:
            processes: that train together.
            parts: all that changes in a step.
        """
        state = processes.same({"parts": parts.state_dict(), "history": list(self.history), "best": self.best})
        if not processes.is_first:
            parts.load_state_dict(state["parts"])
            self.history, self.best = History(state["history"]), state["best"]

    def save(self) -> None:
        """Keep all as it is now."""
        self._saved = time.monotonic()
        if self.checkpoint is not None:
            self.history.to_csv(self.folder / HISTORY)  # first, as it tells that there is a checkpoint to keep
            self.checkpoint.save(history=list(self.history), best=self.best)

    def interrupted(self, signal: int, epoch: Epoch) -> Interrupted:
        """What to raise when a signal ends the training.

        Args:
            signal: its number.
            epoch: that is going on.
        """
        kept = "nothing is kept, as there is no folder" if self.checkpoint is None else f"'{self.folder}' keeps it"
        done = f"{epoch.batches.position} of {len(epoch.batches)} steps of epoch {epoch.number}"
        return Interrupted(f"stopped after {done}; {kept}", signal)

    @contextmanager
    def of_trouble(self) -> Iterator[None]:
        """Write what is known of numerical trouble, all that a checkpoint holds included."""
        try:
            yield
        except NumericalError as trouble:
            if self.checkpoint is None:
                raise
            path, values = self.folder / TROUBLE, {"history": list(self.history), "best": self.best}
            try:
                self.checkpoint.write(path, **values, trouble=trouble.details)
            except OSError as error:
                raise FloatingPointError(f"{trouble}; {error}") from trouble
            raise FloatingPointError(f"{trouble}; '{path}' keeps that, and the batch") from trouble


def _known(values: dict[str, Any], vae: nn.Module, validated: bool) -> tuple[History, dict[str, Tensor]]:
    """History and best parameters of a checkpoint, if they are any."""
    rows, columns = [*map(dict, values["history"])], {"epoch", "seconds", *(["valid_elbo"] if validated else [])}
    for row in rows:
        if not columns <= row.keys() == rows[0].keys() or not all(isinstance(v, int | float) for v in row.values()):
            raise ValueError
    best, own = dict(values["best"]), vae.state_dict()
    if best and {name: t.shape for name, t in best.items()} != {name: t.shape for name, t in own.items()}:
        raise ValueError
    return History(rows), best
