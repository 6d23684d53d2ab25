"""Expectation maximisation: the guide and the model are fitted in turn, not at once."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import pyro.infer
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae import evaluation
from pyrovae.batches import Batches
from pyrovae.columns import Data, arity, columns
from pyrovae.exact import LinearGaussian, _set_scale
from pyrovae.model import Model
from pyrovae.objectives import ELBO
from pyrovae.rng import isolated
from pyrovae.svi import SVI
from pyrovae.training import History, frozen_on_purpose

__all__ = ["em_step", "variational_em"]


def variational_em(
    vae: Model,
    x: Data,
    rounds: int = 50,
    e_steps: int = 20,
    m_steps: int = 20,
    tolerance: float | None = None,
    batch_size: int | None = None,
    objective: pyro.infer.ELBO | None = None,
    optimizer: Callable[[Iterable], torch.optim.Optimizer] = partial(torch.optim.Adam, lr=1e-2),  # noqa: B008
    num_samples: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """In turn: E, the guide climbs L(x) at a fixed model; M, the model climbs it at a fixed guide.

    E-steps make L(x) rise towards log p(x), which stays; M-steps make L(x) rise. Where q(z | x) can be p(z | x) and
    E-steps reach it, this is the EM algorithm: then L(x) = log p(x) before the M-steps, so that log p(x) rises by at
    least as much and never falls, but for noise. Where a gap is left, log p(x) may fall while L(x) rises, the gap
    closing. Fitting both at once (`fit`) is much like one step each.

    Args:
        vae: the model, changed in place; `guide_parameters` are the guide's, all others the model's.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take.
        rounds: of E and M.
        e_steps: steps of the guide in a round, at most.
        m_steps: steps of the model in a round.
        tolerance: in nats a datum: E-steps of a round end when the last tenth of them gained less; unless given, all
            are taken.
        batch_size: data in a step; a round is one pass, with E- and M-steps for each batch. Unless given, all data.
        objective: any `pyro.infer.ELBO`; by default `objectives.ELBO()`.
        optimizer: makes a `torch.optim` optimiser of parameters, one for the guide and one for the model.
        num_samples: draws for each datum by which the ELBO of a row is told, with the same noise in all rows.
        seed: of everything random.
        progress: whether to show a progress bar.

    Returns:
        A row for each round: `elbo_e`, the ELBO after E (None by batches), and `elbo`, after M, in nats per datum;
        `e_steps` taken; `seconds`.

    Raises:
        ValueError: if a number is out of range, or data have no density.

    References:
        Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants,
        https://doi.org/10.1007/978-94-011-5014-9_12

    Example:
        >>> model = LinearGaussian(latent_dim=1, data_dim=3)
        >>> x = model.sample(100)
        >>> history = variational_em(LinearGaussian(latent_dim=1, data_dim=3, seed=1).vae, x, rounds=5, progress=False)
        >>> history["elbo"][-1] > history["elbo"][0]
        True
    """
    if min(rounds, e_steps, m_steps, num_samples) < 1 or (tolerance is not None and not tolerance > 0):
        raise ValueError(
            f"rounds, steps and samples must be at least 1 and tolerance positive, not {rounds}, {e_steps}, {m_steps}, "
            f"{num_samples} and {tolerance}"
        )
    vae.check(*columns(x))
    objective = ELBO() if objective is None else objective
    guide = [p for p in vae.guide_parameters() if p.requires_grad]
    ours = {id(p) for p in guide}
    model = [p for p in vae.parameters() if p.requires_grad and id(p) not in ours]
    batches = Batches(
        x, batch_size or len(columns(x)[0]), batch_size is not None, seed, next(vae.parameters()).device, arity(vae)
    )
    e, m = (SVI(vae.model, vae.guide, optimizer(parameters), objective) for parameters in (guide, model))

    def told() -> float:
        return evaluation.elbo(vae, x, num_samples, seed).value.double().mean().item()

    history = History()
    bar = tqdm(total=rounds, disable=not progress, dynamic_ncols=True)
    with isolated(seed), frozen_on_purpose(), bar:
        for number in range(1, rounds + 1):
            start, taken = time.perf_counter(), 0
            vae.train()
            for batch in batches:
                with _fixed(model):
                    taken += _climb(e, batch, e_steps, tolerance)
                elbo_e = told() if batch_size is None else None
                with _fixed(guide):
                    _climb(m, batch, m_steps, None)
            row = {"round": number, "elbo_e": elbo_e, "elbo": told(), "e_steps": taken}
            history.append({**row, "seconds": time.perf_counter() - start})
            bar.update()
    vae.eval()
    return history


def _climb(svi: SVI, batch: tuple[Tensor, ...], steps: int, tolerance: float | None) -> int:
    """Take steps until the mean loss of the last tenth of them gained less than the tolerance; how many were taken."""
    window, losses = max(steps // 10, 1), []
    for step in range(1, steps + 1):
        losses.append(svi.update(*batch)[0])
        if tolerance is not None and step >= 2 * window and step % window == 0:
            before, after = (torch.stack(part).mean() for part in (losses[-2 * window : -window], losses[-window:]))
            if (before - after).item() < tolerance * len(batch[0]):
                return step
    return steps


@contextmanager
def _fixed(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Without gradients of these parameters."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_()


@torch.no_grad()
def em_step(model: LinearGaussian, x: Tensor) -> None:
    """One step of exact EM: W, b and s maximise E_p(z|x)[log p(x, z)], of the posterior that they had; in place.

    With u = (z, 1): (W, b) = sum_n x_n E[u]' (sum_n E[u u'])^-1, s^2 = 1 / (N d) sum_n E|x_n - (W, b) u|^2.
    The encoder is left as it is.

    Args:
        model: probabilistic PCA.
        x: data, `(N, data_dim)`.

    References:
        Tipping and Bishop (1999), Probabilistic principal component analysis, appendix B,
        https://doi.org/10.1111/1467-9868.00196

    Example:
        >>> model, x = LinearGaussian(), LinearGaussian(seed=1).sample(200)
        >>> before = model.log_likelihood(x).sum()
        >>> em_step(model, x)
        >>> bool(model.log_likelihood(x).sum() > before)
        True
    """
    p = model.posterior(x)
    n, d = x.shape
    u = torch.cat([p.mean, x.new_ones(n, 1)], 1)  # (N, D + 1)
    moments = u.T @ u  # sum_n E[u u']
    moments[:-1, :-1] += p.covariance_matrix.expand(n, -1, -1).sum(0)
    both = torch.linalg.solve(moments, u.T @ x).T  # (W, b), (d, D + 1)
    squares = (x.square().sum() - 2 * (x * (u @ both.T)).sum() + (both @ moments * both).sum()) / (n * d)
    model.weight.copy_(both[:, :-1])
    model.bias.copy_(both[:, -1])
    _set_scale(model.vae, squares.sqrt().item())
