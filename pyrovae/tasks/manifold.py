"""Manifold: the surface that data lie near, its map, and what is made of the map again."""

import torch
from torch import Tensor

from pyrovae.application_plots.manifold import Panel
from pyrovae.application_plots.manifold import manifold as plot
from pyrovae.applications.latent_map import plane
from pyrovae.applications.manifold import by_components, by_model, told
from pyrovae.arguments import whole
from pyrovae.diagnostics import replicate
from pyrovae.evaluation import evaluating
from pyrovae.one_vector import require_one_vector
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.tasks.subset import subset
from pyrovae.tasks.task import Result

__all__ = ["manifold"]


def manifold(run: Run, seed: int = 0) -> Result:
    """Unroll the surface that data lie near, and roll it up again, beside principal components.

    Data of more than three numbers are shown along their first three principal components.

    Args:
        run: the run.
        seed: of what is drawn at random: the data, where there are many, and samples.
    """
    require_one_vector(run.vae, run.dataset.test, "a manifold")
    if (size := run.dataset.test[0].numel()) < 3:
        raise ValueError(f"a surface is shown in three dimensions, and data of this run have {size}: see the task map")
    train, test = subset(run, "train", 5000, seed), subset(run, "test", 1000, seed)
    model = by_model(run.vae, train.x, test.x)
    linear = by_components(train.x, test.x, model.test.shape[1])
    whole("the number of test data", len(test.x), 2)
    extent = torch.pdist(test.x.flatten(1)).max().item()  # the largest distance of two data
    if not extent:
        raise ValueError("test data of this run are all alike, and so on no surface")
    numbers, sentences = {"latent_dim": model.test.shape[1], "extent": extent}, []
    known = test.factors is not None and test.factors.is_floating_point()
    for name, codes in (("vae", model), ("pca", linear)):
        error = (codes.x - test.x).square().flatten(1).sum(1)
        numbers[f"{name}_error"] = rms = error.mean().sqrt().item()
        numbers[f"{name}_error_std_error"] = error.std().item() / len(error) ** 0.5 / (2 * rms)  # by the delta method
        numbers[f"{name}_error_of_extent"] = rms / extent
        sentences.append(f"{name.upper()}: reconstructed within {rms:.3f}, {rms / extent:.1%} of the data's extent")
        for k, of in enumerate(told(codes, train.factors, test.factors) if known else ()):
            numbers |= {f"{name}_factor_{k}_{field}": value for field, value in of._asdict().items()}
            sentences.append(f"  factor {k} told by five neighbours, R^2 {of.neighbours:.3f}, linearly {of.linear:.3f}")
    with evaluating(run.vae), isolated(seed, "samples"):
        samples = replicate(run.vae, run.vae.prior().sample((len(test.x),))).cpu()
    color, name = (test.factors[:, 0], "position") if known else (test.labels, "label")
    axes, (x, of_model, of_linear, drawn) = _solid(train.x, test.x, model.x, linear.x, samples)
    panels = [
        Panel(x, "data x", axes),
        _flat(model.test, "means of q(z | x)"),
        Panel(of_model, "means of p(x | z) there", axes),
        Panel(drawn, "samples of p(x)", axes, colored=False),
        _flat(linear.test, "principal components of x"),
        Panel(of_linear, "x from the components", axes),
    ]
    return Result(numbers, "\n".join(sentences), {"manifold.png": plot(panels, color, name).savefig})


def _flat(codes: Tensor, title: str) -> Panel:
    """Codes in the plane; of one dimension on a line."""
    line = torch.zeros_like(codes[:, :1])
    points, names = (torch.cat([codes, line], 1), ("$z_1$", "")) if codes.shape[1] == 1 else plane(codes, codes)
    return Panel(points, title, names)


def _solid(train: Tensor, *others: Tensor) -> tuple[list[str], list[Tensor]]:
    """Names of three axes, and data along them: their own, or the first principal components of training data."""
    if train[0].numel() == 3:
        return ["$x_1$", "$x_2$", "$x_3$"], [x.flatten(1) for x in others]
    return ["first component", "second", "third"], [by_components(train, x, 3).test for x in others]
