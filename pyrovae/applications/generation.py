"""Generation: new data, and how near they are to those that there are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.applications.decoding import decoded
from pyrovae.diagnostics.frechet import frechet_distance, principal_components
from pyrovae.evaluation import evaluating
from pyrovae.model import Model
from pyrovae.rng import isolated

__all__ = ["Distance", "Generated", "distances", "generated"]


class Generated(NamedTuple):
    """New data of the same z: means and samples of p(x | z), on the CPU, each `(n, *event)`."""

    mean: Tensor
    sample: Tensor
    z: Tensor | None  # (n, D), where p(z) was given


class Distance(NamedTuple):
    """The mean over sets of data of their Frechet distance to test data, and its standard error."""

    value: float
    std_error: float


def generated(
    vae: Model, n: int, p: TorchDistribution | None = None, y: Tensor | None = None, seed: int = 0
) -> Generated:
    """z ~ p(z), then E[x | z] and x ~ p(x | z) of the same z.

    Args:
        vae: the model.
        n: how many.
        p: p(z), such as the prior or `aggregate_posterior`, of a model with one vector z; unless given, whatever latent
            variables the model has are drawn by its `sample`.
        y: conditions `(n, ...)` of a model that takes them in `sample`.
        seed: of the draws.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> vae = LinearGaussian().vae
        >>> generated(vae, 20, vae.prior()).sample.shape
        torch.Size([20, 5])
    """
    if p is not None:
        with evaluating(vae), isolated(seed, "generated"):
            z = p.sample((n,))
        return Generated(decoded(vae, z), decoded(vae, z, "sample", seed), z.cpu())
    given = {} if y is None else {"y": y.to(next(vae.parameters()).device)}
    x = []
    for kind in ("mean", "sample"):
        with evaluating(vae), isolated(seed, "generated"):  # so that the latent variables are the same
            x.append(vae.sample(n, kind, **given).cpu())
    return Generated(*x, None)


def distances(
    sources: Mapping[str, Sequence[Tensor]], x: Tensor, train: Tensor, num_components: int = 50
) -> dict[str, Distance]:
    """The Frechet distance of sets of data to test data, in the training data's first principal components.

    Sets should have as many data as the test data: fewer seem farther off. What sets of training data have tells how
    near a set can be.

    Args:
        sources: by where they are from, sets `(N, *event)`, at least two of each.
        x: test data, `(N, *event)`.
        train: data to which the components are fitted, `(M, *event)`.
        num_components: of the space of features, or all there are if these are fewer.

    References:
        Heusel et al. (2017), GANs trained by a two time-scale update rule, https://arxiv.org/abs/1706.08500

    Example:
        >>> x, y = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
        >>> distances({"the same": [x, x], "moved": [x + 1, x - 1]}, x, y)
        {'the same': Distance(value=0.0, std_error=0.0), 'moved': Distance(value=3.00, std_error=0.0)}
    """
    parts = [part for sets in sources.values() for part in sets]
    _, of_x, *features = principal_components(train, x, *parts, num_components=num_components)
    of_sets = iter([frechet_distance(of_x, of_part) for of_part in features])
    found = {}
    for name, sets in sources.items():
        d = torch.tensor([next(of_sets) for _ in sets])
        found[name] = Distance(d.mean().item(), d.std().item() / len(d) ** 0.5)
    return found
