"""Checkpoints: all that a run needs to go on as if it had never stopped."""

import inspect
import pickle
from pathlib import Path
from typing import Any

import torch

from pyrovae.files import whole

__all__ = ["Checkpoint"]


class Checkpoint:
    """A file with the states of a run's parts, of torch's random numbers, and the settings they belong to.

    Args:
        path: the file.
        settings: plain values that must be the same when the run goes on.
        parts: objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], **parts: Any) -> None:
        self.path = Path(path)
        self.settings = settings
        self.parts = parts

    def save(self, **values: Any) -> None:
        """Write the parts as they are now, with plain values and tensors by name."""
        state = {
            "settings": self.settings,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
            "values": values,
        }
        with whole(self.path) as path:
            torch.save(state, path)

    def load(self) -> dict[str, Any]:
        """Bring the parts to where they were, and return the values saved with them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read, or belongs to other settings.
        """
        state = read(self.path)
        for name in state["settings"] | self.settings:
            was, value = state["settings"].get(name), self.settings.get(name)
            if was != value:
                raise ValueError(
                    f"'{self.path}' is of a run with {name} = {was}, not {value}: a run goes on as it began"
                )
        if other := state["parts"].keys() ^ self.parts.keys():
            raise ValueError(
                f"'{self.path}' and the run differ in having {', '.join(sorted(other))}: a run goes on as it began"
            )
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state["parts"][name])
            except (RuntimeError, LookupError, ValueError) as error:
                raise ValueError(
                    f"'{self.path}' is of a run whose {name} is another: a run goes on as it began"
                ) from error
        torch.set_rng_state(state["random"]["cpu"])
        torch.cuda.set_rng_state_all(state["random"]["cuda"][: torch.cuda.device_count()])
        return state["values"]


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU; no code in it is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint '{path}'") from None
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        # What torch would say is to trust the file, and run its code.
        raise ValueError(f"'{path}' cannot be read as a checkpoint: it is damaged, or of another kind") from error
    if not isinstance(state, dict) or state.keys() != {"settings", "parts", "random", "values"}:
        raise ValueError(f"'{path}' is no checkpoint of this library")
    return state


def described(part: Any) -> str:
    """An object by its class and the constructor's arguments that it keeps, as a setting that can be compared."""
    if part is None or isinstance(part, bool | int | float | str | tuple | list):
        return repr(part)
    kept = [name for name in inspect.signature(type(part)).parameters if hasattr(part, name)]
    return f"{type(part).__name__}({', '.join(f'{name}={described(getattr(part, name))}' for name in kept)})"
