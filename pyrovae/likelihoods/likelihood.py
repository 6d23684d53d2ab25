"""What every likelihood is: p(x | z), a family for a datum, whose parameters a network computes from z."""

from abc import abstractmethod

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrovae.conditional import Conditional
from pyrovae.data import Dataset
from pyrovae.networks import Network

__all__ = ["Elementwise", "Likelihood"]


_REMEDY = "remove or impute it, or let IncompleteVAE learn from what is observed"


class Likelihood(Conditional):
    """Abstract p(x | z); arguments as those of `Conditional`.

    A subclass sets `support`, the constraint on one element of x, and `remedy`, what to do with data outside of it.
    """

    support: constraints.Constraint
    remedy: str

    @abstractmethod
    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""

    def parameters_of(self, z: Tensor) -> tuple[Tensor, ...]:
        """The parameters of each element given z `(..., D)`, each `(..., *event)`, for a family of P for each."""
        first = z.dim() - 1
        return self.output(z, first).chunk(self.num_parameters, first)

    @abstractmethod
    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` well when z tells nothing, each `event`.

        One after the other along the first dimension they make the network's output.
        """

    def start_from(self, dataset: Dataset) -> None:
        """Start training from a good p(x | z) that ignores z."""
        self.start_at_mean(dataset.train)

    def start_at_mean(self, x: Tensor) -> None:
        """Set the network's output bias so that training starts from a good p(x | z) that ignores z.

        Args:
            x: data, or the intensities of which they are drawn, `(N, *event)`.

        References:
            Burda et al. (2016), Importance weighted autoencoders, appendix, https://arxiv.org/abs/1509.00519
        """
        if not isinstance(self.network, Network):
            raise ValueError(
                f"start_at_mean sets the output bias of a pyrovae network, not of {type(self.network).__name__}"
            )
        if self.network.one_bias_per_channel:  # then each pixel is a datum of its channel
            ones = (1,) * (x.dim() - 2)
            x = x.movedim(1, -1).flatten(0, -2).unflatten(1, (-1, *ones))  # (N H W, C, 1, 1)
        self.network.set_output_bias(torch.cat(self.marginal_parameters(x)))

    def check(self, x: Tensor, name: str = "x") -> None:
        """Refuse data that p(x | z) gives no density.

        Args:
            x: data, `(N, *event)`.
            name: what the message calls them.

        Raises:
            ValueError: for an empty set, integers, NaN, another shape, or values outside the support.
        """
        if x.dim() == 0 or (self.event_shape is not None and x.shape[1:] != self.event_shape):
            raise ValueError(
                f"{name} holds data of shape {tuple(x.shape[1:])}, but {type(self).__name__}'s network gives "
                f"{self.event_shape}: build it for the shape of the data, or reshape them"
            )
        if len(x) == 0:
            raise ValueError(f"{name} is empty, shape {tuple(x.shape)}: give at least one datum")
        if not x.is_floating_point():
            raise ValueError(
                f"{name} holds {x.dtype} where a density needs floating point: convert it by x.float(), images of "
                f"0..255 by x.float() / 255"
            )
        self._check_values(x, ~x.isfinite(), name, "finite values", _REMEDY)
        self._check_values(x, ~self.support.check(x), name, f"data in the support {self.support}", self.remedy)

    def _check_values(self, x: Tensor, bad: Tensor, name: str, needs: str, remedy: str) -> None:
        if bad.any():
            first = tuple(bad.nonzero()[0].tolist())
            more = int(bad.sum()) - 1
            raise ValueError(
                f"{type(self).__name__} needs {needs}, but {name}[{', '.join(map(str, first))}] is "
                f"{x[first].item():.9g}{f' (and {more} more are no better)' if more else ''}: {remedy}"
            )


class Elementwise(Likelihood):
    """Abstract p(x | z) = prod_i p(x_i; theta_i(z)): given z, the elements of x are independent.

    Arguments as those of `Conditional`.
    """

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        parameters = self.parameters_of(z)
        return self.element(*parameters).to_event(parameters[0].dim() - z.dim() + 1)

    @abstractmethod
    def element(self, *parameters: Tensor) -> TorchDistribution:
        """The distribution of each element, batch `(..., *event)`, of its P parameters, each `(..., *event)`."""
