"""Rounds of timed steps, in each of which everybody has a turn."""

import gc
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from peers.peer import Steps

__all__ = ["interleaved", "seconds_of"]


def interleaved(steps: Mapping[str, Steps], rounds: int, round_seconds: float) -> dict[str, list[float]]:
    """Seconds a step by name, one number for each round, in which each has one turn, in an order of the round's own.

    A turn is as many steps as fit into `round_seconds`, at least one, after one that is not timed.

    Args:
        steps: what is timed, by name; as warm as it gets.
        rounds: how many.
        round_seconds: of a turn, about.
    """
    order = random.Random(0)
    counts = {name: max(1, round(round_seconds / min(seconds_of(s, 1) for _ in range(3)))) for name, s in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in order.sample(list(steps), len(steps)):
            seconds[name].append(seconds_of(steps[name], counts[name]))
    return seconds


def seconds_of(steps: Steps, n: int) -> float:
    """Seconds a step, over n of them, from when nothing is under way until they are finished."""
    steps.take(1)
    steps.finish()
    with _no_collection():
        start = perf_counter()
        steps.take(n)
        steps.finish()
        return (perf_counter() - start) / n


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
