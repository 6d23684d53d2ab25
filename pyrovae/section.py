"""A section of a diagnosis: a question about a model, and the numbers, figures and sentences that answer it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Number", "Section", "to_dict"]

Value = float | int | str | None


@dataclass(frozen=True)
class Number:
    """A number, what it means, and its standard error if it has one."""

    value: Value
    meaning: str
    std_error: float | None = None


@dataclass
class Section:
    """A question about a model, and what answers it."""

    title: str
    question: str
    references: dict[str, str] = field(default_factory=dict)  # links, by author and year
    numbers: dict[str, Number] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def to_dict(sections: Sequence[Section]) -> dict[str, Any]:
    """Numbers and sentences as plain values, by title; a number that is not finite is None.

    Args:
        sections: as `diagnose` gives them.
    """

    def plain(value: Value) -> Value:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        section.title: {
            "numbers": {
                name: {"value": plain(number.value), "std_error": plain(number.std_error)}
                for name, number in section.numbers.items()
            },
            "sentences": section.sentences,
        }
        for section in sections
    }
