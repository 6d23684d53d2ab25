"""Impute: what is hidden of test data is filled in, and scored against simpler ways to fill it in."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro.distributions import constraints
from torch import Tensor

from pyrovae.application_plots import imputation as plots
from pyrovae.applications.filling import Filling, column_means, nearest_neighbours
from pyrovae.applications.imputation import Imputations, importance_resampling, log_score
from pyrovae.applications.pseudo_gibbs import pseudo_gibbs
from pyrovae.arguments import whole
from pyrovae.columns import columns
from pyrovae.family_plots import montage
from pyrovae.incomplete_vae import IncompleteVAE
from pyrovae.paired import difference
from pyrovae.runs import Run
from pyrovae.tasks.hiding import Hide, hidden, known_values
from pyrovae.tasks.some import are_images
from pyrovae.tasks.task import Result

__all__ = ["impute"]

_LEVEL = 0.9  # of the intervals of values
_FEW = 20  # effective draws


def impute(
    run: Run,
    hide: Hide | None = None,
    fraction: float = 0.5,
    fields: Sequence[int] = (),
    num_data: int = 300,
    num_samples: int = 1000,
    num_imputations: int = 100,
    chain: bool = False,
    seed: int = 0,
) -> Result:
    """Hide part of each test datum, and fill it in: by the model, by column means, and by nearest neighbours.

    Args:
        run: the run.
        hide: the half of an image that is hidden, or random elements; none where the data have missing values of their
            own, which are then filled in. By default the lower half of an image, else random elements.
        fraction: of the elements that are hidden at random.
        fields: columns of a table that are hidden, from 0, in place of random ones.
        num_data: how many test data.
        num_samples: K, draws of z for each datum.
        num_imputations: S, of each datum.
        chain: whether they are the last S of 2 S steps of Metropolis within Gibbs, in place of importance resampling.
        seed: of what is hidden, and of all draws.
    """
    whole("the number of test data", min(num_data, len(columns(run.dataset.test)[0])), 2)
    whole("num_imputations", num_imputations, 2)
    x, known = (t[:num_data].cpu() for t in known_values(run, "test"))
    hide = hide or ("bottom" if x.dim() == 4 else "random")
    shown = known & ~hidden(x, hide, fraction, fields, seed)
    if shown.all():
        raise ValueError("nothing is hidden, and nothing is missing in the data: leave out hide, or choose another")
    found = importance_resampling(run.vae, x, shown, num_imputations, num_samples, seed=seed)
    found = Imputations(*(t.cpu() for t in found[:3]), found.log_likelihood)
    ess = found.log_likelihood.ess
    numbers = {
        "hide": "fields" if fields else hide,
        "missing_per_datum": (~shown).double().flatten(1).sum(1).mean().item(),
        "num_data": len(x),
        "num_samples": num_samples,
        "seed": seed,
        "ess": ess.double().mean().item(),
        "ess_least": ess.min().item(),
    }
    told = [f"{numbers['missing_per_datum']:.1f} of {x[0].numel()} values of each of {len(x)} test data are missing"]
    if chain:
        steps = pseudo_gibbs(run.vae, x, shown, 2 * num_imputations, seed=seed)
        draws = steps.x[num_imputations:].cpu()
        found = found._replace(x=draws, mean=draws.mean(0), std=draws.std(0))
        numbers["accepted"] = steps.accepted.mean().item()
        told.append(f"filled in by a chain, of whose z {numbers['accepted']:.0%} were accepted")
    scored, fillings = known & ~shown, {}
    if scored.any():
        binary = run.vae.likelihood.support is constraints.boolean
        fillings = _fillings(run, binary, (x, shown), hide, fraction, fields, seed)
        numbers |= _scores(run, x, shown, scored, found, fillings, num_samples, seed)
        told += _told(numbers, fillings)
    told.append(f"effective draws of {num_samples}: {numbers['ess']:.0f} on average, {numbers['ess_least']:.1f} least")
    if numbers["ess"] < _FEW:
        told.append("of so few the numbers are not to be trusted: take more by num_samples, or fill in by chain")
    arrays = {"x": x.where(known, torch.nan), "observed": shown, "mean": found.mean, "std": found.std, "draws": found.x}
    files = {"imputations.npz": partial(np.savez_compressed, **{name: t.numpy() for name, t in arrays.items()})}
    if are_images(x):
        files["imputations.png"] = _images(x, known, shown, found, fillings).savefig
    elif scored.any() and "coverage" in numbers:
        files["imputations.png"] = _table(x, scored, found, fillings, numbers["coverage"]).savefig
    return Result(numbers, "\n".join(told), files)


def _fillings(
    run: Run,
    binary: bool,
    test: tuple[Tensor, Tensor],
    hide: Hide,
    fraction: float,
    fields: Sequence[int],
    seed: int,
) -> dict[str, Filling]:
    """The baselines, of the training data as the model sees them; validation data of which as much is hidden choose."""
    train, *seen = (t[:10_000].as_subclass(Tensor) for t in columns(run.dataset.train))
    train = train.where(seen[0], torch.nan) if isinstance(run.vae, IncompleteVAE) else train
    x_v, known_v = (t[: len(test[0])] for t in known_values(run, "valid"))
    hidden_v = hidden(x_v, hide, fraction, fields, seed + 1)
    valid = x_v.where(known_v & ~hidden_v, torch.nan), x_v.where(known_v & hidden_v, torch.nan)
    shown = test[0].where(test[1], torch.nan)
    near = partial(nearest_neighbours, train, valid, shown, binary)
    return {"column_means": column_means(train, shown, binary), "nearest": near((1,)), "nearest_k": near()}


def _scores(
    run: Run,
    x: Tensor,
    shown: Tensor,
    scored: Tensor,
    found: Imputations,
    fillings: dict[str, Filling],
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Squared error and log score of the elements that are scored, sums over each datum, and paired differences."""

    def squared_error(mean: Tensor) -> Tensor:
        return torch.where(scored, mean - x, 0.0).square().flatten(1).sum(1)

    support = run.vae.likelihood.support
    values = {"squared_error": {"model": squared_error(found.mean)}}
    values["squared_error"] |= {name: squared_error(f.loc) for name, f in fillings.items()}
    numbers: dict[str, Any] = {"nearest_k_is": fillings["nearest_k"].name}
    score = log_score(run.vae, x, shown, scored, num_samples, seed=seed)
    values["log_score"] = {"model": score.value.cpu()}
    numbers["log_score_monte_carlo_error"] = score.std_error.square().sum().sqrt().item() / len(x)
    numbers |= {"log_score_bias": score.bias.mean().item(), "log_score_ess_least": score.ess.min().item()}
    if support is constraints.boolean or not support.is_discrete:  # else a density is no probability
        values["log_score"] |= {name: f.log_score(x, scored) for name, f in fillings.items()}
    if not support.is_discrete:
        low, high = _interval(found.x)
        numbers["coverage"] = ((low <= x) & (x <= high))[scored].double().mean().item()
    for quantity, by_name in values.items():
        for name, value in by_name.items():
            value = value.double()
            prefix = quantity if name == "model" else f"{name}_{quantity}"
            numbers |= {prefix: value.mean().item(), f"{prefix}_std_error": (value.std() / len(x) ** 0.5).item()}
            if name != "model":
                d = difference(by_name["model"][None], value[None])
                ends = {"": d.value, "_low": d.low, "_high": d.high}
                numbers |= {f"{quantity}_minus_{name}{end}": number for end, number in ends.items()}
    return numbers


