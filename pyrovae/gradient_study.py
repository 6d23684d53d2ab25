"""How good is a gradient estimate? Bias, variance and signal-to-noise ratio of estimators, and what they cost.

Draws are kept as sums by groups, so memory does not grow with their number. Results, times apart, are fixed by a seed;
the model, its gradients and torch's random state are left as they were.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pyro.infer
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae.check import check
from pyrovae.evaluation import evaluating
from pyrovae.gradient import Gradient
from pyrovae.gradient_draws import Cost, Draws, Problem, count, draw_gradients, flat, undisturbed
from pyrovae.gradients import VIMCO, DReG, Enumerate, Pathwise, ScoreFunction, Wake
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.vae import VAE

__all__ = ["decoder_evaluations", "gradient_study"]

Bound = Callable[..., pyro.infer.ELBO]
Estimator = Callable[[], Gradient]

_UNBIASED = (DReG, Pathwise, Enumerate, VIMCO, Wake, ScoreFunction)  # the steadier, the earlier


def gradient_study(
    vae: VAE | nn.Module,
    x: Tensor,
    pairs: Mapping[str, tuple[Bound, Estimator | None]],
    num_particles: Sequence[int],
    num_draws: int = 1000,
    exact: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    reference_draws: int | None = None,
    blocks: Mapping[str, Iterable[nn.Parameter]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, str | int | float]]:
    """SNR = ||E g|| / sqrt(tr Cov g), bias and cost of gradient estimates g, of bounds by estimators for each K.

    g estimates the gradient of the bound's mean over the data. Averaging n draws multiplies SNR^2 by n, so that SNR^2
    for each decoder evaluation or second compares estimates of unlike cost. The truth is `exact`, or the mean of a
    reference run, by the steadiest unbiased estimator that the bound has for these sites, from draws of its own. For
    `RWS` it is the wake gradient, for `TVO` that of the bound's estimate from K draws.

    The model is studied in evaluation mode, schedules at their end, frozen parameters left out.

    Args:
        vae: a VAE, or any module with Pyro programs `model(x)` and `guide(x)`.
        x: data, `(B, *event)`.
        pairs: by name, a bound and an estimator: the objective is `bound(num_particles=K, gradient=estimator())`, or
            `bound(num_particles=K)` if the estimator is None, which lets in Pyro's own.
        num_particles: the K to study.
        num_draws: R, independent estimates g for each pair and K.
        exact: by name of a pair, a function of x whose mean over data has the true gradient, for any K.
        reference_draws: length of the reference run of pairs without `exact`, by default 4 R, 0 for none; two do where
            it is without noise. Without a truth, as for a pair without an estimator, bias and cosine are NaN.
        blocks: parameters by name of their block; of a VAE by default "generative" (prior and likelihood) and
            "inference" (encoder).
        seed: of all draws; each pair and K has a stream of its own, as has the reference run of each K.
        progress: whether to show a progress bar.

    Returns:
        A row for each pair, K and block: `pair`, `num_particles`, `block`; `gradient_norm`, of the truth, corrected for
        noise, or without one ||E g||; `bias` ||mean g - truth||, and `bias_std_error`, what it would be about if there
        were none; `variance` tr Cov g; `snr`, with an estimate of ||E g||^2 that is unbiased but for being at least 0,
        and its jackknife `snr_std_error` (NaN for R = 2); `cosine` of g to the truth, the mean over draws, and
        `cosine_std_error`; `decoder_evaluations` for each datum and `seconds` for all data, of one g;
        `snr2_per_decoder_evaluation`, `snr2_per_second`; `num_draws`; `reference_draws`, 0 if exact.

    Raises:
        ValueError: if there is nothing to study, or arguments do not fit together, or the data do not fit the model.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        https://arxiv.org/abs/1802.04537
        Tucker et al. (2019), Doubly reparameterized gradient estimators, https://arxiv.org/abs/1810.04152

    Example:
        >>> from pyrovae import exact, gradients, objectives
        >>> model = exact.LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(16)
        >>> pairs = {"IWAE": (objectives.IWAE, gradients.Pathwise), "DReG": (objectives.IWAE, gradients.DReG)}
        >>> rows = gradient_study(model.vae, x, pairs, num_particles=[16], num_draws=20, progress=False)
        >>> for row in rows:
        ...     print(row["pair"], row["block"], round(row["snr"], 1))
        IWAE generative 4.0
        IWAE inference 3.5
        DReG generative 5.6
        DReG inference 4.3
    """
    exact = exact or {}
    reference_draws = 4 * num_draws if reference_draws is None else reference_draws
    _check_arguments(pairs, num_particles, num_draws, exact, reference_draws)
    problem = _problem(vae, x, blocks)
    rows, references = [], {}
    with tqdm(total=num_draws * len(pairs) * len(num_particles), disable=not progress, dynamic_ncols=True) as bar:
        objectives = {(name, k): _build(*pairs[name], k) for name in pairs for k in num_particles}  # refused at once
        costs = {key: count(objective, vae, problem.x[:2]) for key, objective in objectives.items()}
        for (name, k), objective in objectives.items():
            bound, estimator = pairs[name]
            key = repr(bound), k  # of `partial(CIWAE, 0.05)` too, two of which are not equal
            if name in exact:
                truth = _exact_truth(problem, exact[name])
            elif estimator is None or reference_draws == 0:
                truth = _no_truth(problem)
            else:
                if key not in references:
                    references[key] = _reference(problem, bound, k, reference_draws, seed, bar)
                truth = references[key]
            bar.set_description(f"{name}, K = {k}")
            stream = f"gradient study of {name}, K = {k}"
            draws = draw_gradients(problem, objective, costs[name, k], num_draws, truth.gradient, seed, stream, bar)
            for block, columns in problem.blocks.items():
                row = {"pair": name, "num_particles": k, "block": block}
                rows.append(row | _statistics(draws, truth, block, columns, costs[name, k]))
    return rows


def decoder_evaluations(objective: pyro.infer.ELBO, vae: VAE | nn.Module, x: Tensor) -> float:
    """How often p(x | z) is evaluated for each datum in one gradient estimate, counted while the objective runs.

    Model, gradients, objective and random state are left as they were. A draw of x from the model, as in a sleep
    update, counts as an evaluation, too.

    Args:
        objective: any `pyro.infer.ELBO`, ours included.
        vae: a VAE, or any module with Pyro programs `model(x)` and `guide(x)`.
        x: data, `(B, *event)`.

    Example:
        >>> from pyrovae import exact, gradients, objectives
        >>> model = exact.BernoulliToy(latent_dim=4)
        >>> decoder_evaluations(objectives.ELBO(gradient=gradients.Enumerate()), model.vae, model.sample(3))
        16.0
    """
    return count(objective, vae, x).evaluations


class _Truth(NamedTuple):
    """The gradient that estimates are to meet."""

    gradient: Tensor  # (P,)
    norm: dict[str, float]  # by block
    squared_error: dict[str, float]  # E||gradient - its mean||^2, by block
    num_draws: int


def _exact_truth(problem: Problem, function: Callable[[Tensor], Tensor]) -> _Truth:
    with undisturbed(problem.vae):
        gradients = torch.autograd.grad(function(problem.x).mean(), problem.parameters, allow_unused=True)
    gradient = flat(gradients, problem.parameters)
    norm = {block: gradient[columns].norm().item() for block, columns in problem.blocks.items()}
    return _Truth(gradient, norm, dict.fromkeys(problem.blocks, 0.0), 0)


def _no_truth(problem: Problem) -> _Truth:
    nothing = dict.fromkeys(problem.blocks, math.nan)
    return _Truth(torch.full_like(flat(problem.parameters, problem.parameters), math.nan), nothing, nothing, 0)


def _reference(problem: Problem, bound: Bound, k: int, num_draws: int, seed: int, bar: tqdm) -> _Truth:
    """The mean gradient by the first unbiased estimator that works for the bound and the programs' sites."""
    listed, total = getattr(bound(num_particles=k), "estimators", ()), bar.total
    zero = torch.zeros_like(flat(problem.parameters, problem.parameters))
    bar.set_description(f"reference for K = {k}")
    for estimator in (e for e in _UNBIASED if e in listed):
        try:
            objective = _build(bound, estimator, k)
            cost = count(objective, problem.vae, problem.x[:2])
            n = 2 if estimator is Enumerate and _all_discrete(problem, objective) else num_draws
            bar.total = total + n
            draws = draw_gradients(problem, objective, cost, n, zero, seed, f"gradient study's reference, K = {k}", bar)
        except ValueError:  # of this estimator, which the sites, a mask or K do not suit
            continue
        moments = {b: draws.moments(i, columns) for i, (b, columns) in enumerate(problem.blocks.items())}
        gradient = draws.first + draws.sums.sum(0) / n
        norm = {b: power.sqrt().item() for b, (_, power, _) in moments.items()}
        return _Truth(gradient, norm, {b: variance.item() / n for b, (*_, variance) in moments.items()}, n)
    bar.total = total
    return _no_truth(problem)


