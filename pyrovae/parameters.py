"""Parameters: those of a module stay with the module, past Pyro's global store."""

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

__all__ = ["ModuleParameters"]


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
