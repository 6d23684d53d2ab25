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
from pyrovae.columns import Data, arguments, arity, columns
from pyrovae.exact import GaussianMixture, LinearGaussian
from pyrovae.model import Model
from pyrovae.objective import Objective
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
        objective: any `pyro.infer.ELBO`; by default `objectives.ELBO()`. Its schedules start anew, and count both
            kinds of steps.
        optimizer: makes a `torch.optim` optimiser of parameters, one for the guide and one for the model.
        num_samples: draws for each datum by which the ELBO of a row is told, with the same noise in all rows.
        seed: of everything random.
        progress: whether to show a progress bar.

    Returns:
        A row for each round: `elbo_e`, the ELBO after E (None by batches), and `elbo`, after M, in nats per datum;
        `e_steps` and `m_steps` taken, of all batches; `seconds` of the steps.

    Raises:
        ValueError: if a number is out of range, data have no density, or guide or model has nothing to fit.
        FloatingPointError: if log p(x | z) is not finite after a round.

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
    vae.check(*arguments(vae, x))
    objective = ELBO() if objective is None else objective
    size, device = batch_size or len(columns(x)[0]), next(vae.parameters()).device
    if isinstance(objective, Objective):
        objective.to(device).step = 0
    guide, model = _parts(vae)
    e, m = (_Phase(vae, *parts, optimizer, objective) for parts in ((guide, model), (model, guide)))
    batches = Batches(x, size, batch_size is not None, seed, device, arity(vae))
    told = partial(_elbo, vae, x, num_samples, seed)
    history = History()
    vae.train()
    with isolated(seed), frozen_on_purpose(), tqdm(total=rounds, disable=not progress, dynamic_ncols=True) as bar:
        for number in range(1, rounds + 1):
            e.begin()
            m.begin()
            for batch in batches:
                e.climb(batch, e_steps, tolerance)
                elbo_e = told() if batch_size is None else None
                m.climb(batch, m_steps)
            taken = {"e_steps": e.steps, "m_steps": m.steps, "seconds": e.seconds + m.seconds}
            history.append({"round": number, "elbo_e": elbo_e, "elbo": told(), **taken})
            bar.update()
    vae.eval()
    return history


def em_step(model: GaussianMixture | LinearGaussian, x: Tensor) -> None:
    """One step of exact EM: the model's parameters maximise E_p(z|x)[log p(x, z)], of the posterior that they had.

    In place; log p(x) never falls. The equations are those of the model's own `em_step`. The encoder is left as it is.

    Args:
        model: probabilistic PCA, or a Gaussian mixture.
        x: data, `(N, data_dim)`.

    Raises:
        ValueError: if data have no density, or a component of a mixture is left without any.

    References:
        Dempster et al. (1977), Maximum likelihood from incomplete data via the EM algorithm,
        https://doi.org/10.1111/j.2517-6161.1977.tb01600.x

    Example:
        >>> model, x = LinearGaussian(), LinearGaussian(seed=1).sample(200)
        >>> before = model.log_likelihood(x).sum()
        >>> em_step(model, x)
        >>> bool(model.log_likelihood(x).sum() > before)
        True
    """
    model.em_step(x)


class _Phase:
    """Steps along the free parameters, of the guide or of the model, while the other's are fixed."""

    def __init__(
        self,
        vae: Model,
        free: list[nn.Parameter],
        fixed: list[nn.Parameter],
        optimizer: Callable[[Iterable], torch.optim.Optimizer],
        objective: pyro.infer.ELBO,
    ) -> None:
        self.svi = SVI(vae.model, vae.guide, optimizer(free), objective)
        self.fixed = fixed

    def begin(self) -> None:
        """Begin a round."""
        self.steps, self.seconds = 0, 0.0

    def climb(self, batch: tuple[Tensor, ...], steps: int, tolerance: float | None = None) -> None:
        """Take steps until the mean loss of the last tenth of them gained less than the tolerance, per datum."""
        start, window, losses = time.perf_counter(), max(steps // 10, 1), []
        with _fixed(self.fixed):
            while len(losses) < steps and not _stalls(losses, window, tolerance, len(batch[0])):
                losses.append(self.svi.update(*batch)[0])
        self.steps += len(losses)
        self.seconds += time.perf_counter() - start


def _stalls(losses: list[Tensor | float], window: int, tolerance: float | None, size: int) -> bool:
    """Whether the last window of losses, of so many data, gained less than the tolerance over the one before it."""
    if tolerance is None or len(losses) < 2 * window or len(losses) % window:
        return False
    before, after = (sum(part) / window for part in (losses[-2 * window : -window], losses[-window:]))
    return float(before - after) < tolerance * size


def _parts(vae: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of the guide, and those of the model, that are not frozen."""
    ours = {id(p) for p in vae.guide_parameters()}
    free = [p for p in vae.parameters() if p.requires_grad]
    parts = [p for p in free if id(p) in ours], [p for p in free if id(p) not in ours]
    for name, part in zip(("guide", "model"), parts, strict=True):
        if not part:
            raise ValueError(f"the {name} has no parameter that requires a gradient: use fit, which needs no two parts")
    return parts


def _elbo(vae: Model, x: Data, num_samples: int, seed: int) -> float:
    """The mean ELBO of data."""
    bound = evaluation.elbo(vae, x, num_samples, seed)
    if not bound.reconstruction.isfinite().all():
        raise FloatingPointError(
            "log p(x | z) is not finite after a round: try a smaller learning rate, and look for extreme values in the "
            "data"
        )
    return bound.value.double().mean().item()


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
