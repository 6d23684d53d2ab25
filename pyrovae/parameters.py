"""Parameters: those of a module stay with the module, past Pyro's global store."""

import itertools
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

__all__ = ["ModuleParameters", "module", "unique_name"]

_serial = itertools.count()
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def unique_name(module: nn.Module) -> str:
    """What Pyro's store calls a module; no other object, a copy of this one included, is called so."""
    if module not in _names:
        _names[module] = f"{type(module).__name__}{next(_serial)}"
    return _names[module]


def module(name: str, of: nn.Module) -> None:
    """`pyro.module(name, of)`, or its end at once where a handler wants nothing but the parameters.

    Effect by effect, 16 of them for two networks, it takes longer than all else that handlers do in a small step.
    """
    asked = _PYRO_STACK[0] if _PYRO_STACK else None
    if isinstance(asked, ModuleParameters) and asked.at_once:
        asked.take(name, of)
    else:
        pyro.module(name, of)


class ModuleParameters(Messenger):
    """Answers `pyro.module` with the module's own parameters, past Pyro's store; keeps by name what programs use.

    Args:
        at_once: whether handlers within do not care for parameters, as only Pyro's own ELBOs do.
        keep: whether to keep the parameters.
    """

    def __init__(self, at_once: bool = True, keep: bool = False) -> None:
        super().__init__()
        self.at_once, self.keep = at_once, keep
        self.parameters: dict[str, Tensor] = {}
        self.taken: set[str] = set()

    def take(self, name: str, of: nn.Module) -> None:
        """Keep the parameters of a module, unless that is done."""
        if self.keep and name not in self.taken:
            self.taken.add(name)
            self.parameters |= {f"{name}$$${n}": p for n, p in of.named_parameters() if p.requires_grad}

    def _pyro_param(self, msg: dict) -> None:
        if "$$$" in msg["name"] and len(msg["args"]) > 1 and isinstance(msg["args"][1], nn.Parameter):
            msg["value"] = msg["args"][1]

    def _pyro_post_param(self, msg: dict) -> None:
        value = msg["value"]
        self.parameters[msg["name"]] = value.unconstrained() if hasattr(value, "unconstrained") else value