def _all_discrete(problem: Problem, objective: Objective) -> bool:
    """Whether no latent site has a continuous draw, so that enumeration leaves no noise."""
    with undisturbed(problem.vae):
        densities = objective.densities(problem.vae.model, problem.vae.guide, problem.x[:1])
    return all(site["infer"].get("enumerated") for site in densities.q.values())


def _statistics(draws: Draws, truth: _Truth, block: str, columns: slice, cost: Cost) -> dict[str, int | float]:
    """What a row says of a block."""
    index, num_draws = list(truth.norm).index(block), len(draws.group)
    mean, power, variance = draws.moments(index, columns)
    snr, snr_std_error = (t.item() for t in draws.snr(index, columns))
    cosine = draws.dots[index] / draws.norms[index] / truth.gradient[columns].norm()  # (R,)
    return {
        "gradient_norm": power.sqrt().item() if math.isnan(truth.norm[block]) else truth.norm[block],
        "bias": (mean - truth.gradient[columns]).norm().item(),
        "bias_std_error": math.sqrt(variance.item() / num_draws + truth.squared_error[block]),
        "variance": variance.item(),
        "snr": snr,
        "snr_std_error": snr_std_error,
        "cosine": cosine.mean().item(),
        "cosine_std_error": cosine.std().item() / math.sqrt(num_draws),
        "decoder_evaluations": cost.evaluations,
        "seconds": draws.seconds,
        "snr2_per_decoder_evaluation": snr**2 / cost.evaluations,
        "snr2_per_second": snr**2 / draws.seconds,
        "num_draws": num_draws,
        "reference_draws": truth.num_draws,
    }


