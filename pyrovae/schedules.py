"""Schedules: numbers that change from one gradient step to the next."""

from abc import ABC, abstractmethod

from pyrovae.arguments import number, whole

__all__ = ["Cyclical", "Linear"]


class Schedule(ABC):
    """Abstract: a number for each step.

    Args:
        steps: how many steps until it has reached its end, where it stays.
        start: value in the first step.
        end: value at the end.
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        self.steps = whole("steps", steps)
        self.start, self.end = number("start", start, least=0), number("end", end, least=0)

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The value in a step, counted from 0."""


class Linear(Schedule):
    """start + (end - start) min(t / steps, 1), in step t.

    Args:
        steps: how many steps until it has reached its end, where it stays.
        start: value in the first step.
        end: value at the end.

    References:
        Bowman et al. (2016), Generating sentences from a continuous space, https://arxiv.org/abs/1511.06349

    Example:
        >>> warm_up = Linear(steps=4)
        >>> [warm_up(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __call__(self, step: int) -> float:
        """The value in a step, counted from 0."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


class Cyclical(Schedule):
    """start + (end - start) min(2 (t mod c) / c, 1) in step t of cycles of c = steps / cycles steps, then end.

    Args:
        steps: how many steps until it has reached its end, where it stays.
        cycles: how often it begins anew; each cycle rises in its first half.
        start: value at the beginning of a cycle.
        end: value in the second half of a cycle.

    References:
        Fu et al. (2019), Cyclical annealing schedule, https://arxiv.org/abs/1903.10145

    Example:
        >>> warm_up = Cyclical(steps=8, cycles=2)
        >>> [warm_up(t) for t in range(10)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, steps: int, cycles: int = 4, start: float = 0.0, end: float = 1.0) -> None:
        super().__init__(steps, start, end)
        if whole("cycles", cycles) > steps:
            raise ValueError(f"cycles must be between 1 and the number of steps, {steps}, not {cycles}")
        self.cycles = cycles

    def __call__(self, step: int) -> float:
        """The value in a step, counted from 0."""
        phase = step * self.cycles / self.steps % 1.0 if step < self.steps else 1.0
        return self.start + (self.end - self.start) * min(2 * phase, 1.0)
