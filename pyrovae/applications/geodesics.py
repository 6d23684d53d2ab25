"""Shortest paths between latent variables, by how much p(x | z) changes on the way."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.applications.paths import linear
from pyrovae.check import unvalidated
from pyrovae.evaluation import evaluating
from pyrovae.likelihoods import Bernoulli
from pyrovae.model import Model

__all__ = ["Curve", "geodesic", "measured"]

_WAVES = 16  # terms of the sine series by which a curve leaves the straight line
_STEPS = 200  # of the optimiser, at most


class Curve(NamedTuple):
    """Curves through latent space, with the length and the energy of what is decoded from them."""

    z: Tensor  # (T, ..., D)
    length: Tensor  # sum_i |u(z_(i+1)) - u(z_i)|, (...)
    energy: Tensor  # (T - 1) sum_i |u(z_(i+1)) - u(z_i)|^2, (...); not below length^2, which it is at constant speed


def measured(vae: Model, z: Tensor) -> Curve:
    """Length and energy of curves, in the coordinates u(z) of p(x | z).

    For a Bernoulli likelihood u_i = 2 arcsin(sqrt(p_i)), so that the length is that of the Fisher-Rao metric: where it
    is 1, the two ends of a short piece are told apart by a datum as two normals whose means are a standard deviation
    apart. For others u = E[x | z], in the data's units: what length means is then the choice of those units.

    Args:
        vae: a model of p(x | z) with one vector z.
        z: points of each curve, close together, `(T, ..., D)`.

    References:
        Arvanitidis et al. (2022), Pulling back information geometry, https://arxiv.org/abs/2106.05367

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian()
        >>> curve = measured(model.vae, torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]))
        >>> torch.isclose(curve.length, model.weight[:, 0].norm())
        tensor(True)
    """
    z = z.to(next(vae.parameters()))
    with evaluating(vae), unvalidated():
        return Curve(z, *_length_and_energy(vae, z))


def geodesic(vae: Model, a: Tensor, b: Tensor, num_points: int = 129) -> Curve:
    """The curve from a to b that minimises the energy, int |d u(z(t)) / dt|^2 dt: the shortest, at constant speed.

    The curve is z(t) = (1 - t) a + t b + sum_k c_k sin(pi k t) / k, whose c are found by L-BFGS from the straight line,
    c = 0; where nothing shorter is found, it is the straight line. A shorter one may yet exist on another side of what
    lies between. Nor does it shun places without data: where the decoder is flat, as it is far off, ways are short.

    Args:
        vae: a model of p(x | z) with one vector z in R^D.
        a: where curves start, `(..., D)`.
        b: where they end, `(..., D)`.
        num_points: T, of the curve, which must be close together for its length to be that of the curve between them.

    Returns:
        The curves, `(T, ..., D)`, with length and energy as `measured` has them, on the model's device.

    Raises:
        ValueError: for fewer than two points.

    References:
        Arvanitidis et al. (2018), Latent space oddity, https://arxiv.org/abs/1710.11379
        Shao et al. (2018), The Riemannian geometry of deep generative models, https://arxiv.org/abs/1711.08014
        Chen et al. (2018), Metrics for deep generative models, https://arxiv.org/abs/1711.01204

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> curve = geodesic(LinearGaussian().vae, torch.zeros(2), torch.ones(2), num_points=3)
        >>> curve.z.tolist()
        [[0.0, 0.0], [0.5000, 0.5000], [1.0, 1.0]]
    """
    if num_points < 2:
        raise ValueError(f"a path has at least its two ends for points, not {num_points}")
    a, b = (end.detach().to(next(vae.parameters())) for end in (a, b))
    t = torch.linspace(0, 1, num_points).to(a)
    k = torch.arange(1, min(_WAVES, num_points - 2) + 1).to(a)
    waves = torch.sin(math.pi * t[:, None] * k) / k  # (T, K): the flat metric's energy has the same curvature in all c
    straight = measured(vae, linear(a, b, t))
    unit = torch.where(straight.energy > 0, straight.energy, 1)  # there is none from a point to itself
    c = a.new_zeros(len(k), *a.shape, requires_grad=True)  # (K, ..., D)
    optimizer = torch.optim.LBFGS([c], max_iter=_STEPS, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def energies() -> Tensor:
        """Of all curves, each in units of the straight one's."""
        with torch.enable_grad():
            _, energy = _length_and_energy(vae, straight.z + torch.tensordot(waves, c, 1))
            total = (energy / unit).sum()
            [c.grad] = torch.autograd.grad(total, [c])
        bar.update()
        return total.detach()

    bar = tqdm(desc="geodesics", unit=" energies", delay=3, disable=None, leave=None)
    with evaluating(vae), unvalidated(), bar:
        if len(k):
            optimizer.step(energies)
        curve = measured(vae, straight.z + torch.tensordot(waves, c.detach(), 1))
    shorter = curve.length < straight.length  # (...)
    z = torch.where(shorter[..., None], curve.z, straight.z)
    return Curve(z, *(torch.where(shorter, *pair) for pair in zip(curve[1:], straight[1:], strict=True)))


def _length_and_energy(vae: Model, z: Tensor) -> tuple[Tensor, Tensor]:
    squares = _coordinates(vae, z).diff(dim=0).square().sum(-1)  # (T - 1, ...)
    return squares.sqrt().sum(0), len(squares) * squares.sum(0)


def _coordinates(vae: Model, z: Tensor) -> Tensor:
    """u(z), `(..., F)`."""
    p = vae.likelihood(z)
    if isinstance(vae.likelihood, Bernoulli):  # 2 arcsin(sqrt(p)) of a logit, whose gradient stays finite
        return 2 * (p.base_dist.logits / 2).clamp(-40, 40).exp().atan().flatten(z.dim() - 1)
    return p.mean.flatten(z.dim() - 1)
