"""What a training is given, as it is checked and sorted before it begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import Dataset

from pyrovae.columns import Data, arguments, arity
from pyrovae.drawn import Drawn
from pyrovae.model import Model

__all__ = ["SchedulerFactory", "check_arguments", "checked", "groups"]

SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]


def groups(vae: Model, encoder_lr: float | None) -> list[dict[str, Any]]:
    """Parameters in the groups of an optimiser: all, or the encoder's with its own learning rate and the others."""
    if encoder_lr is None:
        return [{"params": list(vae.parameters())}]
    encoder = vae.guide_parameters()
    others = [p for p in vae.parameters() if all(p is not e for e in encoder)]
    return [{"params": others}, {"params": encoder, "lr": encoder_lr}]


def check_arguments(
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
    keep: int,
    max_skips: int,
    compiles_anomalies: bool,
) -> None:
    """Refuse arguments of `fit` that are out of range, or do not go together."""
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
    if keep < 1 or max_skips < 0:
        raise ValueError(f"keep = {keep} must be at least 1, and max_skips = {max_skips} at least 0")
    if compiles_anomalies:
        raise ValueError("anomalies are not detected in compiled steps: leave out compile, or detect_anomaly")
    if resume and folder is None:
        raise ValueError("to resume, give the folder that holds the checkpoint")


def checked(vae: Model, train: Data | Dataset, valid: Data | None) -> tuple[Tensor, ...]:
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
