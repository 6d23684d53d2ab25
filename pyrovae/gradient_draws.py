"""Gradient estimates, drawn one after the other: sums by groups of draws are kept, so memory is bounded."""

import copy
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyro
import pyro.infer
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae.check import unvalidated
from pyrovae.evaluation import evaluating
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated

__all__ = ["Cost", "Draws", "Problem", "count", "draw_gradients", "flat", "undisturbed"]

_CHUNK = {"cpu": 2**19, "cuda": 2**25}  # numbers at a site at a time: what a processor's cache holds, and what memory
_GROUPS = 16  # of draws, one of which the jackknife leaves out at a time


class Problem(NamedTuple):
    """What is differentiated, and by what."""

    vae: nn.Module
    x: Tensor
    parameters: list[nn.Parameter]
    blocks: dict[str, slice]  # of the flat gradient


class Cost(NamedTuple):
    """Of a gradient estimate, for each datum."""

    evaluations: float
    numbers: float  # at the largest site


class Draws(NamedTuple):
    """What is kept of gradient estimates g_1, ..., g_R, by differences to the first, lest digits cancel."""

    first: Tensor  # g_1, (P,)
    sums: Tensor  # of g_r - g_1 in each group, (G, P)
    group: Tensor  # of each draw, (R,)
    squares: Tensor  # ||g_r - g_1||^2, (blocks, R)
    norms: Tensor  # ||g_r||, (blocks, R)
    dots: Tensor  # <g_r, truth>, (blocks, R)
    seconds: float  # for each

    def moments(self, index: int, columns: slice, without: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of a block: mean g `(P,)`, ||E g||^2 = ||mean g||^2 - tr Cov g / R, at least 0, and tr Cov g, unbiased."""
        sums = self.sums[:, columns]
        total = sums.sum(0) if without is None else sums.sum(0) - sums[without]
        squares = self.squares[index] if without is None else self.squares[index][self.group != without]
        n = len(squares)
        variance = (squares.sum() - total.square().sum() / n).clamp(min=0) / (n - 1)
        mean = self.first[columns] + total / n
        return mean, (mean.square().sum() - variance / n).clamp(min=0), variance

    def snr(self, index: int, columns: slice) -> tuple[Tensor, Tensor]:
        """||E g|| / sqrt(tr Cov g) of a block, and its standard error by the jackknife."""
        left_out: list[int | None] = [None, *range(len(self.sums))]
        _, power, variance = zip(*(self.moments(index, columns, without) for without in left_out), strict=True)
        value, *others = (torch.stack(power) / torch.stack(variance)).sqrt()
        others = torch.stack(others)
        return value, ((len(others) - 1) * (others - others.mean()).square().mean()).sqrt()


def draw_gradients(
    problem: Problem,
    objective: pyro.infer.ELBO,
    cost: Cost,
    num_draws: int,
    truth: Tensor,
    seed: int,
    stream: str,
    bar: tqdm,
) -> Draws:
    """Independent gradient estimates, of which sums remain."""
    vae, x, parameters, blocks = problem
    whole = isinstance(objective, Objective) and not objective.additive
    chunk = _CHUNK.get(x.device.type, _CHUNK["cpu"])
    chunks = x.chunk(1 if whole else math.ceil(len(x) * cost.numbers / chunk))
    if isinstance(objective, Objective):
        objective.to(x.device)
    num_groups = min(_GROUPS, num_draws)
    sums = torch.zeros(num_groups, len(truth), dtype=torch.float64, device=truth.device)
    squares, norms, dots = torch.zeros(3, len(blocks), num_draws, dtype=torch.float64, device=truth.device)
    group = torch.arange(num_draws, device=truth.device) * num_groups // num_draws
    first, seconds = None, 0.0
    with undisturbed(vae, seed, stream), unvalidated():
        _backward(objective, vae, chunks[:1])  # which takes longer than any other
        for r in range(num_draws):
            start = _now(x.device)
            _backward(objective, vae, chunks)
            seconds += _now(x.device) - start
            g = -flat([p.grad for p in parameters], parameters) / len(x)  # (P,)
            first = g if first is None else first
            sums[r * num_groups // num_draws] += g - first
            for i, columns in enumerate(blocks.values()):
                squares[i, r] = (g - first)[columns].square().sum()
                norms[i, r] = g[columns].norm()
                dots[i, r] = g[columns] @ truth[columns]
            bar.update()
    return Draws(first, sums, group, squares, norms, dots, seconds / num_draws)


def _backward(objective: pyro.infer.ELBO, vae: nn.Module, chunks: Sequence[Tensor]) -> None:
    """Minus the gradient of the objective, summed over data, into the parameters' `.grad`."""
    vae.zero_grad()
    for chunk in chunks:
        if isinstance(objective, Objective):
            objective.step = objective.warm_up
        objective.loss_and_grads(vae.model, vae.guide, chunk)


class _Counter(Messenger):
    """Batch elements of observed sites, by name, and the most numbers at any site."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: dict[str, int] = {}
        self.numbers = 1

    def _pyro_post_sample(self, msg: dict) -> None:
        if site_is_subsample(msg):
            return
        batch, name = math.prod(msg["fn"].batch_shape), msg["name"]
        self.numbers = max(self.numbers, batch * math.prod(msg["fn"].event_shape))
        if msg["is_observed"] or msg["infer"].get("was_observed"):  # and now dreamt
            self.observed[name] = self.observed.get(name, 0) + batch


def count(objective: pyro.infer.ELBO, vae: nn.Module, x: Tensor) -> Cost:
    """Run the objective once, under Pyro's validation, and count."""
    x, objective = x.to(next(vae.parameters()).device), copy.deepcopy(objective)
    if isinstance(objective, Objective):
        objective.to(x.device)
    # From outside, where the run by which Pyro's ELBOs guess the nesting of plates is not seen.
    with undisturbed(vae), _Counter() as counter:
        _backward(objective, vae, [x])
    return Cost(max(counter.observed.values(), default=0) / len(x), counter.numbers / len(x))


@contextmanager
def undisturbed(vae: nn.Module, seed: int | None = None, purpose: str = "") -> Iterator[None]:
    """Evaluation mode with gradients; mode, gradients, Pyro's store and random state are put back as they were."""
    store = pyro.get_param_store()
    parameters = [*vae.parameters(), *(p for _, p in store.named_parameters())]
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        with (
            evaluating(vae),
            torch.enable_grad(),
            isolated(seed, purpose),
            store.scope(store.get_state()),
            ModuleParameters(at_once=False),
        ):
            yield
    finally:
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient


def flat(tensors: Iterable[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Gradients as one vector in float64, `(P,)`, with 0 for None."""
    parts = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, like, strict=True)]
    return torch.cat([t.detach().flatten().double() for t in parts])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
