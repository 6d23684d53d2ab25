"""Jobs: processes of this machine that help with a piece of work."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from pyrovae.options import command

__all__ = ["helping"]


@contextmanager
def helping(number: int, folder: Path, work: Callable, *arguments: Any) -> Iterator[None]:
    """Within, other processes do the work, too; at its end they are waited for.

    All share the threads that this process had. If this process fails, the others end with it.

    Args:
        number: how many others.
        folder: where each writes its progress bars and warnings.
        work: a function of a module, for which it does not matter whether a process dies.
        arguments: of the function.
    """
    if not number:
        yield
        return
    threads = torch.get_num_threads()
    each = max(threads // (number + 1), 1)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # as the fork of a process with threads may hang
    helpers = [context.Process(target=_help, args=(folder, each, work, *arguments), daemon=True) for _ in range(number)]
    torch.set_num_threads(each)
    try:
        for helper in helpers:
            helper.start()
        yield
        for helper in helpers:
            helper.join()
    finally:
        torch.set_num_threads(threads)


def _help(folder: Path, threads: int, work: Callable, *arguments: Any) -> None:
    torch.set_num_threads(threads)

    def logged() -> None:
        with (folder / f"{os.getpid()}.log").open("w") as log, redirect_stderr(log):
            work(*arguments)

    command(logged)
