"""Training: epochs of SVI steps over data, with validation, schedules, early stopping, checkpoints and resuming."""

import csv
import gc
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro.infer
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import Dataset
from tqdm import tqdm

from pyrovae import evaluation
from pyrovae.batches import Batches
from pyrovae.check import buffers_restored, unvalidated
from pyrovae.checkpoint import Checkpoint, described
from pyrovae.columns import Data, arguments, arity, columns
from pyrovae.compatibility import require
from pyrovae.data import fingerprint
from pyrovae.densities import log_densities
from pyrovae.drawn import Drawn
from pyrovae.files import whole
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.objectives import ELBO
from pyrovae.parameters import ModuleParameters
from pyrovae.precision import Precision
from pyrovae.pyro_elbo import Traced
from pyrovae.rng import isolated
from pyrovae.staging import Staged
from pyrovae.svi import SVI

__all__ = ["History", "fit"]

OptimizerFactory = Callable[[Iterable], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]

_ADAM = partial(torch.optim.Adam, lr=1e-3)
_STEPWISE = (OneCycleLR, CyclicLR)  # the schedulers that PyTorch steps with the optimiser, not once an epoch


class History(list):
    """One dictionary for each epoch, each term on its own, in nats per datum (means over the epoch's steps).

    `objective` is what was maximised; `elbo`, `reconstruction` and `kl` are the ELBO and its terms on the training data
    as the steps met them; `valid_elbo` and so on are the same on the validation data after the epoch, with the same
    noise in all epochs, beside `valid_log_likelihood`, log p(x), if there is more than one draw for each datum;
    `learning_rate` is the first group's; `seconds` is the epoch's time, with that for telling the ELBO where an
    estimator does not draw from q(z | x), but without validation. An objective with weights of its own has a column for
    each of them, as of the epoch's last step.
    """

    def __getitem__(self, key: int | slice | str) -> Any:
        """An epoch's row by its index, or a column by its name."""
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def to_csv(self, path: str | Path) -> None:
        """Write one row an epoch, whole or not at all."""
        with whole(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self[0]) if self else ["epoch"])
            writer.writeheader()
            writer.writerows(self)