def _interval(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the interval that holds a share of the imputations."""
    return draws.quantile((1 - _LEVEL) / 2, 0), draws.quantile((1 + _LEVEL) / 2, 0)


def _told(numbers: dict[str, Any], fillings: dict[str, Filling]) -> list[str]:
    lines = [
        f"log p(x_mis | x_obs) {numbers['log_score']:.3f} nats (Monte Carlo error "
        f"{numbers['log_score_monte_carlo_error']:.3f}), squared error {numbers['squared_error']:.3f}"
    ]
    for name, filling in fillings.items():
        parts = [
            f"{words} by {numbers[key]:.3f} [{numbers[f'{key}_low']:.3f}, {numbers[f'{key}_high']:.3f}]"
            for quantity, words in (("log_score", "log score differs"), ("squared_error", "squared error"))
            if (key := f"{quantity}_minus_{name}") in numbers
        ]
        lines.append(f"against {filling.name}: {', '.join(parts)}")
    if "coverage" in numbers:
        lines.append(f"{_LEVEL:.0%} intervals hold {numbers['coverage']:.1%} of the hidden values")
    return lines


def _images(x: Tensor, known: Tensor, shown: Tensor, found: Imputations, fillings: dict[str, Filling]) -> Figure:
    n = min(12, len(x))
    x, known, shown = x[:n], known[:n], shown[:n]
    rows = {"data": plots.hidden(x, known), "observed": plots.hidden(x, shown)}
    rows["mean E[x | x_obs]"] = plots.tinted(found.mean[:n], shown)
    apart = found.x[:: -(-len(found.x) // 4), :n]  # as neighbours in a chain are alike
    rows |= {f"sample {s}": plots.tinted(draw, shown) for s, draw in enumerate(apart, 1)}
    rows[f"std. dev. (black: {found.std[:n].mean(1).max():.2f})"] = plots.spread(found.std[:n])
    rows |= {f"{f.name}": plots.tinted(x.where(shown, f.loc[:n]), shown) for f in fillings.values()}
    return montage(rows, "What is hidden (orange), and what is filled in (blue)")


def _table(x: Tensor, scored: Tensor, found: Imputations, fillings: dict[str, Filling], coverage: float) -> Figure:
    some = scored & (scored.flatten().cumsum(0).reshape(scored.shape) <= 150)  # the first of them
    low, high = _interval(found.x)
    title = f"mean of p(x_mis | x_obs)\n{_LEVEL:.0%} intervals hold {coverage:.1%}"
    baselines = {f.name: f.loc[some] for f in fillings.values()}
    return plots.against_truth(*(t[some] for t in (x, found.mean, low, high)), baselines, title)
