"""Sites of a traced program: which there are, how they are laid out, and their log-densities."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyrovae.draws import PARTICLES

__all__ = ["Layout", "layout_of", "log_prob", "log_probs", "sample_sites"]


class Layout(NamedTuple):
    """Where draws and data stand among the batch dimensions of a site, counted from the right."""

    particle_dim: int | None
    particles: int  # K
    data_dim: int
    data: int  # B
    left: int  # the leftmost plate; what is further left enumerates latent variables
    population: int  # N, of which a subsampling plate has B

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Sizes of the plates' dimensions, 1 where neither draws nor data stand."""
        sizes = {self.data_dim: self.data, self.particle_dim: self.particles}
        return tuple(sizes.get(dim, 1) for dim in range(self.left, 0))

    def fold(self, t: Tensor) -> Tensor:
        """Sum over other plates: a tensor of a site's batch shape as `(K, B)`, or `(..., K, B)` if enumerated."""
        others = [d for d in range(max(self.left, -t.dim()), 0) if d not in (self.data_dim, self.particle_dim)]
        t = t.sum(others, keepdim=True) if others else t
        if t.shape != self.batch_shape:
            t = t.expand(torch.broadcast_shapes(t.shape, self.batch_shape))
        return t.reshape(*t.shape[: t.dim() + self.left], self.particles, self.data)

    def vectors(self, value: Tensor, event_dim: int) -> Tensor:
        """Values of a site as one vector for each draw and datum, `(..., K, B, D)`, what other plates hold in it."""
        t = value.flatten(value.dim() - event_dim) if event_dim else value.unsqueeze(-1)  # (..., *batch, E)
        t = t[(None,) * (1 - self.left - t.dim())]
        lead = t.dim() - 1 + self.left
        data = t.dim() - 1 + self.data_dim
        if self.particle_dim is None:
            t, data, particle = t.unsqueeze(lead), data + 1, lead
        else:
            particle = t.dim() - 1 + self.particle_dim
        return t.movedim((particle, data), (lead, lead + 1)).flatten(lead + 2)

    def per_datum(self, scale: float | Tensor, name: str) -> float | Tensor:
        """A site's scale as a number, or as one for each datum, `(B,)`."""
        if not isinstance(scale, Tensor) or scale.dim() == 0:
            return scale
        if scale.numel() > 1 and scale.shape[self.data_dim :][:1] != (scale.numel(),):
            raise ValueError(
                f"site '{name}' has a scale of shape {tuple(scale.shape)}: it may differ from datum to datum alone"
            )
        return scale.flatten()

    def unfold(self, t: Tensor, event_dim: int) -> Tensor:
        """A tensor `(K, B)` such that it broadcasts with a site's value."""
        return t.reshape(self.batch_shape + (1,) * event_dim)


def check_same_kind(p: dict, q: dict) -> None:
    """Refuse a site that is discrete in one program and continuous in the other."""
    kinds = ["discrete" if _is_discrete(site["fn"]) else "continuous" for site in (p, q)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"site '{p['name']}' is {kinds[0]} in the model but {kinds[1]} in the guide: give both the same kind of "
            f"variable"
        )


def sample_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The random sites of a trace by name, without `pyro.deterministic` and the indices of subsampling plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def log_probs(sites: dict[str, dict], layout: Layout | None = None) -> dict[str, Tensor]:
    """Log-densities of the sites of a program by name, each `(K, B)`, free of scales."""
    layout = layout or layout_of(list(sites.values()))
    return {name: layout.fold(log_prob(site)) for name, site in sites.items()}


def layout_of(sites: list[dict], max_plate_nesting: int = 1) -> Layout:
    """The one plate that holds every site, and the particles beside it."""
    frames = [[f for f in site["cond_indep_stack"] if f.vectorized] for site in sites]
    plates = [{f.name: f for f in stack if f.name != PARTICLES} for stack in frames]
    shared = set.intersection(*map(set, plates))
    if len(shared) != 1:
        found = "; ".join({f"'{s['name']}' in {listed(f)}": None for s, f in zip(sites, plates, strict=True)})
        raise ValueError(
            f"a bound per datum needs the data and every latent variable in one plate, found: {found}; for such a "
            f"program use pyro.infer.Trace_ELBO"
        )
    data = plates[0][shared.pop()]
    particle_dim, particles = next(((f.dim, f.size) for f in frames[0] if f.name == PARTICLES), (None, 1))
    left = min(-max_plate_nesting, *(f.dim for stack in frames for f in stack))
    if particle_dim is not None and left < particle_dim:
        raise ValueError(nesting(max_plate_nesting))
    return Layout(particle_dim, particles, data.dim, data.size, left, data.full_size or data.size)


def log_prob(site: dict) -> Tensor:
    """A site's log-density with its scale left out and its mask applied."""
    return scale_and_mask(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), 1.0, site["mask"])


def equal(a: float | Tensor, b: float | Tensor) -> bool:
    """Whether two scales or masks are the same, up to the rounding of Pyro's products in one order or another."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        same = torch.equal if b.dtype == torch.bool else torch.allclose
        return a is b or (a.shape == b.shape and same(a.to(b), b))
    return math.isclose(a, b)


def _is_discrete(fn: Any) -> bool:
    try:
        return fn.support.is_discrete
    except NotImplementedError:  # a distribution that does not state its support
        return False


def base(fn: Any) -> tuple[Any, int]:
    """A distribution without the event dimensions over which it factorises, and how many they are."""
    return (fn.base_dist, fn.reinterpreted_batch_ndims) if isinstance(fn, Independent) else (fn, 0)


def family(fn: Any) -> str:
    """What a message calls a distribution."""
    fn = base(fn)[0]
    fn = fn.base_dist if isinstance(fn, ExpandedDistribution) else fn
    transforms = ", ".join(type(t).__name__ for t in getattr(fn, "transforms", ()))
    return type(fn).__name__ + f" by {transforms}" * bool(transforms)


def nesting(stated: int) -> str:
    """What to do where there are more plates than stated."""
    return f"do the programs nest more than {stated} plates? then say how many by max_plate_nesting"


def listed(names: Iterable[str]) -> str:
    """Names as a message has them."""
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