def fit(
    vae: Model,
    train: Data | Dataset,
    valid: Data | None = None,
    objective: pyro.infer.ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 64,
    optimizer: OptimizerFactory = _ADAM,
    encoder_lr: float | None = None,
    scheduler: SchedulerFactory | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    max_seconds: float | None = None,
    valid_num_samples: int = 1,
    shuffle: bool = True,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    compile: bool = False,
    precision: Precision = "float32",
) -> History:
    """Maximise the objective over the parameters of a model by epochs of SVI steps, on the device where they are.

    All that is random (order, binarization, draws of z, validation) follows from the seed; torch's random state is left
    as it was, and so is Pyro's store. Afterwards the model is in evaluation mode.

    Args:
        vae: the model, changed in place.
        train: data `(N, *event)`, kept on the device if they fit there, else streamed; `data.Intensities` are
            binarized, and `data.Levels` dequantized, on the device, anew each epoch. For programs of several arguments
            a tuple of tensors that begins with x. Or a map-style `Dataset` of data (or of tuples), streamed, of which
            the programs are given as many arguments as they take.
        valid: the same to validate on after each epoch, in tensors.
        objective: any `pyro.infer.ELBO`; by default `objectives.ELBO()`. Its schedules start anew; what its baseline
            has learned before is kept.
        epochs: passes over the data.
        batch_size: B, data in a step.
        optimizer: makes a `torch.optim` optimiser of parameter groups, like `partial(torch.optim.Adam, lr=1e-3)`.
        encoder_lr: learning rate of the encoder, or of all that is the guide's alone, if it shall differ from the
            optimiser's.
        scheduler: makes a scheduler of `torch.optim.lr_scheduler` of the optimiser; stepped after each epoch,
            OneCycleLR and CyclicLR after each step; ReduceLROnPlateau watches minus the validation ELBO.
        clip_norm: largest norm of the gradient of all parameters together.
        patience: stop after so many epochs without a better validation ELBO, and return to the best parameters; counted
            from the end of the objective's schedules.
        max_seconds: begin no epoch that would end later than so many seconds of training, if it took as long as the
            last; validation does not count.
        valid_num_samples: draws for each validation datum after an epoch; with more than one, log p(x) is estimated.
        shuffle: whether each epoch has an order of its own.
        seed: of everything random.
        folder: where `checkpoint.pt` and `history.csv` are written after each epoch.
        resume: go on from the folder's checkpoint, to the same end as without interruption.
        progress: whether to show a progress bar.
        compile: whether to trace the steps and compile them, see `SVI`.
        precision: number format of the networks' matrix products in training, see `pyrovae.precision`.

    Raises:
        ValueError: if data do not suit the likelihood, an argument is out of range, or a checkpoint is of another run.
        FileNotFoundError: if there is no checkpoint to resume.
        FloatingPointError: if the ELBO of an epoch is not finite.

    Example:
        >>> from pyrovae import VAE, data, encoders, likelihoods, networks, priors
        >>> digits = data.load("digits", binarize="dynamic")
        >>> decode, encode = networks.MLP(2, (1, 8, 8)), networks.MLP((1, 8, 8), 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode))
        >>> history = fit(vae, digits.train, digits.valid, epochs=3, progress=False)
        >>> history["valid_elbo"][2] > history["valid_elbo"][0]
        True
    """
    _check_arguments(
        epochs,
        batch_size,
        encoder_lr,
        clip_norm,
        patience,
        max_seconds,
        valid_num_samples,
        scheduler,
        valid,
        folder,
        resume,
    )
    device = next(vae.parameters()).device
    with isolated(seed), frozen_on_purpose(), _uncollected():
        batches = Batches(train, batch_size, shuffle, seed, device, arity(vae))
        objective = ELBO() if objective is None else objective
        at_a_point = require(vae, objective, _checked(vae, train, valid)).at_a_point
        groups = _groups(vae, encoder_lr)
        if ours := isinstance(objective, Objective):
            objective.to(device).step, objective.num_data = 0, batches.size
            groups += [{"params": p} for p in [list(objective.parameters())] if p]
        optim = optimizer(groups)
        schedule = None if scheduler is None else scheduler(optim)
        if (patience or isinstance(schedule, ReduceLROnPlateau)) and at_a_point:
            raise ValueError(
                "early stopping and ReduceLROnPlateau watch the ELBO, and there is none, as q(z | x) has no density: "
                "leave out patience and the scheduler"
            )
        if getattr(schedule, "mode", "min") == "max":
            raise ValueError("ReduceLROnPlateau watches a loss, minus the validation ELBO: leave its mode at 'min'")
        step = _Step(vae, optim, objective, clip_norm, compile, batches.noise, precision)
        history, best = History(), {}
        if folder is not None:
            settings = {
                "training data": f"{len(train)} data" if batches.unchecked else fingerprint(*columns(train)),
                "validation data": None if valid is None else fingerprint(*columns(valid)),
                "batch_size": batch_size,
                "shuffle": shuffle,
                "seed": seed,
                "optimizer": f"{type(optim).__name__}({', '.join(str(float(g['lr'])) for g in optim.param_groups)})",
                "scheduler": None if schedule is None else type(schedule).__name__,
                "clip_norm": clip_norm,
                "patience": patience,
                "valid_num_samples": valid_num_samples,
                "precision": precision,
                "objective": described(objective),
            }
            parts = {"vae": vae, "optimizer": optim, "batches": batches}
            parts |= {"objective": objective} if ours else {}
            parts |= {} if schedule is None else {"scheduler": schedule}
            checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", settings, **parts)
            history, best = _begin(checkpoint, resume)
        total, done = epochs * len(batches), len(history) * len(batches)
        warm_up = objective.warm_up if ours else 0
        if 0 < total < warm_up:
            warnings.warn(
                f"training ends after {total} steps, before the schedule of {described(objective)}, which takes "
                f"{warm_up}: what is maximised at the end is not what it warms up to",
                stacklevel=2,
            )
        warm_up = math.ceil(warm_up / len(batches))  # in epochs
        steps = total if max_seconds is None else None  # else nobody knows how many
        with tqdm(total=steps, initial=done, disable=not progress, dynamic_ncols=True) as bar:
            while not _is_over(history, epochs, patience, warm_up, max_seconds):
                bar.set_description(f"epoch {len(history) + 1}" + (f"/{epochs}" if max_seconds is None else ""))
                row = {"epoch": len(history) + 1, **_epoch(vae, step, batches, schedule, bar)}
                _require_finite(row, at_a_point)
                if valid is not None:
                    row |= _validation(vae, valid, valid_num_samples, seed)
                    _require_finite(row, at_a_point)
                history.append(row)
                bar.set_postfix(
                    {k: f"{row[k]:.2f}" for k in ("elbo", "reconstruction", "kl", "valid_elbo") if k in row}
                )
                _step_schedule(schedule, row)
                if patience and _best_epoch(history, warm_up) == row["epoch"]:
                    best = {name: value.clone() for name, value in vae.state_dict().items()}
                if folder is not None:
                    checkpoint.save(history=list(history), best=best)
                    history.to_csv(Path(folder) / "history.csv")
    if best:
        vae.load_state_dict(best)
    vae.eval()
    return history


