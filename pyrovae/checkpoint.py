"""Checkpoints: all that a run needs to go on as if it had never stopped, in files that are known to be whole."""

import copy
import hashlib
import inspect
import io
import platform
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import rng
from pyrovae.files import own, whole
from pyrovae.memory import explained

__all__ = ["Checkpoint", "Parts"]

_HEAD = b"pyrovae sha256 "
_TAIL = len(_HEAD) + 2 * hashlib.sha256().digest_size
_KEYS = {"settings", "parts", "random", "values", "versions"}


class Parts:
    """Objects with `state_dict` and `load_state_dict`, by name, and random numbers: what a run consists of."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        """Where they are; what it holds may go on with them."""
        return {"parts": {name: part.state_dict() for name, part in self.parts.items()}, "random": rng.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring them back to where they were.

        Raises:
            ValueError: if a part is another, named in the message.
        """
        if other := state["parts"].keys() ^ self.parts.keys():
            raise ValueError(f"that differs in having {', '.join(sorted(other))}")
        loads = {name: part.load_state_dict for name, part in self.parts.items()} | {"random": rng.set_state}
        for name, load in loads.items():
            try:
                with explained():
                    load(copied(state["parts"].get(name, state["random"])))  # as some go on with what they are given
            except MemoryError:
                raise
            except Exception as error:  # whatever stands there in place of states
                raise ValueError(f"whose {name} is another") from error


def copied(state: Any) -> Any:
    """A copy of nested values and tensors, in a tenth of the time of `copy.deepcopy`."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    return type(state)(map(copied, state)) if type(state) in (list, tuple) else copy.deepcopy(state)


class Checkpoint:
    """A file with the states of a run's parts, of all random numbers, and the settings they belong to.

    A file ends with its own checksum, as a comment of the ZIP archive that `torch.save` writes, and is verified when it
    is read. Earlier files are kept as `NAME.1.pt`, `NAME.2.pt` and so on, the last of them first.

    Args:
        path: the file.
        settings: plain values that must be the same when the run goes on.
        keep: how many files to keep, the last included.
        parts: objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], keep: int = 1, **parts: Any) -> None:
        self.path, self.settings, self.keep, self.parts = Path(path), settings, keep, Parts(**parts)

    def save(self, **values: Any) -> None:
        """Write the parts as they are now, with plain values and tensors by name."""
        self.write(self.path, **values)

    def write(self, path: Path, **values: Any) -> None:
        """The same to another file."""
        content = {"settings": self.settings, **self.parts.state_dict(), "values": values, "versions": versions()}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with whole(path) as beside:
            beside.write_bytes(signed(buffer.getvalue()))
            if path == self.path:
                self._move_on()

    def load(self) -> dict[str, Any]:
        """Bring the parts to where they were, and return the values saved with them.

        A file that is damaged is put aside as `NAME.damaged.pt`, and the last one before it that is not takes its
        place, with a warning.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if none can be read, or it belongs to other settings.
        """
        state = self._last_good()
        for name in state["settings"] | self.settings:
            was, value = state["settings"].get(name), self.settings.get(name)
            if was != value:
                raise ValueError(
                    f"'{self.path}' is of a run with {name} = {was}, not {value}: a run goes on as it began"
                )
        try:
            self.parts.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"'{self.path}' is of a run {error}: a run goes on as it began") from error
        others = [f"{name} {was}" for name, was in state["versions"].items() if versions().get(name) != was]
        if others:
            warnings.warn(
                f"'{self.path}' was written by {', '.join(others)}: the run may end otherwise than there", stacklevel=6
            )
        return state["values"]

    def _move_on(self) -> None:
        """Let the files there are become earlier ones; the last one keeps its name until another takes it."""
        if self.keep < 2 or not self.path.exists():
            return
        names = [self.path, *(_earlier(self.path, number) for number in range(1, self.keep))]
        for older, newer in zip(names[:1:-1], names[-2:0:-1], strict=True):
            if newer.exists():
                newer.replace(older)
        link = own(names[1])
        try:
            link.hardlink_to(self.path)
            link.replace(names[1])
        except OSError:  # file systems without links
            shutil.copyfile(self.path, names[1])
        finally:
            link.unlink(missing_ok=True)

    def _last_good(self) -> dict[str, Any]:
        try:
            return read(self.path)
        except (FileNotFoundError, ValueError) as error:
            good = last_good(self.path)
            if good is None:
                raise
            damaged = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
            kept = f"kept as '{damaged}', " if self.path.exists() else ""
            warnings.warn(f"{error}; {kept}the run goes on from '{good}'", stacklevel=7)
            for source, target in ((self.path, damaged), (good, self.path)):
                if source.exists():
                    with whole(target) as beside:
                        shutil.copyfile(source, beside)
            return read(self.path)


def _earlier(path: Path, number: int | str) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def last_good(path: str | Path) -> Path | None:
    """The last checkpoint before this one that can be read, if there is one."""
    path, number = Path(path), 1
    while (before := _earlier(path, number)).exists():
        try:
            read(before)
        except ValueError:
            number += 1
        else:
            return before
    return None


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU; no code in it is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a checkpoint.
    """
    try:
        with explained():
            state = torch.load(io.BytesIO(verified(Path(path).read_bytes())), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint '{path}'") from None
    except MemoryError:
        raise  # of which a file that is whole may need more than there is
    except Exception as error:  # whatever stands there in place of what torch wrote
        # What torch would say is to trust the file, and run its code.
        why = "it is damaged, of another kind, or of an earlier version that wrote no checksum"
        raise ValueError(f"'{path}' cannot be read as a checkpoint: {why}") from error
    if not isinstance(state, dict) or state.keys() != _KEYS or not all(isinstance(v, dict) for v in state.values()):
        raise ValueError(f"'{path}' is no checkpoint of this library")
    if not all(
        isinstance(v, str | int | float | None) for v in (*state["settings"].values(), *state["versions"].values())
    ):
        raise ValueError(f"'{path}' is no checkpoint of this library, as its settings are no plain values")
    return state


def signed(content: bytes) -> bytes:
    """What `torch.save` wrote, with its checksum as the comment of the archive, which ends with the comment's length.

    Example:
        >>> signed(b"archive" + bytes(2))[-79:-60]
        b'pyrovae sha256 357c'
    """
    content = content[:-2] + _TAIL.to_bytes(2, "little")
    return content + _HEAD + hashlib.sha256(content).hexdigest().encode()


def verified(content: bytes) -> bytes:
    """The same if it is whole, byte by byte.

    Raises:
        ValueError: if it is not.
    """
    if content[-_TAIL:] != _HEAD + hashlib.sha256(content[:-_TAIL]).hexdigest().encode():
        raise ValueError("the checksum does not match")
    return content


def versions() -> dict[str, str]:
    """What results may depend on, by name."""
    found = {"python": platform.python_version()}
    for name, package in {"pyrovae": "pyrovae", "torch": "torch", "pyro": "pyro-ppl"}.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def described(part: Any) -> str:
    """An object by its class and the constructor's arguments that it keeps, as a setting that can be compared."""
    if part is None or isinstance(part, bool | int | float | str | tuple | list):
        return repr(part)
    kept = [name for name in inspect.signature(type(part)).parameters if hasattr(part, name)]
    return f"{type(part).__name__}({', '.join(f'{name}={described(getattr(part, name))}' for name in kept)})"
