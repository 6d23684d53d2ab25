"""Pyro's own ELBOs in our SVI: their loss, and what their runs tell of the ELBO's terms."""

from collections.abc import Callable
from numbers import Number
from types import FunctionType
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyrovae.densities import Program, reduce_traces

__all__ = ["UNREAD", "Traced", "loss_and_grads", "totals"]


class Traced:
    """A program that keeps the traces of its runs with gradient."""

    def __init__(self, program: Program) -> None:
        self.program, self.traces = program, []
        self.__self__ = program.__self__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        traced = poutine.trace(self.program)
        result = traced(*args, **kwargs)
        if torch.is_grad_enabled():
            self.traces.append(traced.trace)
        return result

    def pop(self) -> list[poutine.Trace]:
        """The traces since the last call."""
        traces, self.traces = self.traces, []
        return traces


def totals(model: Traced, guide: Traced) -> Tensor | None:
    """E_q[log p(x | z)] and the KL of the programs' last runs, summed over data, `(2,)`; None if they have not run."""
    with torch.no_grad():
        runs = [reduce_traces(p, q).totals for p, q in zip(model.pop(), guide.pop(), strict=True)]
    return sum(runs) / len(runs) if runs else None  # of a compiled ELBO the programs run but once


def loss_and_grads(elbo: Trace_ELBO, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor | float:
    """What `loss_and_grads` of one of the `UNREAD` does, but the loss stays on the device.

    Args:
        elbo: Pyro's objective.
        model: Pyro program p(x, z).
        guide: Pyro program q(z | x).
        args: arguments of both.
        kwargs: keyword arguments of both.
    """
    loss = 0.0
    for model_trace, guide_trace in elbo._get_traces(model, guide, args, kwargs):
        part, surrogate = UNREAD[type(elbo)](elbo, model_trace, guide_trace)
        loss = loss + part / elbo.num_particles
        if getattr(surrogate, "requires_grad", False):
            (surrogate / elbo.num_particles).backward(retain_graph=elbo.retain_graph)
    return loss


def _unread(kind: type[Trace_ELBO]) -> Callable[..., tuple[Any, Any]]:
    """How it makes a loss of traces, but summed up as a tensor where Pyro reads each site's part of it as a number."""
    function = kind._differentiable_loss_particle
    return FunctionType(function.__code__, {**function.__globals__, "torch_item": _detached})


def _detached(x: Tensor | Number) -> Tensor | Number:
    return x.detach().double() if isinstance(x, Tensor) else x  # numbers of Python are in double precision


UNREAD = {kind: _unread(kind) for kind in (Trace_ELBO, TraceMeanField_ELBO)}
