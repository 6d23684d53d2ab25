"""How latent values are drawn: Pyro messengers around a guide and its model, for gradients that need other draws.

Without one, each site is drawn as its distribution draws, reparameterised where it can be.
"""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.relaxed_straight_through import QuantizeBernoulli, QuantizeCategorical
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily

from pyrovae.distributions.implicit import Implicit

__all__ = ["Combined", "Coupled", "Detached", "Enumerated", "Relaxed"]

PARTICLES = "num_particles_vectorized"  # what Pyro calls its own plate of particles
_MOST = 2**16  # joint values of a site that are enumerated


class Draws(Messenger, ABC):
    """Abstract: takes the latent sites in turn, drawn in the guide and replayed in the model."""

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and isinstance(msg["fn"], TorchDistributionMixin):
            if msg["done"]:
                self.replay(msg)
            else:
                self.draw(msg)
                msg["done"] = True

    @abstractmethod
    def draw(self, msg: dict) -> None:
        """Set the value of a site of the guide."""

    def replay(self, msg: dict) -> None:
        """Adapt a site of the model, which has the guide's value."""


class Detached(Draws):
    """z ~ q(z | x) as a constant.

    Args:
        pathwise: whether sites that can be reparameterised are, so that only the others are constants.
    """

    def __init__(self, pathwise: bool = False) -> None:
        super().__init__()
        self.pathwise = pathwise

    def draw(self, msg: dict) -> None:
        """A draw without gradient."""
        fn = msg["fn"]
        # A flow remembers where its last draw came from, and would score it as if that did not depend on parameters.
        msg["value"] = fn.rsample() if self.pathwise and fn.has_rsample else fn.sample().clone()


class Enumerated(Draws):
    """Every value of a discrete site, along a dimension of its own; other sites are drawn as they are.

    Args:
        first_dim: the first free dimension left of all plates.
    """

    def __init__(self, first_dim: int) -> None:
        super().__init__()
        self.first_dim = first_dim

    def __enter__(self) -> "Enumerated":
        self.dim = self.first_dim
        return super().__enter__()

    def draw(self, msg: dict) -> None:
        """All values, or a draw of a site that has too many to list."""
        fn = msg["fn"]
        if fn.has_rsample:
            msg["value"] = fn.rsample()
            return
        if sum(f.vectorized and f.name != PARTICLES for f in msg["cond_indep_stack"]) > 1:
            raise ValueError(
                f"site '{msg['name']}' is in a plate inside that of the data, whose elements would all take the same "
                f"value: declare them as event by .to_event(1), or use gradients.ScoreFunction"
            )
        values = support(fn, msg["name"])
        msg["value"] = values.reshape(len(values), *(1,) * (-self.dim - 1), *fn.event_shape)
        msg["infer"] = {**msg["infer"], "enumerated": True}
        self.dim -= 1


class Combined(Enumerated):
    """K draws of each site, along a dimension of its own, so that all combinations of the sites' draws are scored.

    A site that depends on others is drawn once for the k-th draws of those together.

    Args:
        first_dim: the first free dimension left of all plates.
        num_draws: K.
    """

    def __init__(self, first_dim: int, num_draws: int) -> None:
        super().__init__(first_dim)
        self.num_draws = num_draws

    def draw(self, msg: dict) -> None:
        """K draws, the k-th given the k-th draws of earlier sites."""
        fn, plates = msg["fn"], -self.first_dim - 1
        batch_shape = (1,) * (plates - len(fn.batch_shape)) + fn.batch_shape
        parents = len(batch_shape) - plates
        draw = fn.rsample if fn.has_rsample else fn.sample
        if all(size == 1 for size in batch_shape[:parents]):
            value = draw((self.num_draws,)).reshape(self.num_draws, *batch_shape[parents:], *fn.event_shape)
        else:
            value = draw()
            k = torch.arange(self.num_draws, device=value.device)
            value = value[tuple(k if size > 1 else k * 0 for size in batch_shape[:parents])]
        earlier = (1,) * (self.first_dim - self.dim)
        msg["value"] = value.reshape(self.num_draws, *earlier, *value.shape[1:])
        self.dim -= 1


class Relaxed(Draws):
    """Bernoulli and one-hot sites by Concrete draws, inside the cube or simplex, or by these rounded to its corners.

    The gradient flows through the Concrete draw either way. Values are scored by the discrete mass functions, continued
    linearly to the inside.

    Args:
        temperature: of the relaxation; the smaller, the nearer to discrete.
        rounded: whether values are discrete.
    """

    def __init__(self, temperature: float, rounded: bool) -> None:
        super().__init__()
        self.temperature, self.rounded = temperature, rounded

    def draw(self, msg: dict) -> None:
        """A reparameterised draw."""
        fn = msg["fn"]
        value = self._relax(fn, msg["name"]).rsample()
        if self.rounded and not fn.has_rsample:
            categorical = isinstance(innermost(fn), dist.OneHotCategorical)
            value = (QuantizeCategorical if categorical else QuantizeBernoulli).apply(value)
        msg["value"] = value
        self.replay(msg)

    def replay(self, msg: dict) -> None:
        """Score the value by a mass function that is linear in it."""
        msg["fn"] = _continued(msg["fn"])

    def _relax(self, fn: TorchDistributionMixin, name: str) -> TorchDistributionMixin:
        """The Concrete distribution in place of a discrete one."""
        if isinstance(fn, Independent):
            return dist.Independent(self._relax(fn.base_dist, name), fn.reinterpreted_batch_ndims)
        if isinstance(fn, dist.Bernoulli):
            return dist.RelaxedBernoulli(fn.logits.new_tensor(self.temperature), logits=fn.logits)
        if isinstance(fn, dist.OneHotCategorical):
            return dist.RelaxedOneHotCategorical(fn.logits.new_tensor(self.temperature), logits=fn.logits)
        if fn.has_rsample:
            return fn
        raise ValueError(
            f"site '{name}' ({fn}) cannot be relaxed: a Bernoulli or OneHotCategorical site can; for others use "
            f"gradients.ScoreFunction"
        )


