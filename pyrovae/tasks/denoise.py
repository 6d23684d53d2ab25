"""Denoise: test data that are corrupted, and what the model tells of them."""

import torch
from scipy.ndimage import median_filter
from tqdm import trange

from pyrovae import family_plots
from pyrovae.applications import denoising
from pyrovae.arguments import whole
from pyrovae.columns import columns, moved
from pyrovae.corruptions import Corruption, GaussianNoise, SaltAndPepper
from pyrovae.evaluation import evaluating
from pyrovae.likelihoods import Bernoulli
from pyrovae.paired import difference
from pyrovae.rng import isolated
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images
from pyrovae.tasks.task import Result

__all__ = ["denoise"]

_RECONSTRUCTIONS = 100  # of which the mean is taken
_LABELS = {
    "data": "data x",
    "corrupted": "corrupted, x~",
    "median_filter": "median of 3 x 3 pixels",
    "reconstruction": "mean of p(x | z), z ~ q(z | x~)",
    "denoised": "mean of p(x | x~)",
    "sample": "sample of p(x | x~)",
}


def denoise(
    run: Run, corruption: Corruption | None = None, num_samples: int = 1000, num_data: int = 1000, seed: int = 0
) -> Result:
    """Corrupt test data, and tell what they were: by q(z | x~) as if they were data, and with the noise known.

    Args:
        run: the run.
        corruption: by class name, such as SaltAndPepper; unless given, SaltAndPepper of a fifth of the elements where
            data are binary, else GaussianNoise.
        num_samples: draws of z for each datum.
        num_data: test data at most.
        seed: of the corruption and of the draws.
    """
    vae = run.vae
    if not hasattr(vae, "reconstruct"):
        raise ValueError(f"{type(vae).__name__} has no reconstruct(x), by which data could be denoised")
    whole("the number of test data", min(num_data, len(columns(run.dataset.test)[0])), 2)
    x, *given = (t[:num_data] for t in moved(columns(run.dataset.test), next(vae.parameters())))
    corruption = corruption or (SaltAndPepper(0.2) if isinstance(vae.likelihood, Bernoulli) else GaussianNoise())
    with isolated(seed, "corruption"):
        corrupted = corruption.train()(x)
    found = {"corrupted": corrupted}
    if x.dim() == 4:
        filtered = median_filter(corrupted.cpu().numpy(), (1, 1, 3, 3))
        found["median_filter"] = torch.from_numpy(filtered).to(x)
    with isolated(seed, "reconstruct"), evaluating(vae):
        passes = trange(_RECONSTRUCTIONS, delay=3, disable=None, leave=None)
        found["reconstruction"] = torch.stack([vae.reconstruct(corrupted, *given) for _ in passes]).mean(0)
    numbers, samples, note = {"corruption": repr(corruption), "num_data": len(x)}, {}, []
    try:
        known = denoising.denoise(vae, corrupted, corruption, num_samples, seed)
    except ValueError as error:  # then with the noise known it cannot be done
        note = [f"p(x | x~) was left out: {error}"]
    else:
        found["denoised"], samples["sample"] = known.mean, known.sample
        numbers |= {"num_samples": num_samples, "effective_draws": known.ess.mean().item()}
    errors = {name: (to - x).square().flatten(1).sum(1) for name, to in found.items()}  # (N,) each
    lines = [f"squared error of a datum, the mean over {len(x)} test data, {corruption}:"]
    for name, error in errors.items():
        line = f"  {_LABELS[name]:32} {error.mean():7.2f}"
        numbers[f"squared_error_{name}"] = error.mean().item()
        if "denoised" in errors and name != "denoised":
            more = difference(error[None], errors["denoised"][None])
            numbers |= {f"more_by_{name}": more.value, f"more_by_{name}_interval": [more.low, more.high]}
            line += f", {more.value:.2f} [{more.low:.2f}, {more.high:.2f}] more than by p(x | x~)"
        lines.append(line)
    files = {}
    if are_images(x):
        rows = {_LABELS[name]: row[:12] for name, row in ({"data": x} | found | samples).items()}
        files["denoised.png"] = family_plots.montage(rows, f"What was it before the noise? {corruption}").savefig
    return Result(numbers, "\n".join(lines + note), files)
