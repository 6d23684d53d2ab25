"""Pyro's own ELBOs in our SVI: their loss, what their runs tell of the ELBO's terms, and how to trace them."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any
from unittest.mock import patch

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO, trace_elbo, trace_mean_field_elbo
from torch import Tensor

from pyrovae.densities import Program, reduce_traces

__all__ = ["Traced", "totals", "traced_loss_and_grads"]


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


def traced_loss_and_grads(elbo: Trace_ELBO, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """What `loss_and_grads` of Pyro's `Trace_ELBO` or `TraceMeanField_ELBO` does, without reading the loss.

    Raises:
        RuntimeError: for another of Pyro's ELBOs.
    """
    if type(elbo) not in (Trace_ELBO, TraceMeanField_ELBO):
        raise RuntimeError(f"{type(elbo).__name__} reads its loss in each step")
    loss = 0.0
    with _unread():
        for model_trace, guide_trace in elbo._get_traces(model, guide, args, kwargs):
            part, surrogate = elbo._differentiable_loss_particle(model_trace, guide_trace)
            loss = loss + part / elbo.num_particles
            (surrogate / elbo.num_particles).backward(retain_graph=elbo.retain_graph)
    return loss


@contextmanager
def _unread() -> Iterator[None]:
    """Let Pyro sum up the loss as a tensor where it would read each site's part of it as a number."""
    with (
        patch.object(trace_elbo, "torch_item", _detached),
        patch.object(trace_mean_field_elbo, "torch_item", _detached),
    ):
        yield


def _detached(x: Tensor | Number) -> Tensor | Number:
    return x.detach() if isinstance(x, Tensor) else x
