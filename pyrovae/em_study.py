"""EM against fitting guide and model at once: how log p(x), which is known, rises by steps and by seconds."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate

import pyro.infer
import torch
from torch import Tensor

from pyrovae.em import em_step, variational_em
from pyrovae.exact import GaussianMixture, LinearGaussian
from pyrovae.training import History, fit

__all__ = ["em_study", "summary"]

Row = dict[str, str | int | float]


def em_study(
    start: Callable[[], GaussianMixture | LinearGaussian],
    x: Tensor,
    objective: Callable[[], pyro.infer.ELBO],
    steps: int = 2000,
    settings: Sequence[tuple[int, int]] = ((1, 1), (5, 5), (20, 20)),
    learning_rate: float = 0.01,
    seed: int = 0,
) -> list[Row]:
    """Excess max log p(x) - log p(x), over steps, of exact EM, variational EM and `fit`, each from the same start.

    A step of exact EM is an E- and an M-step in closed form; of the others one of Adam's, along the gradient of all
    data by the guide's parameters, by the model's or by both. The maximum is the greatest log p(x) that any of them
    met; where log p(x) has local maxima, they may end in different ones.

    Args:
        start: makes the model where all start, with its encoder.
        x: data, `(N, data_dim)`.
        objective: makes what variational EM and `fit` climb.
        steps: of each.
        settings: E- and M-steps in a round of variational EM, of each run.
        learning_rate: Adam's.
        seed: of the draws of z.

    Returns:
        A row for each step of exact EM and of `fit`, each round of variational EM, and each start: `method`, `step`,
        `seconds` up to it without those for telling log p(x), `log_likelihood` and `excess`, in nats per datum.

    Raises:
        ValueError: if there are no steps, or fewer than a round has.

    References:
        Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants,
        https://doi.org/10.1007/978-94-011-5014-9_12

    Example:
        >>> x = LinearGaussian(1, 3, seed=1).sample(100)
        >>> rows = em_study(partial(LinearGaussian, 1, 3), x, pyro.infer.Trace_ELBO, steps=20, settings=[(5, 5)])
        >>> [(row["method"], row["step"]) for row in rows if row["step"] == 20]
        [('exact EM', 20), ('EM, 5 + 5 steps a round', 20), ('both at once', 20)]
    """
    if steps < 1 or any(min(e, m) < 1 or e + m > steps for e, m in settings):
        raise ValueError(f"steps must be at least 1, and those of a round, not {steps} with rounds of {list(settings)}")
    runs = {  # and the steps in a row of their histories
        f"EM, {e} + {m} steps a round": (
            partial(variational_em, rounds=steps // (e + m), e_steps=e, m_steps=m, num_samples=1),
            e + m,
        )
        for e, m in settings
    }
    runs["both at once"] = partial(fit, epochs=steps, batch_size=len(x)), 1
    once = partial(fit, epochs=1, batch_size=len(x)), 1
    _climbed(start(), x, *once, objective(), learning_rate, seed)  # what is loaded at its first use counts for none
    _exact(start(), x, 1)
    curves = {"exact EM": _exact(start(), x, steps)}
    for method, run in runs.items():
        curves[method] = _climbed(start(), x, *run, objective(), learning_rate, seed)
    most = max(row["log_likelihood"] for rows in curves.values() for row in rows)
    return [
        {"method": method, **row, "excess": most - row["log_likelihood"]}
        for method, rows in curves.items()
        for row in rows
    ]


def summary(rows: Sequence[Row], within: Sequence[float] = (0.1, 0.01, 0.001)) -> list[Row]:
    """The steps and seconds after which each method first was so near to the maximum, or NaN, and its last excess.

    Args:
        rows: as `em_study` gives them.
        within: in nats per datum.

    Example:
        >>> rows = [{"method": "EM", "step": s, "seconds": 2.0 * s, "excess": 10.0**-s} for s in range(4)]
        >>> summary(rows, within=[0.05])
        [{'method': 'EM', 'steps to 0.05': 2, 'seconds to 0.05': 4.0, 'excess at the end': 0.001}]
    """
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        curve, line = [row for row in rows if row["method"] == method], {"method": method}
        for near in within:
            first = next((row for row in curve if row["excess"] <= near), {})
            line |= {f"{name} to {near:g}": first.get(key, float("nan")) for name, key in _AXES.items()}
        found.append({**line, "excess at the end": curve[-1]["excess"]})
    return found


_AXES = {"steps": "step", "seconds": "seconds"}


class _Watch:
    """Makes optimisers, after each of whose steps log p(x) is told; and the seconds that telling took."""

    def __init__(self, model: GaussianMixture | LinearGaussian, x: Tensor, learning_rate: float) -> None:
        self.model, self.x, self.learning_rate = model, x, learning_rate
        self.values, self.seconds = [], []

    def __call__(self, parameters: Iterable) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, self.learning_rate)
        optimizer.register_step_post_hook(self.tell)
        return optimizer

    @torch.no_grad()
    def tell(self, *_: object) -> None:
        """Note log p(x), and the time."""
        start = time.perf_counter()
        self.values.append(self.model.log_likelihood(self.x).mean().item())
        self.seconds.append(time.perf_counter() - start)


def _exact(model: GaussianMixture | LinearGaussian, x: Tensor, steps: int) -> list[Row]:
    watch, history = _Watch(model, x, 0.0), []
    watch.tell()
    for _ in range(steps):
        start = time.perf_counter()
        em_step(model, x)
        history.append({"seconds": time.perf_counter() - start})
        watch.tell()
    return _rows(watch.values, history, 1)


def _climbed(
    model: GaussianMixture | LinearGaussian,
    x: Tensor,
    run: Callable[..., History],
    size: int,
    objective: pyro.infer.ELBO,
    learning_rate: float,
    seed: int,
) -> list[Row]:
    """Of a run whose rows are of so many steps."""
    watch = _Watch(model, x, learning_rate)
    watch.tell()
    history = run(model.vae, x, objective=objective, optimizer=watch, seed=seed, progress=False)
    for i, row in enumerate(history):
        row["seconds"] -= sum(watch.seconds[1 + i * size : 1 + (i + 1) * size])
    return _rows(watch.values, history, size)


def _rows(values: Sequence[float], history: Sequence[Mapping[str, float]], size: int) -> list[Row]:
    """The start, and the end of each row of a history."""
    seconds = accumulate((row["seconds"] for row in history), initial=0.0)
    return [{"step": i * size, "seconds": s, "log_likelihood": values[i * size]} for i, s in enumerate(seconds)]
