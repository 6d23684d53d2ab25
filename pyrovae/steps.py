"""A step of a training: of SVI, with the terms of the ELBO, whatever objective is maximised."""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pyro.infer
import torch
from torch import Tensor

from pyrovae.check import buffers_restored, unvalidated
from pyrovae.densities import log_densities
from pyrovae.distributed import Processes
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.precision import Precision, precision
from pyrovae.pyro_elbo import Traced
from pyrovae.rng import isolated
from pyrovae.staging import Staged
from pyrovae.svi import SVI
from pyrovae.trouble import NotFiniteError, Sites, is_of_values

__all__ = ["Step"]


class Step:
    """An SVI step that tells the terms of the ELBO.

    Args:
        vae: the model.
        optim: holds its parameters, and the objective's.
        objective: what is maximised.
        clip_norm: largest norm of the gradient.
        compile: whether to stage the steps.
        generator: of the draws of data that stand for their draws.
        precision: of the networks.
        careful: whether to look at loss and gradient before each step, and to take none along what is not finite.
        anomaly: whether to look for what is not finite in each operation.
        processes: that step together; by default there is one.
    """

    def __init__(
        self,
        vae: Model,
        optim: torch.optim.Optimizer,
        objective: pyro.infer.ELBO,
        clip_norm: float | None,
        compile: bool,
        generator: torch.Generator,
        precision: Precision,
        careful: bool = False,
        anomaly: bool = False,
        processes: Processes | None = None,
    ) -> None:
        model, guide = vae.model, vae.guide
        if not isinstance(objective, Objective):
            model, guide = Traced(model), Traced(guide)
            if objective.max_plate_nesting == math.inf:
                # Or Pyro would run the programs once more to find out, with other random numbers after resuming.
                objective.max_plate_nesting = 1 + (objective.vectorize_particles and objective.num_particles > 1)
        options = {"clip_norm": clip_norm, "compile": compile, "generator": generator, "precision": precision}
        self.svi = SVI(model, guide, optim, objective, **options)
        self.svi.tells, self.svi.asks = True, False  # as `fit` has asked
        self.processes = processes or Processes()
        if self.processes.size > 1:
            owners = [vae, *([objective] if isinstance(objective, Objective) else [])]
            self.svi.exchange = partial(self.processes.summed, parameters=self.svi._parameters, owners=owners)
        self.told = Staged(self._told, "the ELBO", at_once=True) if compile else self._told
        self.careful, self.anomaly = careful, anomaly

    def __call__(self, *batch: Tensor) -> Tensor:
        """Step on a batch; objective, reconstruction and KL, summed over data, on the device, `(3,)`.

        Raises:
            NotFiniteError: if it is careful, and loss or gradient are not finite; all is as it was before.
        """
        self.svi.careful, self.svi.validates = self.careful, self.anomaly
        if not self.careful:
            return self._step(*batch)
        undo = self._undo()
        try:
            with torch.autograd.set_detect_anomaly(True) if self.anomaly else nullcontext():
                return self._step(*batch)
        except NotFiniteError:
            undo()
            raise
        except (RuntimeError, ValueError) as error:
            undo()
            if not is_of_values(error):
                raise
            invalid = re.match(r"Expected parameter (\w+) .* of distribution (\w+)", str(error))
            told = f"{invalid[1]} of a {invalid[2]} is out of range" if invalid else str(error).split(".")[0]
            raise NotFiniteError(told, {}) from error

    def examine(self, *batch: Tensor) -> Sites:
        """What the sites of the programs are like in a step on a batch, of which nothing remains."""
        undo = self._undo()
        with Sites() as sites, unvalidated(), precision(self.svi.precision):
            try:
                self.svi._plain_gradients(*map(self.svi._drawn, batch))
            except (RuntimeError, ValueError):  # which came after what is looked for
                pass
            finally:
                undo()
        return sites

    def _step(self, *batch: Tensor) -> Tensor:
        batch = [*map(self.svi._drawn, batch)]  # for both
        loss, terms = self.svi.update(*batch)
        if terms is None:
            with unvalidated(), torch.no_grad(), isolated():
                [terms] = self.told(*batch)
            terms = self.processes.sum(terms)
        loss = loss[0] if isinstance(loss, tuple) else loss
        return torch.cat([-torch.as_tensor(loss).to(terms).reshape(1), terms])

    def _told(self, *batch: Tensor) -> list[Tensor]:
        with ModuleParameters(), buffers_restored(self.svi.model, self.svi.guide):
            return [log_densities(self.svi.model, self.svi.guide, *batch).totals]

    def _undo(self) -> Callable[[], None]:
        """What brings random numbers and buffers back to where they are."""
        owners = [self.svi.model.__self__, *([o] if isinstance(o := self.svi.objective, Objective) else [])]
        buffers = [(b, b.clone()) for owner in owners for b in owner.buffers()]
        states = torch.get_rng_state(), torch.cuda.get_rng_state_all(), self.svi.generator.get_state()

        def undo() -> None:
            for buffer, value in buffers:
                buffer.detach().copy_(value)
            torch.set_rng_state(states[0])
            torch.cuda.set_rng_state_all(states[1])
            self.svi.generator.set_state(states[2])

        return undo
