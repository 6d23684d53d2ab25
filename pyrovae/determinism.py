"""Determinism: operations that give the same result each time, bit for bit, or are refused."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

__all__ = ["determinism"]

_WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same each time


@contextmanager
def determinism(device: torch.device) -> Iterator[None]:
    """Within, torch takes deterministic algorithms alone; its settings are restored afterwards.

    On the CPU results repeat without, for the same number of threads; on a GPU some operations add in an order of their
    own. Deterministic ones take longer, and may need more memory.

    Args:
        device: where the operations are.

    Raises:
        ValueError: if cuBLAS is not set up for it, or an operation has no deterministic algorithm.

    References:
        PyTorch, Reproducibility, https://pytorch.org/docs/stable/notes/randomness.html

    Example:
        >>> with determinism(torch.device("cpu")):
        ...     torch.are_deterministic_algorithms_enabled()
        True
    """
    if device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _WORKSPACES:
        raise ValueError(
            f"deterministic training on a GPU needs the environment variable CUBLAS_WORKSPACE_CONFIG={_WORKSPACES[0]}: "
            f"set it before Python starts"
        )
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    of_cudnn = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if not (found := re.match(r"(.+?) does not have a deterministic implementation", str(error))):
            raise
        raise ValueError(
            f"{found[1]} has no deterministic algorithm on {device}: leave out deterministic, or train on the CPU"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = of_cudnn