@contextmanager
def frozen_on_purpose() -> Iterator[None]:
    """Without Pyro's warning, in each step, that a parameter does not require a gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not registered in the param store because requires_grad=False")
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector's passes, in the midst of steps, over all that lives since before."""
    if gc.get_freeze_count():  # somebody else's, to be left as it is
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Step:
    """An SVI step that tells the terms of the ELBO, whatever objective is maximised."""

    def __init__(
        self,
        vae: Model,
        optim: torch.optim.Optimizer,
        objective: pyro.infer.ELBO,
        clip_norm: float | None,
        compile: bool,
        generator: torch.Generator,
        precision: Precision,
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
        self.told = Staged(self._told, "the ELBO") if compile else self._told
        # Estimators that draw from another distribution than q(z | x) do not tell the ELBO.
        self.tells = getattr(objective, "faithful", True)

    def __call__(self, *batch: Tensor) -> Tensor:
        """Step on a batch; objective, reconstruction and KL, summed over data, on the device, `(3,)`."""
        if not self.tells:
            batch = [t.draw(self.svi.generator) if isinstance(t, Drawn) else t for t in batch]  # for both
        loss, terms = self.svi.update(*batch)
        if terms is None:
            with unvalidated(), torch.no_grad(), isolated():
                [terms] = self.told(*batch)
        loss = loss[0] if isinstance(loss, tuple) else loss
        return torch.cat([-torch.as_tensor(loss).to(terms).reshape(1), terms])

    def _told(self, *batch: Tensor) -> list[Tensor]:
        with ModuleParameters(), buffers_restored(self.svi.model, self.svi.guide):
            return [log_densities(self.svi.model, self.svi.guide, *batch).totals]


def _epoch(vae: Model, step: _Step, batches: Batches, schedule: LRScheduler | None, bar: tqdm) -> dict[str, float]:
    """One pass over the data; its row of the history."""
    start, rate = time.perf_counter(), step.svi.optim.param_groups[0]["lr"]
    vae.train()
    totals = []
    for batch in batches:
        if batches.unchecked:
            vae.check(*batch, name="train")
        totals.append(step(*batch))
        if isinstance(schedule, _STEPWISE):
            schedule.step()
        bar.update()
    batches.unchecked = False
    objective, reconstruction, kl = (torch.stack(totals).double().sum(0) / batches.size).tolist()
    return {
        "objective": objective,
        "elbo": reconstruction - kl,
        "reconstruction": reconstruction,
        "kl": kl,
        **(step.svi.objective.weights if isinstance(step.svi.objective, Objective) else {}),
        "learning_rate": float(rate),
        "seconds": time.perf_counter() - start,
    }


def _validation(vae: Model, valid: Data, num_samples: int, seed: int) -> dict[str, float]:
    with unvalidated():  # a model that diverged gives NaN, of which the caller tells
        bound, evidence = evaluation.scores(vae, valid, num_samples, seed)
    terms = {"elbo": bound.value, "reconstruction": bound.reconstruction, "kl": bound.kl}
    if num_samples > 1:
        terms["log_likelihood"] = evidence.value
    return {f"valid_{name}": value.double().mean().item() for name, value in terms.items()}


def _require_finite(row: dict[str, float], at_a_point: bool) -> None:
    """The ELBO, or of a guide without one its first term."""
    for name in ("reconstruction", "valid_reconstruction") if at_a_point else ("elbo", "valid_elbo"):
        if not math.isfinite(row.get(name, 0.0)):
            raise FloatingPointError(
                f"{name} is {row[name]} in epoch {row['epoch']}: try a smaller learning rate or clip_norm, and look "
                f"for extreme values in the data"
            )


def _step_schedule(schedule: LRScheduler | None, row: dict[str, float]) -> None:
    """After an epoch."""
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(-row["valid_elbo"])
    elif schedule is not None and not isinstance(schedule, _STEPWISE):
        schedule.step()


def _is_over(history: History, epochs: int, patience: int | None, warm_up: int, max_seconds: float | None) -> bool:
    """Whether no further epoch shall begin."""
    late = history and sum(history["seconds"]) + history[-1]["seconds"] > (max_seconds or math.inf)
    waited = patience and len(history) - _best_epoch(history, warm_up) >= patience
    return bool(len(history) >= epochs or late or waited)


def _best_epoch(history: History, warm_up: int) -> int:
    """The epoch with the best validation ELBO of those after the warm-up, counted from 1, or the last before them."""
    return max(history[warm_up:], key=lambda row: row["valid_elbo"], default={"epoch": len(history)})["epoch"]


def _groups(vae: Model, encoder_lr: float | None) -> list[dict[str, Any]]:
    """Parameters in the groups of an optimiser: all, or the encoder's with its own learning rate and the others."""
    if encoder_lr is None:
        return [{"params": list(vae.parameters())}]
    encoder = vae.guide_parameters()
    others = [p for p in vae.parameters() if all(p is not e for e in encoder)]
    return [{"params": others}, {"params": encoder, "lr": encoder_lr}]


def _begin(checkpoint: Checkpoint, resume: bool) -> tuple[History, dict[str, Tensor]]:
    """History and best parameters so far: those of the checkpoint, or none, of which the first checkpoint is made."""
    folder = checkpoint.path.parent
    if resume:
        values = checkpoint.load()
        history = History(values["history"])
        history.to_csv(folder / "history.csv")
        return history, values["best"]
    if checkpoint.path.exists():
        raise ValueError(f"'{folder}' keeps a run already: resume it, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(history=[], best={})
    return History(), {}


def _check_arguments(
    epochs: int,
    batch_size: int,
    encoder_lr: float | None,
    clip_norm: float | None,
    patience: int | None,
    max_seconds: float | None,
    valid_num_samples: int,
    scheduler: SchedulerFactory | None,
    valid: Data | None,
    folder: str | Path | None,
    resume: bool,
) -> None:
    if epochs < 0 or batch_size < 1 or (patience is not None and patience < 1):
        raise ValueError(
            f"epochs must be at least 0, batch_size and patience at least 1, not {epochs}, {batch_size} and {patience}"
        )
    if (encoder_lr is not None and encoder_lr < 0) or (clip_norm is not None and not clip_norm > 0):
        raise ValueError(
            f"encoder_lr = {encoder_lr} must not be negative, and clip_norm = {clip_norm} must be positive"
        )
    if valid_num_samples < 1 or (max_seconds is not None and not max_seconds > 0):
        raise ValueError(
            f"valid_num_samples = {valid_num_samples} must be at least 1, and max_seconds = {max_seconds} positive"
        )
    plateau = getattr(scheduler, "func", scheduler) is ReduceLROnPlateau
    if valid is None and (patience is not None or plateau):
        raise ValueError("early stopping and ReduceLROnPlateau watch the validation ELBO: give valid data")
    if resume and folder is None:
        raise ValueError("to resume, give the folder that holds the checkpoint")


def _checked(vae: Model, train: Data | Dataset, valid: Data | None) -> tuple[Tensor, ...]:
    """Some of the training data, if all have a density; of a streamed set the first datum, the others as they come."""
    if isinstance(train, Tensor | tuple):
        data = arguments(vae, train)
    else:
        first = train[0]
        first = first if isinstance(first, list | tuple) else [first]
        data = tuple(torch.as_tensor(t)[None] for t in first[: arity(vae)])
    data = tuple(t.draw(torch.Generator(t.device).manual_seed(0)) if isinstance(t, Drawn) else t for t in data)
    vae.check(*data, name="train")
    if valid is not None:
        vae.check(*arguments(vae, valid), name="valid")
    return tuple(t[:2].to(next(vae.parameters()).device) for t in data)
