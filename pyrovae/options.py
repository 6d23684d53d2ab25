"""Options: how a command line is read, and how a mistake in it is told, in one line and with exit code 2."""

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from pyrovae import catalogue
from pyrovae.distributed import ProcessError, Processes
from pyrovae.interruption import Interrupted
from pyrovae.memory import explained, limited

__all__ = ["MISTAKES", "Parser", "PlainParser", "command"]

MISTAKES = (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError)  # what a user can put right


# Options may come with a run of somebody else's: none names what starts programs or reads pickles, as `os.system` does,
# of which jsonargparse has a list of its own, to which this adds nothing.
set_parsing_settings(import_path_denylist=[])

_raises = ContextVar("raises", default=False)  # instead of ending the process, in parsers of components, too


class Parser(ArgumentParser):
    """Ends a wrong command line with one line and exit code 2.

    A component that is chosen in place of the one by default has its own defaults: the other's do not stick to it.
    """

    kinds: tuple[str, ...] = ()  # of components that the help lists at its end
    unstuck: tuple[str, ...] = ()  # names of the options that choose such a component
    _dumping = False

    def format_help(self) -> str:
        """The help, with the catalogue at its end."""
        return super().format_help() + (catalogue.text(self.kinds) if self.kinds else "")

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """All default values, as they are before anything is parsed."""
        defaults = super().get_defaults(*args, **kwargs)
        for name in self.unstuck if not self._dumping else ():
            defaults[name].pop("init_args", None)
        return defaults

    def changes(self, options: Namespace) -> str:
        """What differs from the defaults, as YAML."""
        self._dumping = True
        try:
            return self.dump(options, skip_default=True, skip_unset=False)
        finally:
            self._dumping = False

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a command line."""
        with self._told():
            return super().parse_args(*args, **kwargs)

    def parse_path(self, path: str | Path, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file.

        Raises:
            ValueError: if it cannot be parsed.
        """
        token = _raises.set(True)
        try:
            return super().parse_path(path, *args, **kwargs)
        except Exception as error:
            raise ValueError(f"'{path}' cannot be read: {_one_line(str(error))}") from error
        finally:
            _raises.reset(token)

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Make the objects that options describe.

        Raises:
            ValueError: if one cannot be made.
        """
        try:
            return super().instantiate(*args, **kwargs)
        except ValueError as error:
            raise ValueError(_one_line(str(error))) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever jsonargparse raises on options that nobody meant for it is an error of the command line."""
        try:
            yield
        except Exception as error:
            self.error(f"the options cannot be read: {error}")

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what does not conform; null too, as in a file that was cut off, where an option needs a value."""
        super().validate(*args, **kwargs | {"skip_unset": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the line and exit, or of a file, raise it."""
        if _raises.get():
            raise ValueError(message) from ex
        _tell(f"error: {_one_line(message)}")
        self.exit(2)


class PlainParser(argparse.ArgumentParser):
    """One of the standard library, which lets options of others through; it ends a wrong command line alike.

    Args:
        description: the help's first paragraphs, as they are.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Write the line and exit."""
        _tell(f"error: {message}")
        self.exit(2)


def command(main: Callable[[], None], interrupted: str = "--resume goes on from what was kept last") -> None:
    """Run a script's main function; end a user's mistake with one line and exit code 2, and a signal with 128 more.

    Args:
        main: the function.
        interrupted: what to say of how to go on, if the user interrupts it.
    """
    sys.path.append(str(Path.cwd()))  # where import paths given as options are looked for
    try:
        with limited(), explained():
            main()
    except ProcessError as error:  # what the other one tells matters more
        _write(f"error: {error}")
        sys.exit(2)
    except MISTAKES as error:
        _tell(f"error: {_one_line(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        told = f"{stop}: " if isinstance(stop, Interrupted) else ""
        if Processes.here().is_first:
            _write(f"interrupted: {told}{interrupted}")
        sys.exit(128 + (stop.signal if isinstance(stop, Interrupted) else signal.SIGINT))


def _tell(line: str) -> None:
    """Write what was wrong; `torchrun` says it once more, as the cause, after a traceback of its own."""
    _write(line)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": line, "extraInfo": {"timestamp": int(time.time())}}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": message}))


def _write(line: str) -> None:
    """Write a line at once, with the number of the process unless it is the first one."""
    rank = Processes.here().rank
    sys.stderr.write(f"{f'process {rank}: ' if rank else ''}{line}\n")


_KINDS = {"int": "whole number", "float": "number", "Sequence": "list such as [128, 128]"}


def _one_line(message: str) -> str:
    """What jsonargparse says over many lines, as one sentence."""
    message = re.split(r"\n *Trace Shapes:", message)[0]  # what Pyro adds for whoever wrote the programs
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    option = f"{_as_given(keys)}: " if keys else ""
    causes = [cause for cause in re.findall(r"^ *- (.*)", message, re.MULTILINE) if "NoneType" not in cause]
    cause = causes[0] if causes else message
    if name := re.findall(r"Expected a dot import path string: (\S+)", cause):
        return f"{option}no class is called '{name[-1].rstrip('.')}': give a name that --help lists, or an import path"
    if found := re.findall(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", cause):
        return f"{option}{found[-1][0]} is not a subclass of {found[-1][1]}"
    if found := re.findall(r"No module named '\S+'", cause):
        return f"{option}{found[-1]}"
    if found := re.findall(r"Option '(\w+)' is not accepted", cause):
        return f"{_as_given(found[-1])}: the component that was chosen has no such option"
    value = re.findall(r"(?:Got|Given) value: (.*)", message)
    if value and "expects a function or a callable class" in cause:
        return f"{option}'{value[-1].strip()}' is no component: give a name that --help lists, or an import path"
    if value and (kind := re.search(r"Expected a (?:<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal\[(.*)\])", cause)):
        kind = f"one of {kind[2]}" if kind[2] else f"a {_KINDS.get(kind[1], kind[1])}"
        return f"{option}'{value[-1].strip()}' is not {kind}"
    return option + " ".join(re.sub(r'Parser key "[^"]+":?', "", cause).split())


def _as_given(key: str) -> str:
    """An option as it stands on the command line, where a component's parser knows only its last part."""
    given = [word.partition("=")[0] for word in sys.argv if re.match(rf"--([\w.]+\.)?{re.escape(key)}(=|$)", word)]
    return given[0] if len(set(given)) == 1 else f"--{key}"
