"""Does a guide fit a model? Looking leaves no trace, neither in Pyro's store nor in random state or buffers."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import Distribution

from pyrovae.densities import Program
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.sites import check_same_kind, sample_sites
from pyrovae.supports import describe, scores

__all__ = ["buffers_restored", "check", "unvalidated"]

_REMEDY = "declare the dimensions of one datum as event by .to_event(n), and put the data in one pyro.plate"


def check(model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, dict]:
    """Compare a model with its guide: the same latent sites, event dimensions and supports, one density for each datum.

    The programs are run once; random state and buffers are left as they were.

    Args:
        model: Pyro program p(x, z).
        guide: Pyro program q(z | x), of the same arguments.
        args: arguments of both.
        kwargs: keyword arguments of both.

    Returns:
        The guide's sites, as Pyro's traces have them, by name.

    Raises:
        ValueError: if they differ; the message names the site and both shapes.
    """
    store = pyro.get_param_store()
    with (
        torch.no_grad(),
        isolated(),
        unvalidated(),
        store.scope(store.get_state()),
        buffers_restored(model, guide),
        ModuleParameters(),
    ):
        try:
            with _SiteCheck(guide=None):
                guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            q = sample_sites(guide_trace)
            with _SiteCheck(guide=q):
                p = sample_sites(poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs))
        except ValueError as error:
            first, *shapes = str(error).splitlines()
            if first.startswith("Shape mismatch inside plate"):  # Pyro's words for a batch unlike its plate
                raise ValueError("\n".join([f"{first}: {_REMEDY}", *shapes])) from error
            raise
    for name, site in q.items():
        if name not in p and not site["infer"].get("is_auxiliary"):
            raise ValueError(f"latent site '{name}' is in the guide but not in the model: give both the same names")
    return q


class _SiteCheck(Messenger):
    """Checks each site as it is met, before the program goes on with its value."""

    def __init__(self, guide: dict[str, dict] | None) -> None:
        super().__init__()
        self.guide = guide

    def _pyro_post_sample(self, msg: dict) -> None:
        if not site_is_subsample(msg):
            if self.guide is not None:
                _check_against_guide(msg, self.guide.get(msg["name"]))
            _check_batch(msg)


def _check_against_guide(p: dict, q: dict | None) -> None:
    """A site of the model against the guide's of the same name."""
    name = p["name"]
    if q is None:
        if not p["is_observed"] and not p["infer"].get("enumerate"):
            raise ValueError(
                f"latent site '{name}' is in the model but not in the guide: sample it there, or observe it"
            )
    elif p["is_observed"]:
        raise ValueError(f"site '{name}' is observed in the model but sampled in the guide: leave it out of the guide")
    elif p["fn"].event_shape != q["fn"].event_shape:
        raise ValueError(
            f"site '{name}' has event shape {tuple(p['fn'].event_shape)} in the model but "
            f"{tuple(q['fn'].event_shape)} in the guide: make their sizes equal, and declare the same dimensions as "
            f"event by .to_event(n)"
        )
    else:
        check_same_kind(p, q)
        _check_supports(p, q)


def _check_supports(p: dict, q: dict) -> None:
    if not scores(p["fn"], q["fn"]):
        in_model, in_guide = (describe(site["fn"].support) for site in (p, q))
        raise ValueError(
            f"site '{p['name']}' lies in {in_model} in the model but in {in_guide} in the guide: give both the same "
            f"support, or KL(q || p) is infinite"
        )


def _check_batch(site: dict) -> None:
    """A site's log-density against the plates around it."""
    expected = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    actual = tuple(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]).shape)
    plates = tuple(expected.get(dim, 1) for dim in range(min(expected, default=0), 0))
    padded = (1,) * (len(plates) - len(actual)) + actual
    extra = (1,) * (len(actual) - len(plates)) + plates
    if padded != extra:
        raise ValueError(
            f"site '{site['name']}' has log-densities of shape {actual} where the plates around it say {plates}: "
            f"{_REMEDY}"
        )


class _Off:
    """Validation is the whole process's: the first thread within turns it off, the last to leave puts it back."""

    lock = threading.Lock()
    within = 0
    before = ExitStack()


@contextmanager
def unvalidated() -> Iterator[None]:
    """Without Pyro's validation and PyTorch's, which are put back as they were once no thread is within."""
    with _Off.lock:
        if _Off.within == 0:
            _Off.before.callback(Distribution.set_default_validate_args, Distribution._validate_args)
            _Off.before.enter_context(pyro.validation_enabled(False))
        _Off.within += 1
    try:
        yield
    finally:
        with _Off.lock:
            _Off.within -= 1
            if _Off.within == 0:
                _Off.before.close()


@contextmanager
def buffers_restored(*programs: Program) -> Iterator[None]:
    """Undo what running the programs did to the buffers of the modules that they are methods of."""
    owners = {getattr(program, "__self__", program) for program in programs}
    buffers = [b for owner in owners if isinstance(owner, nn.Module) for b in owner.buffers()]
    saved = [b.clone() for b in buffers]
    try:
        yield
    finally:
        for b, value in zip(buffers, saved, strict=True):
            b.copy_(value)
