"""Likelihoods p(x | z): families for one element of a datum, whose parameters a network computes from z.

A likelihood of your own is a small subclass of `Likelihood`: its `support`, its `forward(z)`, and what its parameters
are for data of a given mean.
"""

import math
from abc import abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyrovae.conditional import Build, Conditional
from pyrovae.networks import Network
from pyrovae.scale import MIN_SCALE, positive, unconstrained

__all__ = ["Bernoulli", "Normal"]


class Likelihood(Conditional):
    """Abstract p(x | z): given z, the elements of x are independent.

    A subclass sets `support`, the constraint on one element of x, and `remedy`, what to do with data outside of it.
    """

    support: constraints.Constraint
    remedy: str

    @abstractmethod
    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""

    @abstractmethod
    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""

    def start_at_mean(self, x: Tensor) -> None:
        """Set the network's output bias so that training starts from the best p(x | z) that ignores z.

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
            x = x.movedim(1, -1).flatten(0, -2)[..., None, None]  # (N H W, C, 1, 1)
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
                f"{name} holds {x.dtype} where a density needs floating point: convert it, for images of 0..255 by "
                f"x.float() / 255"
            )
        self._check_values(x, ~x.isfinite(), name, "finite values", "remove or impute it")
        self._check_values(x, ~self.support.check(x), name, f"data in the support {self.support}", self.remedy)

    def _check_values(self, x: Tensor, bad: Tensor, name: str, needs: str, remedy: str) -> None:
        if bad.any():
            first = tuple(bad.nonzero()[0].tolist())
            more = int(bad.sum()) - 1
            raise ValueError(
                f"{type(self).__name__} needs {needs}, but {name}[{', '.join(map(str, first))}] is "
                f"{x[first].item():.9g}{f' (and {more} more are no better)' if more else ''}: {remedy}"
            )


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(logit_i(z))), for x_i in {0, 1}.

    Args:
        network: maps z to the logits, `(..., *event)`; or a function that builds it, given 1.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyrovae import networks
        >>> p = Bernoulli(networks.MLP(2, (1, 8, 8)))(torch.zeros(20, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([20]), torch.Size([1, 8, 8]))
    """

    support = constraints.boolean
    remedy = (
        "grey values have no Bernoulli density, so binarize them (data.load(..., binarize='dynamic'), or "
        "data.Intensities(x), which fit draws anew each epoch), or take another likelihood such as Normal"
    )

    def __init__(self, network: nn.Module | Build) -> None:
        super().__init__(network, num_parameters=1)

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        (logits,) = self.parameters_of(z, dim=z.dim() - 1)
        return dist.Bernoulli(logits=logits).to_event(logits.dim() - z.dim() + 1)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        return (torch.logit(x.mean(0), eps=1e-3),)


class Normal(Likelihood):
    """p(x | z) = prod_i N(x_i; mu_i(z), sigma_i^2), with one sigma for all elements, or one for each.

    Squared error is this likelihood with the scale fixed at sqrt(1/2), and hides a weight between the two terms of the
    ELBO; a learned scale finds that weight.

    Args:
        network: maps z to mu, `(..., *event)`, or to mu and the unconstrained sigma `(..., 2 C, ...)` if `scale` is
            None; or a function that builds it, given the number of parameters.
        scale: sigma, or None for one for each element, computed by the network.
        learned: whether a sigma given as a number is where it starts, or stays.

    References:
        Rybkin et al. (2021), Simple and effective VAE training with calibrated decoders,
        https://arxiv.org/abs/2006.13202

    Example:
        >>> from pyrovae import networks
        >>> Normal(networks.MLP(2, 3), scale=0.5, learned=False)(torch.zeros(20, 2)).stddev[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    support = constraints.real
    remedy = "remove or impute it"

    def __init__(self, network: nn.Module | Build, scale: float | None = 1.0, learned: bool = True) -> None:
        super().__init__(network, num_parameters=2 if scale is None else 1)
        if scale is not None:
            if not MIN_SCALE < scale < math.inf:
                raise ValueError(f"scale must be finite and above {MIN_SCALE}, not {scale}")
            value = unconstrained(torch.tensor(float(scale)))
            if learned:
                self.unconstrained_scale = nn.Parameter(value)
            else:
                self.register_buffer("unconstrained_scale", value)

    def forward(self, z: Tensor) -> TorchDistribution:
        """The distribution p(x | z), batch `(...)`, event the shape of one datum, of latents z `(..., D)`."""
        loc, *scale = self.parameters_of(z, dim=z.dim() - 1)
        scale = positive(scale[0] if scale else self.unconstrained_scale)
        return dist.Normal(loc, scale).to_event(loc.dim() - z.dim() + 1)

    def marginal_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parameters that fit data `(N, *event)` best when z tells nothing, each `event`."""
        # An element that never varies would start with a scale of 0, which the least error makes costly.
        scale = x.std(0, correction=0).clamp(min=0.1 * x.std().item())
        return (x.mean(0), unconstrained(scale))[: self.num_parameters]
