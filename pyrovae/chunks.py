"""The model's side of the log-densities: run for all draws, or for some at a time, which bounds memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import checkpoint

from pyrovae.sites import Layout, check_same_kind, equal, layout_of, listed, log_probs, sample_sites
from pyrovae.staging import tracing

__all__ = ["in_chunks", "scored"]

Program = Callable[..., Any]


def scored(
    model_trace: poutine.Trace, guide_trace: poutine.Trace, max_plate_nesting: int = 1
) -> tuple[dict[str, dict], dict[str, Tensor], Layout]:
    """The model's sites, which must fit the guide's, their log-densities `(K, B)`, and how all are laid out."""
    p, q = sample_sites(model_trace), sample_sites(guide_trace)
    latent = {name: site for name, site in p.items() if not site["is_observed"]}
    if auxiliary := [name for name, site in q.items() if site["infer"].get("is_auxiliary")]:
        raise ValueError(
            f"guide site {listed(auxiliary)} is auxiliary, and a bound with auxiliary variables needs the model's "
            f"distribution of them: write the guide without (an autoguide, too), or use pyro.infer.Trace_ELBO"
        )
    if missing := latent.keys() ^ q.keys():
        raise ValueError(
            f"model and guide must have the same latent sites, but {listed(missing)} is in only one of them "
            f"(model: {listed(latent)}; guide: {listed(q)})"
        )
    layout = layout_of([*p.values(), *q.values()], max_plate_nesting)
    for name in latent:
        check_same_kind(p[name], q[name])
        for what in () if tracing() else ("scale", "mask"):  # the ordinary run before a traced one compared them
            in_model, in_guide = (True if site[name][what] is None else site[name][what] for site in (p, q))
            if not equal(in_model, in_guide):
                raise ValueError(
                    f"site '{name}' has the {what} {in_model} in the model and {in_guide} in the guide: make them the "
                    f"same in both"
                )
    return p, log_probs(p, layout), layout


def in_chunks(
    run: Callable[[Program, int], poutine.Trace],
    model: Program,
    seen: poutine.Trace,
    num_samples: int,
    chunk: int,
    max_plate_nesting: int,
) -> tuple[dict[str, dict], dict[str, Tensor], Layout]:
    """As `scored`, from runs of the model for some of the draws at a time, each run again in the backward pass."""
    q, handlers = sample_sites(seen), [*_PYRO_STACK]
    sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]

    def parts(t: Any, event_dim: int = 0) -> Sequence[Any]:
        """A value or a mask for the draws of each chunk."""
        dim = -1 - max_plate_nesting - event_dim
        apart = isinstance(t, Tensor) and t.dim() >= -dim and t.shape[dim] == num_samples
        return t.split(chunk, dim) if apart else [t] * len(sizes)

    masks = {name: parts(site["mask"]) for name, site in q.items()}

    # Values are arguments, as their device is that whose random state the backward pass restores.
    def part(i: int, *values: Tensor) -> tuple[dict[str, dict], dict[str, Tensor], Layout]:
        """What the model gives for the draws of one chunk."""
        piece = seen.copy()
        for (name, site), value in zip(q.items(), values, strict=True):
            piece.nodes[name] = {**site, "value": value, "mask": masks[name][i]}
        with _under(handlers):
            trace = run(poutine.replay(model, trace=piece), sizes[i])
        p, log_p, layout = scored(trace, piece, max_plate_nesting)
        # Of p(z) any chunk's will do, as replayed sites are not expanded over draws; p(x | z) is not to be kept.
        return {name: {**site, "fn": site["fn"] if name in q else None} for name, site in p.items()}, log_p, layout

    values = [parts(site["value"], site["fn"].event_dim) for site in q.values()]
    with _repeatable():
        found = [checkpoint(part, i, *(v[i] for v in values), use_reentrant=False) for i in range(len(sizes))]
    p, _, layout = found[0]
    p = {name: {**site, "value": q.get(name, site)["value"]} for name, site in p.items()}
    log_p = {name: torch.cat([log_p[name] for _, log_p, _ in found], -2) for name in p}
    return p, log_p, layout._replace(particles=num_samples)


@contextmanager
def _under(handlers: list[Messenger]) -> Iterator[None]:
    """Under the effect handlers of the forward pass, where the backward pass has others or none."""
    others = [*_PYRO_STACK]
    _PYRO_STACK[:] = handlers
    try:
        yield
    finally:
        _PYRO_STACK[:] = others


@contextmanager
def _repeatable() -> Iterator[None]:
    """Around runs of the model in chunks: refuse modules that would do something else in one run or in the next."""
    met: dict[nn.Module, dict[Tensor, int]] = {}

    def versions(module: nn.Module) -> dict[Tensor, int]:
        return {b: b._version for b in module.buffers(recurse=False)}

    def meet(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"the model's {type(module).__name__} normalises by all draws together, which a model that is run in "
                f"chunks of them never sees: leave chunk out, or normalise by layers"
            )
        met.setdefault(module, versions(module))

    hook = register_module_forward_pre_hook(meet)
    try:
        yield
    finally:
        hook.remove()
    for module, before in met.items():
        if versions(module) != before:
            raise ValueError(
                f"the model's {type(module).__name__} changes its buffers whenever it is run, so a model that is run "
                f"in chunks, and again in the backward pass, has another gradient: leave chunk out"
            )