def _build(bound: Bound, estimator: Estimator | None, k: int) -> pyro.infer.ELBO:
    """An objective that shares no state, as of a baseline, with any other."""
    return copy.deepcopy(bound(num_particles=k, **({} if estimator is None else {"gradient": estimator()})))


def _problem(vae: nn.Module, x: Tensor, blocks: Mapping[str, Iterable[nn.Parameter]] | None) -> Problem:
    """The data on the model's device, and the parameters that are trained, block after block."""
    if blocks is None:
        if isinstance(vae, Model):
            inference = vae.guide_parameters()
        elif isinstance(encoder := getattr(vae, "encoder", None), nn.Module):
            inference = list(encoder.parameters())
        else:
            raise ValueError(f"{type(vae).__name__} has no encoder to tell its blocks of parameters by: give blocks")
        held = set(inference)
        both = {"generative": [p for p in vae.parameters() if p not in held], "inference": inference}
        blocks = {name: block for name, block in both.items() if any(p.requires_grad for p in block)}
    own = {p: p.requires_grad for p in vae.parameters()}
    parameters, slices = [], {}
    for name, block in blocks.items():
        block = list(block)
        if any(p not in own for p in block):
            raise ValueError(f"block '{name}' has a parameter that the {type(vae).__name__} does not have")
        start, trained = sum(p.numel() for p in parameters), [p for p in block if own[p]]
        if not trained:
            raise ValueError(f"block '{name}' has no parameter that is trained")
        parameters += trained
        slices[name] = slice(start, start + sum(p.numel() for p in trained))
    if not slices:
        raise ValueError(f"the {type(vae).__name__} has no parameter that is trained")
    if not len(x):
        raise ValueError("x must have at least one datum")
    if hasattr(vae, "check"):
        vae.check(x)
    x = x.to(parameters[0].device)
    with evaluating(vae):
        check(vae.model, vae.guide, x[:2])
    return Problem(vae, x, parameters, slices)


def _check_arguments(
    pairs: Mapping, num_particles: Sequence[int], num_draws: int, exact: Mapping, reference_draws: int
) -> None:
    if not pairs or not num_particles:
        raise ValueError("give at least one pair of a bound and an estimator, and at least one num_particles")
    if num_draws < 2:
        raise ValueError(f"num_draws must be at least 2, as one draw has no variance, not {num_draws}")
    if reference_draws < 0 or reference_draws == 1:
        raise ValueError(f"reference_draws must be 0 or at least 2, not {reference_draws}")
    if unknown := [name for name in exact if name not in pairs]:
        raise ValueError(f"exact names '{unknown[0]}', which is not among the pairs: {', '.join(pairs)}")
