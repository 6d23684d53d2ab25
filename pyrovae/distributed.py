"""Several processes that train one model: each takes its share of every batch, all step along the sum of the gradients.

They are those of `torch.distributed`, as `torchrun` starts them. As the loss is a sum over data, the sum of the shares'
gradients is the gradient of the batch; what is no sum over data is refused.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyrovae import evaluation
from pyrovae.columns import Data, columns
from pyrovae.model import Model
from pyrovae.rng import reseed, stream
from pyrovae.trouble import is_of_values

__all__ = ["ProcessError", "Processes", "own_gpu", "started"]

T = TypeVar("T")


class ProcessError(RuntimeError):
    """Another process has ended, or failed, or does not answer."""


class Processes:
    """The processes that train together, seen from one of them; by default there is one.

    Args:
        rank: which it is, from 0.
        size: how many there are.

    Example:
        >>> processes = Processes()
        >>> processes.size, processes.is_first, processes.share(torch.arange(5))
        (1, True, tensor([0, 1, 2, 3, 4]))
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.idle = False  # whether there is no datum of the batch for this one
        self._have: list[bool] = []  # which parameters have a gradient, in any process

    @classmethod
    def here(cls) -> "Processes":
        """Those of `torch.distributed`, if it was initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        if "gloo" not in dist.get_backend_config():
            raise ValueError("processes agree through gloo: init_process_group('cpu:gloo,cuda:nccl'), not nccl alone")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Its part of a batch; where there are fewer data than processes, one that `summed` counts 0 times.

        Args:
            indices: of the batch's data, `(B,)`, the same in all processes.
        """
        return indices.tensor_split(self.size)[self.rank] if self.rank < len(indices) else indices[:1]

    def begin(self, seed: int, step: int, batch_size: int, generator: torch.Generator) -> None:
        """Before a step: its noise follows from seed, step and process alone, wherever the run was resumed.

        Args:
            seed: of the training.
            step: its number.
            batch_size: B, of all processes together.
            generator: of the draws of data that stand for their draws.
        """
        if self.size == 1:
            return
        self.idle = self.rank >= batch_size
        place = f"step {step} of process {self.rank} of {self.size}"
        # torch.manual_seed takes 0.2 ms, to look for devices of all kinds.
        torch.default_generator.manual_seed(stream(seed, place))
        if torch.cuda.is_initialized():
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(stream(seed, place))
        generator.manual_seed(stream(seed, f"binarization, {place}"))
        reseed(seed, place)

    def summed(
        self, gradients: Callable[[], list[Any]], parameters: Callable[[], list[Tensor]], owners: list[nn.Module]
    ) -> list[Any]:
        """Loss, terms and gradients of the batch from those of its shares, in one sum of one vector.

        Args:
            gradients: gives loss, terms and the gradient by each parameter, or None, of this process's share.
            parameters: gives the parameters.
            owners: whose buffers must not change; looked at in the first step.
        """
        failure, first = None, not self._have
        before = [(name, b, b.clone()) for o in owners for name, b in o.named_buffers()] if first else []
        try:
            loss, terms, *own = gradients()
            _require_unchanged(before)
        except (RuntimeError, ValueError) as error:
            failure = error
        (code,) = self.agree(0 if failure is None else 1 + is_of_values(failure))
        if failure is not None:
            raise failure
        if code:
            what = "a value is nan" if code == 2 else "a step failed"
            raise ProcessError(f"{what} in another of the {self.size} processes, which tells of it")
        held = parameters()
        if first:
            self._have = [bool(flag) for flag in self.agree(*(g is not None for g in own))]
        which = zip(held, own, self._have, strict=True)
        own = [torch.zeros_like(p) if g is None else g for p, g, have in which if have]
        parts = [torch.as_tensor(loss, device=held[0].device), *([] if terms is None else [terms]), *own]
        flat = torch.cat([part.reshape(-1) for part in parts])
        self.sum(flat)
        each = zip(flat.split([part.numel() for part in parts]), parts, strict=True)
        sums = iter([total.view(part.shape).to(part.dtype) for total, part in each])
        loss, terms = next(sums), None if terms is None else next(sums)
        return [loss, terms, *(next(sums) if have else None for have in self._have)]

    def sum(self, t: Tensor) -> Tensor:
        """The sum over all processes of what each has of its share of the batch, in place."""
        if self.idle:
            t.zero_()
        if self.size > 1:
            self._together(dist.all_reduce, t)
        return t

    def agree(self, *numbers: int) -> list[int]:
        """The largest of what each process gives, for each number."""
        if self.size == 1:
            return [*numbers]
        held = torch.tensor(numbers, dtype=torch.int64)
        self._together(dist.all_reduce, held, dist.ReduceOp.MAX)
        return held.tolist()

    def same(self, value: T) -> T:
        """What the first process gives, plain values and tensors in any nesting, on the CPU."""
        if self.size == 1:
            return value
        buffer = io.BytesIO()
        torch.save(value if self.is_first else None, buffer)
        held = [buffer.getvalue()]
        self._together(dist.broadcast_object_list, held, 0, None, torch.device("cpu"))
        return value if self.is_first else torch.load(io.BytesIO(held[0]), map_location="cpu", weights_only=True)

    def each(self, value: T) -> list[T]:
        """What each process gives, plain values and tensors in any nesting, of several on the CPU."""
        if self.size == 1:
            return [value]
        buffer, held = io.BytesIO(), [b""] * self.size
        torch.save(value, buffer)
        self._together(dist.all_gather_object, held, buffer.getvalue())
        return [torch.load(io.BytesIO(own), map_location="cpu", weights_only=True) for own in held]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within, the first process goes ahead of the others, which then find what it downloaded."""
        if not self.is_first:
            self.agree(0)
        yield
        if self.is_first:
            self.agree(0)

    def require_alike(self, vae: Model) -> None:
        """Refuse to go on with models that are no longer the same, as on machines that round otherwise.

        Raises:
            ProcessError: if they are not.
        """
        if self.size == 1:
            return
        total = sum(p.detach().double().sum() for p in vae.parameters()).cpu().reshape(1)
        bits = int(total.view(torch.int64))
        most, least = self.agree(bits, -bits)
        if most != -least:
            raise ProcessError(
                f"the models of the {self.size} processes are no longer the same: let all have the same versions of "
                f"PyTorch and the same kind of device"
            )

    def scores(self, vae: Model, x: Data, num_samples: int, seed: int, compile: bool = False) -> evaluation.Scores:
        """`evaluation.scores`, each process of a share of the data, with draws of its own, and all have the result."""
        n = len(columns(x)[0])
        if self.size == 1 or n < self.size:
            return evaluation.scores(vae, x, num_samples, seed, compile)
        mine = torch.arange(n).tensor_split(self.size)[self.rank]
        own = tuple(t[mine[0] : mine[-1] + 1] for t in columns(x))
        with nullcontext() if self.is_first else redirect_stderr(io.StringIO()):  # one bar is enough
            found = evaluation.scores(vae, own, num_samples, stream(seed, f"process {self.rank}"), compile)
        each = torch.stack([*found.elbo, *found.log_likelihood])  # (7, its share)
        whole = each.new_zeros(len(each), n)
        whole[:, mine[0] : mine[-1] + 1] = each
        self._together(dist.all_reduce, whole)
        return evaluation.Scores(evaluation.ELBO(*whole[:4]), evaluation.LogLikelihood(*whole[4:]))

    def _together(self, collective: Callable, *args: Any) -> None:
        try:
            collective(*args)
        except RuntimeError as error:
            raise ProcessError(
                f"another of the {self.size} processes has ended, or does not answer, so all stop: a training can be "
                f"resumed from its last checkpoint, if it has one"
            ) from error


def _require_unchanged(buffers: list[tuple[str, Tensor, Tensor]]) -> None:
    for name, buffer, value in buffers:
        if not torch.equal(buffer, value):
            raise ValueError(
                f"the buffer '{name}' changes with the data of a step, and each process would have another: train in "
                f"one process, or leave out what has it, such as a codebook or a moving average"
            )


@contextmanager
def started() -> Iterator[None]:
    """Within, be one of the processes that `torchrun` started, if it did; the first one alone gives warnings."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with warnings.catch_warnings():
        if dist.get_rank():
            warnings.simplefilter("ignore")
        yield
    dist.destroy_process_group()  # unless it failed: then others may not answer


def own_gpu(name: str) -> str:
    """Of `cuda`, where there are several processes, the GPU of this one.

    Raises:
        ValueError: if there is none for it.
    """
    if Processes.here().size == 1 or not name.startswith("cuda"):
        return name
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name != "cuda" or number >= there:
        raise ValueError(
            f"each process takes a GPU of its own, of {there} that are here: give --device cuda or cpu, and start no "
            f"more processes than GPUs"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"
