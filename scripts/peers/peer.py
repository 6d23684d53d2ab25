"""What every peer is: a training that takes steps, and tells what it computes."""

import math
from abc import ABC, abstractmethod
from itertools import cycle, islice

import torch
from torch import Tensor

from peers.case import Case

__all__ = ["Peer", "Steps"]


class Steps(ABC):
    """Abstract: something that is done again and again, and timed."""

    device: torch.device

    @abstractmethod
    def take(self, n: int) -> None:
        """Take n steps; they need not be finished when it returns."""

    def finish(self) -> None:
        """Wait until all steps are finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Peer(Steps):
    """Abstract: somebody's training of a case's VAE, from the case's weights, over the case's batches in turn.

    Args:
        case: what is trained.
        batches: the data, `(batches, B, X)`, on the device.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        self.case, self.device = case, batches.device
        self._batches = cycle([batches[i] for i in range(len(batches))])  # not unbound, so that intensities stay so

    @classmethod
    def missing(cls, device: torch.device) -> str | None:
        """Why it does not run on this device, or None if it does."""
        return None

    @classmethod
    def takes(cls, case: Case) -> bool:
        """Whether it takes part in a case: unless it says otherwise, in normal ones."""
        return case.normal

    def next(self, n: int) -> islice:
        """The next n batches."""
        return islice(self._batches, n)

    @abstractmethod
    def losses(self, x: Tensor, n: int) -> Tensor:
        """N estimates of its loss, each by draws of its own, on a batch x `(B, X)`, in nats per datum, `(n,)`."""

    @staticmethod
    def loss_of(log_weight: Tensor) -> Tensor:
        """What its loss is, in terms of log-weights, `(K, B)` to `(B,)`: minus the bound, -log 1/K sum_k w_k."""
        return math.log(len(log_weight)) - log_weight.logsumexp(0)

    def peak(self) -> int:
        """The most bytes that its tensors took on the GPU so far."""
        return torch.cuda.max_memory_allocated(self.device)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """What it has learned, by the names in our VAE, as `Case.weights`."""