class Coupled(Draws):
    """A Bernoulli site three times from one noise: b, sigmoid(z / t) and sigmoid(z' / t), with b = [z > 0] = [z' > 0].

    z is a logistic variable around the logit, z' another draw of it given b. Along the particles' dimension stand K of
    the first, K of the second and K of the third.

    Args:
        temperature: t.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def draw(self, msg: dict) -> None:
        """Discrete, relaxed and conditionally relaxed values, of which the last two are reparameterised."""
        if not isinstance(base := innermost(msg["fn"]), dist.Bernoulli):
            raise ValueError(
                f"REBAR couples Bernoulli variables, but site '{msg['name']}' is {msg['fn']}: use "
                f"gradients.ScoreFunction, gradients.Concrete or gradients.Enumerate"
            )
        logits = base.logits[: len(base.logits) // 3]  # (K, B, D)
        u, v = torch.rand(2, *logits.shape, dtype=logits.dtype, device=logits.device).clamp(1e-7, 1 - 1e-7)
        z = logits + torch.logit(u)
        b = (z > 0).to(z)
        p = torch.sigmoid(logits)
        z_given_b = logits + torch.logit(torch.where(b > 0, 1 - p + v * p, v * (1 - p)).clamp(1e-7, 1 - 1e-7))
        msg["value"] = torch.cat([b, *(torch.sigmoid(z / self.temperature) for z in (z, z_given_b))])
        self.replay(msg)

    def replay(self, msg: dict) -> None:
        """Score the value by a mass function that is linear in it."""
        msg["fn"] = _continued(msg["fn"])


class _OneHotCategorical(dist.OneHotCategorical):
    """With a mass function that is linear in the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)


def _continued(fn: TorchDistributionMixin) -> TorchDistributionMixin:
    """A discrete distribution whose log-mass, or each component's, is linear in the value, and defined in between."""
    if isinstance(fn, Independent):
        return dist.Independent(_continued(fn.base_dist), fn.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(fn, ExpandedDistribution):
        return ExpandedDistribution(_continued(fn.base_dist), fn.batch_shape)
    if isinstance(fn, MixtureSameFamily) and fn.component_distribution.support.is_discrete:
        parts = fn.mixture_distribution, _continued(fn.component_distribution)
        return dist.MixtureSameFamily(*parts, validate_args=False)
    for family, linear in ((dist.Bernoulli, dist.Bernoulli), (dist.OneHotCategorical, _OneHotCategorical)):
        if isinstance(fn, family):
            return linear(logits=fn.logits, validate_args=False)
    return fn


def has_score(fn: TorchDistributionMixin) -> bool:
    """Whether E[d/dphi log q] = 0: q is a density or mass function whose support does not move with its parameters."""
    fn = innermost(fn)
    if is_point(fn) or getattr(fn, "support_moves", False):
        return False
    try:
        support = fn.support
    except NotImplementedError:  # a distribution that does not state its support
        return True
    ends = [getattr(support, end, None) for end in ("lower_bound", "upper_bound")]
    return not any(isinstance(end, Tensor) and end.requires_grad for end in ends)


def is_point(fn: TorchDistributionMixin) -> bool:
    """Whether a distribution has no density to tell a bound by: a point mass in a continuous space, or implicit."""
    return isinstance(innermost(fn), dist.Delta | Implicit)


def scores_any(fn: TorchDistributionMixin) -> bool:
    """Whether log q(z) can be had of any z, not of its own last draw alone: a flow's transforms all have an inverse."""
    fn = innermost(fn)
    transforms = [part for t in getattr(fn, "transforms", ()) for part in getattr(t, "parts", [t])]
    kinds = tuple(map(type, transforms))
    if kinds not in _invertible:
        with torch.no_grad():
            _invertible[kinds] = _inverts(transforms, fn.sample() if transforms else None)
    return _invertible[kinds]


_invertible: dict[tuple[type, ...], bool] = {}  # by the kinds of transforms, as trying takes time


def _inverts(transforms: list, z: Tensor | None) -> bool:
    try:
        for t in reversed(transforms):
            z = t._inverse(z)
    except (KeyError, NotImplementedError):  # what Pyro's and PyTorch's flows without an analytic inverse raise
        return False
    return True


def innermost(fn: TorchDistributionMixin) -> TorchDistributionMixin:
    """A distribution without what declares dimensions as event."""
    return innermost(fn.base_dist) if isinstance(fn, Independent) else fn


def support(fn: TorchDistributionMixin, name: str = "z") -> Tensor:
    """All values of a discrete distribution, `(E, *event)`.

    Raises:
        ValueError: if they cannot be listed.
    """
    if isinstance(fn, Independent):
        one = support(fn.base_dist, name)  # (e, *event) of one element
        shape = fn.event_shape[: fn.reinterpreted_batch_ndims]
        if len(one) ** shape.numel() > _MOST:
            raise ValueError(
                f"site '{name}' has {len(one)}^{shape.numel()} values, too many to enumerate: use "
                f"gradients.ScoreFunction or gradients.VIMCO"
            )
        index = torch.cartesian_prod(*[torch.arange(len(one), device=one.device)] * shape.numel())
        return one[index.reshape(-1, *shape)]
    if not fn.has_enumerate_support:
        raise ValueError(f"site '{name}' ({fn}) cannot be enumerated: use gradients.ScoreFunction")
    values = fn.enumerate_support(expand=False)
    return values.reshape(len(values), *fn.event_shape)
