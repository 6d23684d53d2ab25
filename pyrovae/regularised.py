"""What every regularised objective is: log p(x | z) less weighted terms, some of q(z) = 1/N sum_n q(z | x_n)."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from pyrovae.arguments import number
from pyrovae.densities import LogDensities, Program
from pyrovae.gradient import Gradient
from pyrovae.gradients import Pathwise
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.sites import listed

__all__ = ["Regularised"]


class Regularised(Objective):
    """Abstract: E_q[log p(x | z)] - sum_i w_i R_i, of which `bound` is the ELBO and `penalties` tells the R_i.

    What is maximised is no bound on log p(x).

    Args:
        num_particles: K, draws of z for each datum, averaged.
        gradient: the estimator, `gradients.Pathwise`.
        max_plate_nesting: how many plates the programs nest; data in one plate need 1.
        chunk: draws that the model is run for at a time, and again in the backward pass, to bound memory; None is all.
    """

    additive = False
    estimators = (Pathwise,)
    of_one_site = False  # whether it is for guides of one latent site alone

    def __init__(
        self,
        num_particles: int = 1,
        gradient: Gradient | None = None,
        max_plate_nesting: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__(num_particles, gradient, max_plate_nesting, chunk)
        for name, weight in self.weights.items():
            number(name, weight, least=0)

    @abstractmethod
    def terms_of(self, densities: LogDensities) -> dict[str, tuple[float, Tensor]]:
        """The weight w of each term R, and the term, `(K, B)` or `(K, 1)` if it is the batch's."""

    def why_not(self, gradient: Gradient) -> str:
        """The reason why an estimator is not among those of the objective."""
        return "as its penalty is of the draws of all data together"

    def reduce(self, terms: Tensor) -> Tensor:
        """The mean."""
        return terms.mean(0)

    def terms(self, densities: LogDensities) -> Tensor:
        """What F reduces: log p(x | z) less the weighted penalties, `(K, B)`."""
        return densities.reconstruction - sum(weight * term for weight, term in self.terms_of(densities).values())

    def value(self, densities: LogDensities) -> Tensor:
        """The ELBO for each datum, `(B,)`; NaN where the guide is a point."""
        return densities.mean(densities.reconstruction - densities.rate)

    def penalties(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """An estimate of each term R from these data, by name, without its weight and without gradient."""
        with torch.no_grad(), ModuleParameters():
            found = self.terms_of(self.densities(model, guide, *args, **kwargs))
        return {name: term.mean() for name, (_, term) in found.items()}

    def scaled(self, densities: LogDensities) -> tuple[LogDensities, float | Tensor]:
        """Log-densities to reduce, and the scale to multiply the result with, which all data share."""
        densities, scale = super().scaled(densities)
        if isinstance(scale, Tensor) and not torch.equal(scale, scale[:1].expand(len(scale))):
            raise ValueError(f"{type(self).__name__} is of all data together, so they cannot have scales of their own")
        return densities, scale

    def check_sites(self, q: dict[str, dict]) -> None:
        """Refuse a guide with a site that the objective, or the estimator of its gradient, is not for."""
        super().check_sites(q)
        if self.of_one_site and len(q) > 1:
            raise ValueError(
                f"{type(self).__name__} makes the elements of one latent site independent, but the guide has "
                f"{listed(q)}: use objectives.InfoVAE, whose penalty is of each site"
            )
        for name, site in q.items():
            if site["mask"] is not None and not torch.as_tensor(site["mask"]).all():
                raise ValueError(
                    f"guide site '{name}' is masked, but q(z) is of all data: leave out those that are masked"
                )
