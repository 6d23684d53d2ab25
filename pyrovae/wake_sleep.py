"""Gradient estimators of reweighted wake-sleep: what the guide learns while the model climbs the IWAE bound."""

from typing import TYPE_CHECKING

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae import draws
from pyrovae.densities import Call, LogDensities
from pyrovae.gradient import Gradient, with_value
from pyrovae.sites import log_probs, sample_sites
from pyrovae.supports import describe, scores

if TYPE_CHECKING:
    from pyrovae.objective import Objective

__all__ = ["Sleep", "Wake"]


class Wake(Gradient):
    """Sum_k w_k / (sum w) d/dphi log q(z_k | x): the guide descends KL(p(z | x) || q(z | x)), the wake update of phi.

    References:
        Bornschein and Bengio (2015), Reweighted wake-sleep, https://arxiv.org/abs/1406.2751
        Le et al. (2019), Revisiting reweighted wake-sleep, https://arxiv.org/abs/1805.10469

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.RWS(num_particles=10, gradient=Wake())
    """

    needs = "reweighted wake-sleep"

    def draws(self, first_dim: int) -> Messenger:
        """z as a constant."""
        return draws.Detached()

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        value = objective.target(densities).detach()
        weight = densities.log_weight.detach().softmax(0)
        return with_value(value, (weight * (densities.log_joint + densities.log_guide)).sum(0))


class Sleep(Gradient):
    """d/dphi log q(z | x) for z, x ~ p(x, z): the guide learns from what the model dreams, the sleep update of phi.

    One dream for each datum. The programs must observe their arguments as they are, as dreams take their place.

    References:
        Hinton et al. (1995), The wake-sleep algorithm, https://doi.org/10.1126/science.7761831
        Le et al. (2019), Revisiting reweighted wake-sleep, https://arxiv.org/abs/1805.10469

    Example:
        >>> from pyrovae import objectives
        >>> objective = objectives.RWS(num_particles=10, gradient=Sleep())
    """

    needs = "reweighted wake-sleep"

    def draws(self, first_dim: int) -> Messenger:
        """z as a constant."""
        return draws.Detached()

    def forward(self, objective: "Objective", densities: LogDensities) -> Tensor:
        """The surrogate for each datum, `(B,)`."""
        _check_dreams(densities)
        value = objective.target(densities).detach()
        weight = densities.log_weight.detach().softmax(0)
        wake = (weight * densities.log_joint).sum(0)
        return with_value(value, wake + _dream(densities.call, densities.p))


def _check_dreams(densities: LogDensities) -> None:
    """Refuse a model that dreams of what the guide has no density for."""
    for name, site in densities.q.items():
        p, q = densities.p[name]["fn"], site["fn"]
        if not scores(q, p):
            raise ValueError(
                f"the guide learns from dreams, z ~ p(z), but at site '{name}' these lie in {describe(p.support)} and "
                f"q(z | x) in {describe(q.support)}: use gradients.Wake"
            )


def _dream(call: Call, sites: dict[str, dict]) -> Tensor:
    """Log q(z | x) of one draw of z and x from the model for each datum, `(B,)`."""
    with torch.no_grad():
        dream = poutine.trace(poutine.uncondition(call.model)).get_trace(*call.args, **call.kwargs)
    dreamt = {id(s["value"]): dream.nodes[name]["value"] for name, s in sites.items() if s["is_observed"]}
    given = [id(a) for a in (*call.args, *call.kwargs.values())]
    if other := [name for name, s in sites.items() if s["is_observed"] and id(s["value"]) not in given]:
        raise ValueError(
            f"the sleep update hands dreams to the guide in place of the data, but what the model observes at "
            f"'{other[0]}' is no argument of the programs: pass data as they are observed, or use gradients.Wake"
        )
    args = [dreamt.get(id(a), a) for a in call.args]
    kwargs = {name: dreamt.get(id(a), a) for name, a in call.kwargs.items()}
    guide_trace = poutine.trace(poutine.replay(call.guide, trace=dream)).get_trace(*args, **kwargs)
    return sum(log_probs(sample_sites(guide_trace)).values()).squeeze(0)
