"""Objectives: bounds L(x) <= log p(x), all of them reductions of the same log-densities.

`log_densities` runs a guide and a model once, K samples for each datum, and gives log p(x | z), log p(z) and
log q(z | x), site by site, in nats. A bound reduces them to one number per datum; the minus sign, and the scale of a
subsampled plate, appear in the loss methods alone.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.parameters import ModuleParameters

__all__ = ["ELBO"]

Program = Callable[..., Any]
_PARTICLES = "num_particles_vectorized"  # what Pyro calls its own plate of particles


class LogDensities(NamedTuple):
    """Log-densities of a batch in nats, site by site, each `(K, B)`, free of scales (subsampling, `poutine.scale`)."""

    log_likelihood: dict[str, Tensor]  # log p(x | z), by observed site
    log_prior: dict[str, Tensor]  # log p(z), by latent site
    log_posterior: dict[str, Tensor]  # log q(z | x), by latent site
    scale: dict[str, float | Tensor]  # what Pyro would multiply a site's log-densities with
    not_reparameterised: dict[str, str]  # latent sites through which no gradient flows, and their distribution

    @property
    def reconstruction(self) -> Tensor:
        """Log p(x | z), summed over observed sites, `(K, B)`."""
        return sum(self.log_likelihood.values())

    @property
    def kl(self) -> Tensor:
        """Log q(z | x) - log p(z), summed over latent sites, `(K, B)`; its mean is the KL divergence."""
        return sum(self.log_posterior[z] - self.log_prior[z] for z in self.log_prior)

    @property
    def log_weight(self) -> Tensor:
        """Log w = log p(x, z) - log q(z | x), `(K, B)`."""
        return self.reconstruction - self.kl


def log_densities(
    model: Program, guide: Program, *args: Any, num_samples: int = 1, max_plate_nesting: int = 1, **kwargs: Any
) -> LogDensities:
    """Log p(x | z), log p(z) and log q(z | x) of z ~ q(z | x), from one vectorised pass through guide and model.

    Args:
        model: a Pyro program whose data and latent variables sit in one plate.
        guide: a Pyro program over the same latent variables.
        args: arguments of both.
        num_samples: K, draws of z for each datum; the guide's networks run once for all of them.
        max_plate_nesting: how many plates the programs nest, to the left of which the draws are laid out.
        kwargs: keyword arguments of both.

    Raises:
        ValueError: if the sites of model and guide differ, or do not share one plate.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))  # the exact posterior
        >>> log_densities(model, guide, torch.zeros(2), num_samples=3).log_weight  # log p(x), whatever z
        tensor([[-1.2655, -1.2655],
                [-1.2655, -1.2655],
                [-1.2655, -1.2655]])
    """
    with pyro.plate(_PARTICLES, num_samples, dim=-1 - max_plate_nesting) if num_samples > 1 else nullcontext():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return reduce_traces(model_trace, guide_trace)


def reduce_traces(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> LogDensities:
    """The log-densities of a model's trace, replayed against a guide's."""
    p, q = sample_sites(model_trace), sample_sites(guide_trace)
    latent = {name: site for name, site in p.items() if not site["is_observed"]}
    if missing := latent.keys() ^ q.keys():
        raise ValueError(
            f"model and guide must have the same latent sites, but {_names(missing)} is in only one of them "
            f"(model: {_names(latent)}; guide: {_names(q)})"
        )
    plate = _data_plate([*p.values(), *q.values()])
    for name in latent:
        if not _equal(p[name]["scale"], q[name]["scale"]):
            raise ValueError(
                f"site '{name}' is scaled by {p[name]['scale']} in the model and by {q[name]['scale']} in the guide: "
                f"a scale must be the same in both"
            )
    return LogDensities(
        log_likelihood={name: _per_datum(site, plate) for name, site in p.items() if site["is_observed"]},
        log_prior={name: _per_datum(site, plate) for name, site in latent.items()},
        log_posterior={name: _per_datum(q[name], plate) for name in latent},
        scale={name: site["scale"] for name, site in p.items()},
        not_reparameterised={z: str(q[z]["fn"]) for z in latent if not q[z]["fn"].has_rsample},
    )


class Objective(pyro.infer.ELBO):
    """Abstract: a bound on log p(x), and what to differentiate in order to raise it.

    Args:
        num_particles: K, draws of z for each datum.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
    """

    def __init__(self, num_particles: int = 1, max_plate_nesting: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, not {num_particles}")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)

    @abstractmethod
    def reduce(self, densities: LogDensities) -> Tensor:
        """The bound for each datum, in nats, `(B,)`."""

    @abstractmethod
    def surrogate(self, densities: LogDensities) -> Tensor:
        """A scalar with the gradient of the bound, scaled as the programs say and summed over data."""

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """An estimate of the bound for each datum, in nats, larger is better, `(B,)`, without gradient."""
        with torch.no_grad(), ModuleParameters():
            return self.reduce(self.densities(model, guide, *args, **kwargs))

    def densities(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogDensities:
        """The log-densities that the bound reduces, K draws for each datum, `(K, B)`."""
        k, nesting = self.num_particles, self.max_plate_nesting
        return log_densities(model, guide, *args, num_samples=k, max_plate_nesting=nesting, **kwargs)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the surrogate: a scalar to call `backward()` on."""
        return -self.surrogate(self.densities(model, guide, *args, **kwargs))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the surrogate's value, without gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the surrogate's value; its gradient is added to the parameters' `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        raise NotImplementedError("the log-densities come from log_densities, not from Pyro's traces")


