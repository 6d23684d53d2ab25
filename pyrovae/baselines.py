"""Baselines b: what the score function's signal F - b leaves out, without bias as b does not depend on the draw.

F is the bound as a function of the K log-weights; where it is their mean, draw k is credited with its own, f_k / K.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor, nn

from pyrovae.arguments import number, parts
from pyrovae.densities import LogDensities
from pyrovae.networks import Network
from pyrovae.parameters import unique_name

if TYPE_CHECKING:
    from pyrovae.objective import Objective

__all__ = ["Learned", "LeaveOneOut", "MovingAverage"]


class Baseline(nn.Module, ABC):
    """Abstract: turns log-weights into the signal of each draw."""

    min_draws = 1

    @abstractmethod
    def forward(self, objective: "Objective", terms: Tensor, densities: LogDensities) -> tuple[Tensor, Tensor | float]:
        """F - b for each draw, and what b minimises.

        Args:
            objective: the bound F.
            terms: what it reduces, without gradient, `(K, ..., B)`.
            densities: where they come from.

        Returns:
            The signal `(K, ..., B)`, and a loss of the baseline's own parameters for each datum, `(..., B)` or 0.
        """


class LeaveOneOut(Baseline):
    """b_k = F(all log-weights but the k-th).

    Takes memory for K times the log-weights.

    References:
        Kool et al. (2019), Buy 4 REINFORCE samples, get a baseline for free!,
        https://openreview.net/forum?id=r1lgTGL5DE

    Example:
        >>> from pyrovae import gradients, objectives
        >>> objective = objectives.ELBO(num_particles=4, gradient=gradients.ScoreFunction(LeaveOneOut()))
    """

    min_draws = 2

    def forward(self, objective: "Objective", terms: Tensor, densities: LogDensities) -> tuple[Tensor, float]:
        """F - b for each draw, `(K, ..., B)`, and no loss."""
        return objective.reduce(terms) - objective.reduce(others(terms)), 0.0


class MovingAverage(Baseline):
    """b = the exponential average of the terms (log-weights) over earlier batches.

    Args:
        decay: weight of the past in each step.

    References:
        Mnih and Gregor (2014), Neural variational inference and learning, https://arxiv.org/abs/1402.0030

    Example:
        >>> from pyrovae import gradients, objectives
        >>> objective = objectives.ELBO(gradient=gradients.ScoreFunction(MovingAverage(decay=0.99)))
    """

    average: Tensor
    started: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = number("decay", decay, least=0, below=1)
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))  # so that none of it is lost in a file
        self.register_buffer("started", torch.zeros(()))

    def forward(self, objective: "Objective", terms: Tensor, densities: LogDensities) -> tuple[Tensor, float]:
        """F - b for each draw, `(K, ..., B)`, and no loss."""
        self.to(terms.device)
        signal = objective.credit(terms - self.average)
        decay = self.decay * self.started  # the first batch is the whole average
        self.average.copy_(decay * self.average + (1 - decay) * terms.mean())
        self.started.fill_(1)
        return signal, 0.0


class Learned(Baseline):
    """b(x), a network fitted to the terms (log-weights) by least squares, in the same step as the model.

    Its parameters are the objective's: `fit` trains them, and so does Pyro's own SVI; an optimiser of your own takes
    `objective.parameters()` too.

    Args:
        network: maps the program's first argument, data `(B, *event)`, to `(B, 1)`, in nats.

    References:
        Mnih and Gregor (2014), Neural variational inference and learning, https://arxiv.org/abs/1402.0030

    Example:
        >>> from pyrovae import gradients, networks, objectives
        >>> baseline = Learned(networks.MLP((1, 8, 8), 1))
        >>> objective = objectives.ELBO(gradient=gradients.ScoreFunction(baseline))
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        parts(network=network)
        self.network = network

    def forward(self, objective: "Objective", terms: Tensor, densities: LogDensities) -> tuple[Tensor, Tensor]:
        """F - b for each draw, `(K, ..., B)`, and the squared error of b, `(..., B)`."""
        pyro.module(unique_name(self), self)
        x = next(iter((*densities.call.args, *densities.call.kwargs.values())))
        b = self.network(x).squeeze(-1)  # (B,)
        return objective.credit(terms - b.detach()), (terms - b).square().mean(0)


def others(terms: Tensor) -> Tensor:
    """For each draw k all draws but that, `(K, ..., B)` to `(K - 1, K, ..., B)`."""
    k = len(terms)
    index = torch.arange(k, device=terms.device)
    rest = torch.arange(k - 1, device=terms.device)[:, None]
    return terms[rest + (rest >= index)]
