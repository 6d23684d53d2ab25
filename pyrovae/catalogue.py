"""The catalogue: every component that the library has, with the formula and references that its docstring states."""

import inspect
import re
import textwrap
from typing import NamedTuple

from pyrovae import (
    baselines,
    corruptions,
    encoders,
    exact,
    gradients,
    likelihoods,
    models,
    networks,
    objectives,
    priors,
    schedules,
)

__all__ = ["Entry", "entries", "markdown", "text"]

KINDS = (
    models,
    priors,
    likelihoods,
    encoders,
    networks,
    corruptions,
    objectives,
    gradients,
    baselines,
    schedules,
    exact,
)


class Entry(NamedTuple):
    """A component."""

    kind: str  # the module that lists it
    name: str
    formula: str
    references: tuple[tuple[str, str], ...]  # authors and year, and the link

    @property
    def full_name(self) -> str:
        """As it is written in Python."""
        return f"{self.kind}.{self.name}"


def entries() -> list[Entry]:
    """All of them, kind by kind, each in the order of its module's `__all__`.

    Example:
        >>> [entry.formula for entry in entries() if entry.full_name == "priors.StandardNormal"]
        ['p(z) = N(z; 0, I).']
    """
    return [
        Entry(module.__name__.rpartition(".")[2], name, *_parsed(inspect.getdoc(getattr(module, name))))
        for module in KINDS
        for name in module.__all__
    ]


def markdown() -> str:
    """A table for a README."""
    rows = ["| component | | |", "|---|---|---|"]
    for entry in entries():
        links = ", ".join(f"[{who}]({link})" for who, link in entry.references)
        rows.append(f"| `{entry.full_name}` | {_escaped(entry.formula)} | {links} |")
    return "\n".join(rows)


def text(kinds: tuple[str, ...], width: int = 100) -> str:
    """A list for a terminal, of some kinds."""
    lines, found = [], entries()
    for kind in kinds:
        lines.append(f"\n{kind}:")
        for entry in found:
            if entry.kind == kind:
                lines.append(f"  {entry.name}")
                lines += textwrap.wrap(entry.formula, width, initial_indent="    ", subsequent_indent="    ")
                lines += [f"    {who}, {link}" for who, link in entry.references]
    return "\n".join(lines) + "\n"


def _parsed(doc: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """First line, and references, of a docstring."""
    section = re.search(r"\nReferences:\n(.*?)(?=\n\S|\Z)", doc, re.DOTALL)
    joined = " ".join(section[1].split()) if section else ""
    found = re.findall(r"(\S[^()]*\(\d{4}\)).*?(https?://\S+)", joined)
    return doc.splitlines()[0], tuple((who, link.rstrip(".,")) for who, link in found)


def _escaped(formula: str) -> str:
    return formula.replace("|", "\\|")