class ELBO(Objective):
    """E_q[log p(x, z) - log q(z | x)], the evidence lower bound, by K reparameterised draws for each datum.

    The value and the gradient of `pyro.infer.Trace_ELBO` where every latent variable is reparameterised, from one
    vectorised pass and without reading anything back from the device.

    Args:
        num_particles: K, draws of z for each datum, averaged.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.

    Raises:
        ValueError: when used, if a latent site is not reparameterised.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> ELBO(num_particles=10).bound(vae.model, vae.guide, torch.zeros(20, 5)).shape
        torch.Size([20])
    """

    def reduce(self, densities: LogDensities) -> Tensor:
        """The bound for each datum, in nats, `(B,)`."""
        return densities.log_weight.mean(0)

    def surrogate(self, densities: LogDensities) -> Tensor:
        """A scalar with the gradient of the bound, scaled as the programs say and summed over data."""
        for name, family in densities.not_reparameterised.items():
            raise ValueError(
                f"guide site '{name}' ({family}) is not reparameterised, so the ELBO has no pathwise gradient there: "
                f"use pyro.infer.Trace_ELBO, whose score function needs none"
            )
        p, prior, q, scale, _ = densities
        terms = [scale[x] * p[x] for x in p] + [scale[z] * (prior[z] - q[z]) for z in prior]
        return sum(terms).sum() / self.num_particles


def sample_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The random sites of a trace by name, without `pyro.deterministic` and the indices of subsampling plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def _data_plate(sites: list[dict]) -> Any:
    """The one plate that holds every site."""
    plates = [{f.name: f for f in site["cond_indep_stack"] if f.vectorized and f.name != _PARTICLES} for site in sites]
    shared = set.intersection(*map(set, plates))
    if len(shared) == 1:
        return plates[0][shared.pop()]
    found = "; ".join(f"'{s['name']}' in {_names(f)}" for s, f in zip(sites, plates, strict=True))
    raise ValueError(
        f"a bound per datum needs the data and every latent variable in one plate, found: {found}; for such a program "
        f"use pyro.infer.Trace_ELBO"
    )


def _per_datum(site: dict, plate: Any) -> Tensor:
    """A site's log-density with its scale left out and its mask applied, summed over all but particles and data."""
    log_prob = scale_and_mask(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), 1.0, site["mask"])
    particles = [f for f in site["cond_indep_stack"] if f.name == _PARTICLES]
    keep = {plate.dim, *(f.dim for f in particles)}
    for dim in range(-log_prob.dim(), 0):
        if dim not in keep:
            log_prob = log_prob.sum(dim, keepdim=True)
    return log_prob.reshape(particles[0].size if particles else 1, plate.size)


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b or torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    return a == b


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
