"""A watch over the steps: stops at the first whose loss or gradient is not finite, and goes back to before it."""

import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import nn

from pyrovae.checkpoint import Parts, copied
from pyrovae.epochs import Epoch
from pyrovae.history import History
from pyrovae.trouble import NotFiniteError, NumericalError, is_of_values, statistics, told

__all__ = ["Watch"]

_EVERY, _SECONDS = 50, 0.5  # steps, and time, after which they are looked at: each look takes a while
_LAST_GOOD = 500  # steps after which the state is kept in memory again


class Watch:
    """Takes an epoch's steps, and looks at what they give.

    A loss that is not finite is seen after at most 50 steps, or half a second. Then all goes back to the last state
    that is known to be good, and the steps are repeated, with a look at loss and gradients before each, up to the one
    that there is none to take along.

    Args:
        epoch: the epoch.
        parts: all that changes in a step.
        history: of the epochs before.
    """

    def __init__(self, epoch: Epoch, parts: Parts, history: History) -> None:
        self.epoch, self.parts, self.history = epoch, parts, history
        self.step = epoch.step
        modules = [epoch.vae, *([o] if isinstance(o := self.step.svi.objective, nn.Module) else [])]
        self.names = {p: name for module in modules for name, p in module.named_parameters()}
        self.alone = epoch.batches.processes.size == 1  # else all must look at the same steps
        self.looked, self.when = 0, time.monotonic()  # at steps of the epoch
        self.since = _LAST_GOOD  # steps since the last good state was kept
        self.good: dict[str, Any] = {}

    def steps(self) -> Iterator[None]:
        """Take the steps that are left of the epoch.

        Raises:
            NumericalError: if the loss or the gradient of one is not finite.
            FloatingPointError: if the parameters are not after one, or if what was not finite does not come again.
        """
        self.looked = len(self.epoch.totals)
        if self.since >= _LAST_GOOD:
            self._keep()
        try:
            for _ in self.epoch.steps():
                late = time.monotonic() - self.when > _SECONDS and self.alone
                if late or len(self.epoch.totals) - self.looked >= _EVERY:
                    self._look()
                if self.since >= _LAST_GOOD:
                    self.require_good()
                    self._keep()
                yield
        except NotFiniteError as error:
            self._tell(error)
        except (RuntimeError, ValueError) as error:
            if self._finite_parameters() and not is_of_values(error):
                raise
            self._find(error)  # it is what was done with NaN
        self.require_good()

    def require_good(self) -> None:
        """Look at the steps that were not looked at, and at the parameters, before the state is kept."""
        self._look()
        if not self._finite_parameters():
            self._find()

    def _keep(self) -> None:
        self.since = 0
        self.good = copied(self.parts.state_dict())

    def _look(self) -> None:
        new, self.when = self.epoch.totals[self.looked :], time.monotonic()
        if new and not torch.stack(new)[:, 0].isfinite().all():
            self._find()
        self.looked += len(new)
        self.since += len(new)

    def _finite_parameters(self) -> bool:
        # A sum is had in a tenth of the time that a look at each number takes.
        return bool(torch.stack([p.detach().sum() for p in self.names]).isfinite().all())

    def _find(self, cause: Exception | None = None) -> NoReturn:
        """Repeat the steps since the last good state, with care."""
        batches, number = self.epoch.batches, self.epoch.number
        position = batches.position or len(batches)  # after the last one it is 0 again
        self.parts.load_state_dict(self.good)
        self.step.careful = True
        try:
            for _ in self._again(number):
                if self.epoch.number == number and batches.position >= position:
                    break
        except NotFiniteError as error:
            self._tell(error)
        place = f"batch {position} of epoch {number}"
        what = f"loss or parameters were not finite by {place}, but were when the steps were repeated"
        if not self._finite_parameters():
            what = f"the parameters are not finite after {place}, though its loss and gradient are"
        self.parts.load_state_dict(self.good)
        raise FloatingPointError(
            f"{what}: try a smaller learning rate or clip_norm, and look for extreme values in the data"
        ) from cause

    def _again(self, number: int) -> Iterator[None]:
        """Repeat the steps since then, up to an epoch's last one."""
        yield from self.epoch.steps()
        while self.epoch.number < number:
            row = self.history[self.epoch.number - 1]
            self.epoch.end()
            self.epoch.step_schedule(row)
            yield from self.epoch.steps()

    def _tell(self, error: NotFiniteError) -> NoReturn:
        """Tell of the step that was to be taken; all is as it was before."""
        epoch, batches, indices = self.epoch, self.epoch.batches, self.epoch.batches.indices
        sites = self.step.examine(*epoch.batch)
        batch = [t.as_subclass(torch.Tensor) for t in epoch.batch]
        own = {"error": str(error), "where": sites.first_off(), "sites": sites.found, "batch": batch}
        each = batches.processes.each(own)[: len(indices)]  # without those that had no datum
        off = next((found for found in each if found["where"]), each[0])
        batch = [torch.cat(shares) for shares in zip(*(found["batch"] for found in each), strict=True)]
        gradients = {self.names[p]: found for p, found in error.gradients.items()}
        where = off["where"]
        if where is None and gradients:
            (name, found), more = next(iter(gradients.items())), len(gradients) - 1
            where = f"the gradient by {name}{f' and {more} more' if more else ''} is {told(found)}"
        step = (epoch.number - 1) * len(batches) + batches.position
        data = ", ".join(map(str, indices[:8].tolist())) + (", ..." if len(indices) > 8 else "")
        message = (
            f"{off['error']} in step {step}, batch {batches.position} of epoch {epoch.number}, of data {data} "
            f"({len(indices)} in all): {f'{where}; ' if where else ''}x goes {told(statistics(batch[0]))}, the "
            f"parameters {told(statistics(torch.cat([p.detach().flatten() for p in self.names])))}; try a smaller "
            f"learning rate or clip_norm, and look for extreme values in the data; the model is as it was before that "
            f"step"
        )
        batches.position -= 1
        details = {"step": step, "batch": batch, "indices": indices, "sites": off["sites"], "gradients": gradients}
        raise NumericalError(message, details) from error
