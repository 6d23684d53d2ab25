"""Options: how a command line is read, and how a mistake in it is told, in one line and with exit code 2."""

import re
import sys
from collections.abc import Callable
from typing import NoReturn

from jsonargparse import ArgumentParser

__all__ = ["Parser", "command"]


class Parser(ArgumentParser):
    """Ends a wrong command line with one line and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the line and exit."""
        sys.stderr.write(f"error: {_one_line(message)}\n")
        self.exit(2)


def command(main: Callable[[], None]) -> None:
    """Run a script's main function; end a user's mistake with one line and exit code 2."""
    try:
        main()
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.stderr.write(f"error: {_one_line(str(error))}\n")
        sys.exit(2)


_KINDS = {"int": "whole number", "float": "number", "Sequence": "list such as [128, 128]"}


def _one_line(message: str) -> str:
    """What jsonargparse says over many lines, as one sentence."""
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    option = f"--{keys}: " if keys else ""
    if name := re.findall(r"(?:^|: |\n  )Expected a dot import path string: (\S+)", message):
        return f"{option}no class is called '{name[-1].rstrip('.')}': give a name that --help lists, or an import path"
    if found := re.findall(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", message):
        return f"{option}{found[-1][0]} is no {found[-1][1]}"
    if found := re.findall(r"No module named '\S+'", message):
        return f"{option}{found[-1]}"
    causes = [cause for cause in re.findall(r"^ *- (.*)", message, re.MULTILINE) if "NoneType" not in cause]
    cause = causes[0] if causes else message
    value = re.findall(r"(?:Got|Given) value: (.*)", message)
    if value and (kind := re.search(r"Expected a (?:<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal\[(.*)\])", cause)):
        kind = f"one of {kind[2]}" if kind[2] else f"a {_KINDS.get(kind[1], kind[1])}"
        return f"{option}'{value[-1].strip()}' is not {kind}"
    return option + " ".join(re.sub(r'Parser key "[^"]+":?', "", cause).split())
