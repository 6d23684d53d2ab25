"""Training: epochs of SVI steps over data, with validation, schedules, early stopping, checkpoints and resuming."""

import gc
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pyro.infer
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset
from tqdm import tqdm

from pyrovae.batches import Batches
from pyrovae.checkpoint import Checkpoint, Parts, described
from pyrovae.columns import Data, arity, columns
from pyrovae.compatibility import require
from pyrovae.data import fingerprint
from pyrovae.determinism import determinism
from pyrovae.distributed import Processes
from pyrovae.epochs import Epoch, validation
from pyrovae.history import History
from pyrovae.interruption import Interruption
from pyrovae.memory import explained
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.objectives import ELBO
from pyrovae.precision import Precision
from pyrovae.preparation import SchedulerFactory, check_arguments, checked, groups
from pyrovae.record import CHECKPOINT, Record
from pyrovae.rng import seeded
from pyrovae.steps import Step
from pyrovae.sums import require_sum
from pyrovae.watch import Watch

__all__ = ["History", "fit"]

OptimizerFactory = Callable[[Iterable], torch.optim.Optimizer]

_ADAM = partial(torch.optim.Adam, lr=1e-3)


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
    keep: int = 2,
    max_skips: int = 0,
    detect_anomaly: bool = False,
    deterministic: bool = False,
) -> History:
    """Maximise the objective over the parameters of a model by epochs of SVI steps, on the device where they are.

    All that is random (order, binarization, draws of z, validation, and what a `Dataset` draws from torch, from NumPy's
    global generator or from Python's) follows from the seed; their states are left as they were, and so is Pyro's
    store. Afterwards the model is in evaluation mode.

    The first step whose loss or gradient is not finite ends the training, with the model as it was before that step.
    Ctrl-C and SIGTERM end it between two steps. With a folder, a run that was ended, in whatever way, can be resumed:
    a checkpoint is written after each epoch, every five minutes within one, and when it is told to end.

    Where `torch.distributed` was initialised, all its processes call this alike, and train one model on the same
    batches: each takes a share of every batch and steps along the sum of their gradients, the first one writes. What
    is no sum over data is refused. The noise of each follows from the seed, the step and the process, so that a run
    that goes on in as many processes ends bit-identical, and can go on in any other number.

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
        folder: where `checkpoint.pt` and `history.csv` are written, by one process at a time.
        resume: go on from the folder's last checkpoint that is whole, to the same end as without interruption.
        progress: whether to show a progress bar.
        compile: whether to trace the steps and compile them, see `SVI`.
        precision: number format of the networks' matrix products in training, see `pyrovae.precision`.
        keep: checkpoints to keep, the last and those before it.
        max_skips: batches that may be left out of the training as their loss or gradient is not finite, to which end
            each step reads back from the device.
        detect_anomaly: whether to look for what is not finite in each operation, forward and backward, which takes a
            multiple of the time.
        deterministic: whether to take deterministic algorithms alone, so that on a GPU, too, the result repeats bit for
            bit, see `pyrovae.determinism`.

    Raises:
        MemoryError: if there is not enough memory.
        ValueError: if data do not suit the likelihood, an argument is out of range, a checkpoint is of another run, or
            several processes cannot train what is no sum over data.
        FileNotFoundError: if there is no checkpoint to resume.
        BlockingIOError: if another process trains in the folder.
        ProcessError: if another process has ended, or failed.
        OSError: if there is no room for a checkpoint; the last one stays.
        FloatingPointError: if loss or gradient of a step, the parameters after it, or the ELBO of an epoch are not
            finite; of loss and gradient, `trouble.pt` in the folder keeps the state before the step, as a checkpoint
            does, with the batch.
        Interrupted: a KeyboardInterrupt, if a signal ended the training.

    Example:
        >>> from pyrovae import VAE, data, encoders, likelihoods, networks, priors
        >>> digits = data.load("digits", binarize="dynamic")
        >>> decode, encode = networks.MLP(2, (1, 8, 8)), networks.MLP((1, 8, 8), 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode))
        >>> history = fit(vae, digits.train, digits.valid, epochs=3, progress=False)
        >>> history["valid_elbo"][2] > history["valid_elbo"][0]
        True
    """
    check_arguments(
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
        keep,
        max_skips,
        compile and detect_anomaly,
    )
    device, processes = next(vae.parameters()).device, Processes.here()
    repeated = determinism(device) if deterministic else nullcontext()
    sizes = {"batch_size": batch_size, "num_particles": getattr(objective, "num_particles", 1)}
    with (
        seeded(seed),
        frozen_on_purpose(),
        _uncollected(),
        repeated,
        explained(**sizes),
        ExitStack() as held_until_the_end,
    ):
        batches = Batches(train, batch_size, shuffle, seed, device, arity(vae), processes)
        objective = ELBO() if objective is None else objective
        some = checked(vae, train, valid)
        at_a_point = require(vae, objective, some).at_a_point
        if processes.size > 1:
            require_sum(vae, objective, some, min(batch_size, batches.size), processes.size)
        parameters = groups(vae, encoder_lr)
        if ours := isinstance(objective, Objective):
            objective.to(device).step, objective.num_data = 0, batches.size
            parameters += [{"params": p} for p in [list(objective.parameters())] if p]
        optim = optimizer(parameters)
        schedule = None if scheduler is None else scheduler(optim)
        if (patience or isinstance(schedule, ReduceLROnPlateau)) and at_a_point:
            raise ValueError(
                "early stopping and ReduceLROnPlateau watch the ELBO, and there is none, as q(z | x) has no density: "
                "leave out patience and the scheduler"
            )
        if getattr(schedule, "mode", "min") == "max":
            raise ValueError("ReduceLROnPlateau watches a loss, minus the validation ELBO: leave its mode at 'min'")
        careful = max_skips > 0 or detect_anomaly
        step = Step(
            vae, optim, objective, clip_norm, compile, batches.noise, precision, careful, detect_anomaly, processes
        )
        epoch = Epoch(vae, step, batches, schedule, max_skips)
        parts = {"vae": vae, "optimizer": optim, "batches": batches, "epoch": epoch}
        parts |= {"objective": objective} if ours else {}
        parts |= {} if schedule is None else {"scheduler": schedule}
        record = Record()
        if folder is not None and processes.is_first:
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
            record = Record(Checkpoint(Path(folder) / CHECKPOINT, settings, keep, **parts))
            held_until_the_end.enter_context(record.begin(resume))
        if processes.size > 1:
            record.join(processes, Parts(**parts))
        history, watch = record.history, Watch(epoch, Parts(**parts), record.history)
        total, done = epochs * len(batches), len(history) * len(batches) + batches.position
        warm_up = objective.warm_up if ours else 0
        if 0 < total < warm_up:
            warnings.warn(
                f"training ends after {total} steps, before the schedule of {described(objective)}, which takes "
                f"{warm_up}: what is maximised at the end is not what it warms up to",
                stacklevel=2,
            )
        warm_up = math.ceil(warm_up / len(batches))  # in epochs
        steps = total if max_seconds is None else None  # else nobody knows how many
        bar = tqdm(total=steps, initial=done, disable=not (progress and processes.is_first), dynamic_ncols=True)
        with bar, record.of_trouble(), Interruption() as interruption:
            while not history.is_over(epochs, patience, warm_up, max_seconds):
                bar.set_description(f"epoch {epoch.number}" + (f"/{epochs}" if max_seconds is None else ""))
                for _ in watch.steps():
                    bar.update()
                    number, due = processes.agree(interruption.signal or 0, record.is_due)
                    if number or due:
                        watch.require_good()
                        record.save()
                    if number:
                        raise record.interrupted(number, epoch)
                processes.require_alike(vae)
                row = processes.same(epoch.end())
                _require_finite(row, at_a_point)
                if valid is not None:
                    row |= validation(vae, valid, valid_num_samples, seed, processes)
                    _require_finite(row, at_a_point)
                history.append(row)
                bar.set_postfix(
                    {k: f"{row[k]:.2f}" for k in ("elbo", "reconstruction", "kl", "valid_elbo") if k in row}
                )
                epoch.step_schedule(row)
                if patience and history.best(warm_up) == row["epoch"]:
                    record.best = {name: value.clone() for name, value in vae.state_dict().items()}
                record.save()
                (number,) = processes.agree(interruption.signal or 0)
                if number:
                    raise record.interrupted(number, epoch)
    if record.best:
        vae.load_state_dict(record.best)
    vae.eval()
    return history


@contextmanager
def frozen_on_purpose() -> Iterator[None]:
    """Without warnings of what is so on purpose: in each step, of Pyro, that a parameter does not require a gradient.

    And of PyTorch, that a schedule goes on first, after a run is resumed at an epoch's end, or a batch is skipped.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not registered in the param store because requires_grad=False")
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")
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


def _require_finite(row: dict[str, float], at_a_point: bool) -> None:
    """The ELBO, or of a guide without one its first term."""
    for name in ("reconstruction", "valid_reconstruction") if at_a_point else ("elbo", "valid_elbo"):
        if not math.isfinite(row.get(name, 0.0)):
            raise FloatingPointError(
                f"{name} is {row[name]} in epoch {row['epoch']}: try a smaller learning rate or clip_norm, and look "
                f"for extreme values in the data"
            )
