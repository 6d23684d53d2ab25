"""Parameters: those of a module stay with the module, past Pyro's global store."""

import itertools
from weakref import WeakKeyDictionary

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

__all__ = ["ModuleParameters", "unique_name"]

_serial = itertools.count()
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def unique_name(module: nn.Module) -> str:
    """What Pyro's store calls a module; no other object, a copy of this one included, is called so."""
    if module not in _names:
        _names[module] = f"{type(module).__name__}{next(_serial)}"
    return _names[module]


class ModuleParameters(Messenger):
    """Answers `pyro.module` with the module's own parameters, past Pyro's store; keeps by name what programs use."""

    def __enter__(self) -> "ModuleParameters":
        self.parameters: dict[str, Tensor] = {}
        return super().__enter__()

    def _pyro_param(self, msg: dict) -> None:
        if "$$$" in msg["name"] and len(msg["args"]) > 1 and isinstance(msg["args"][1], nn.Parameter):
            msg["value"] = msg["args"][1]

    def _pyro_post_param(self, msg: dict) -> None:
        value = msg["value"]
        self.parameters[msg["name"]] = value.unconstrained() if hasattr(value, "unconstrained") else value
