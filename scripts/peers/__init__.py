"""Whose training of the same VAE is timed: one module a peer, with a class `Peer` or two, loaded only when needed."""

from importlib import import_module
from importlib.util import find_spec

import torch

from peers.peer import Peer

__all__ = ["NAMES", "load", "missing"]

OURS = "pyrovae compiled"  # what the others are compared with
_WHERE = {
    OURS: ("pyrovae", "peers.ours", "Compiled"),
    "pyrovae": ("pyrovae", "peers.ours", "Plain"),
    "PyTorch": ("torch", "peers.by_hand", "Eager"),
    "PyTorch compiled": ("torch", "peers.by_hand", "Compiled"),
    "NumPyro": ("numpyro", "peers.numpyro_svi", "NumPyro"),
    "pythae": ("pythae", "peers.pythae_trainer", "Pythae"),
    "Pyro": ("pyro", "peers.pyro_svi", "Pyro"),
    "Pyro on our VAE": ("pyro", "peers.pyro_on_ours", "PyroOnOurs"),
}
NAMES = tuple(_WHERE)


def load(name: str) -> type[Peer]:
    """The class of a peer."""
    _, module, cls = _WHERE[name]
    return getattr(import_module(module), cls)


def missing(name: str, device: torch.device) -> str | None:
    """Why a peer cannot be measured here, or None if it can."""
    if find_spec(package := _WHERE[name][0]) is None:
        return f"{package} is not installed"
    return load(name).missing(device)
