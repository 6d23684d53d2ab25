"""Uncertainty: what is left open about x and z given a datum, and whether regions hold what they say."""

import torch
from torch import Tensor

from pyrovae import evaluation
from pyrovae.application_plots import uncertainty as plots
from pyrovae.applications.posterior_regions import posterior_regions
from pyrovae.applications.uncertainty import LEVELS, Coverage, predictive, predictive_coverage, region_coverage
from pyrovae.arguments import whole
from pyrovae.one_vector import require_one_vector
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images
from pyrovae.tasks.subset import subset
from pyrovae.tasks.task import Result

__all__ = ["uncertainty"]

_SHOWN = 12  # data of a figure
_REGIONS = 24  # data whose true posterior is computed, where z has one or two dimensions


def uncertainty(run: Run, num_samples: int = 100, seed: int = 0) -> Result:
    """Tell what q(z | x) and p(x | z) leave open, and check both against data.

    Args:
        run: the run.
        num_samples: draws for each datum for log p(x) - L(x), by which the data of the worst q(z | x) are found.
        seed: of all draws.
    """
    require_one_vector(run.vae, run.dataset.test, "uncertainty")
    vae, x = run.vae, subset(run, "test", 300, seed).x
    whole("the number of test data", len(x), 2)
    of_z = region_coverage(vae, seed=seed)
    of_x = predictive_coverage(vae, x, seed=seed)
    bound, evidence = evaluation.scores(vae, x, num_samples, seed)
    gap = (evidence.value - bound.value).cpu()  # KL(q(z | x) || p(z | x)), nearly
    if gap.isnan().any():
        raise ValueError(f"{type(vae).__name__} has no L(x), by which q(z | x) could be judged: take a run of a VAE")
    worst = gap.argsort(descending=True)
    moments = predictive(vae, x, seed=seed)
    shares = {"true z in regions of q(z | x), x from the model": of_z, "test x in intervals of p(x′ | x)": of_x}
    numbers = {
        "between": moments.between.flatten(1).sum(1).mean().item(),
        "within": moments.within.flatten(1).sum(1).mean().item(),
        "gap": gap.mean().item(),
        "largest_gap": gap.max().item(),
    }
    total = numbers["between"] + numbers["within"]
    sentences = [
        f"Var[x'] is {total:.3f} a datum: {numbers['between'] / total:.1%} of what q(z | x) leaves open, the rest of "
        f"p(x | z) itself",
        f"log p(x) - L(x) is {numbers['gap']:.2f} nats, at most {numbers['largest_gap']:.2f}",
    ]
    figure = plots.images if are_images(x) else plots.elements
    of_data = {"first": torch.arange(len(x)), "worst": worst}
    files = {
        f"predictive_{name}.png": figure(*(t[i[:_SHOWN]].cpu() for t in (x, *moments)), _TITLES[name]).savefig
        for name, i in of_data.items()
    }
    chosen = torch.cat([torch.arange(min(_REGIONS, len(x))), worst[:4]])
    try:
        found = posterior_regions(vae, x[chosen], LEVELS)
    except ValueError as error:
        sentences.append(f"no true posteriors: {error}")
        found = []
    fit = [i for i, region in enumerate(found) if region]
    if found and len(fit) < len(found):
        sentences.append(f"no grid is fit for the true posterior of {len(found) - len(fit)} of {len(found)} data")
    mass = [found[i].mass for i in fit if i < _REGIONS]
    if len(mass) > 1:
        shares["p(z | x) in regions of q(z | x), test x"] = _mean_coverage(torch.stack(mass))
    if drawn := [i for i in fit if i < 4 or i >= len(chosen) - 4]:
        kl = [(found[i].log_likelihood - bound.value[chosen[i]].cpu()).clamp(min=0).item() for i in drawn]
        told = [
            f"{'worst q: ' if i >= len(chosen) - 4 else ''}KL {nats:.1f} nats\n{found[i].mass[-1]:.0%} in q's 95 %"
            for i, nats in zip(drawn, kl, strict=True)
        ]
        panels = [(found[i].nodes, found[i].truth, found[i].guide) for i in drawn]
        files["posteriors.png"] = plots.regions(panels, told, x[chosen[drawn]].cpu() if are_images(x) else None).savefig
    for (name, of), key in zip(shares.items(), ("z", "x", "posterior"), strict=False):
        for level in (0.5, 0.8, 0.95):
            i = LEVELS.index(level)
            share, low, high = (t[i].item() for t in (of.share, of.low, of.high))
            numbers |= {f"{key}_{level:.0%}": share, f"{key}_{level:.0%}_low": low, f"{key}_{level:.0%}_high": high}
        told = ", ".join(f"{numbers[f'{key}_{level:.0%}']:.1%} in {level:.0%}" for level in (0.5, 0.8, 0.95))
        sentences.append(f"{name}: {told}")
    files["coverage.png"] = plots.coverages(shares).savefig
    return Result(numbers, "\n".join(sentences), files)


def _mean_coverage(mass: Tensor) -> Coverage:
    """The mean of masses of single data, `(N, C)`."""
    error = 1.96 * mass.std(0) / len(mass) ** 0.5
    return Coverage(torch.tensor(LEVELS), mass.mean(0), mass.mean(0) - error, mass.mean(0) + error)


_TITLES = {
    "first": "What q(z | x) leaves open about x, and what p(x | z) does",
    "worst": "What they leave open about the test data with the largest log p(x) - L(x)",
}
