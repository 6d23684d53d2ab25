"""The hierarchical variational autoencoder, whose layers are inferred from the data upwards."""

from collections.abc import Callable, Sequence

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.layers import Given, Layers
from pyrovae.parameters import module

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(Layers):
    """p(x, z) = p(z_L) prod_l p(z_l | z_(l+1)) p(x | z_1), with q(z | x) = q(z_1 | x) prod_l q(z_(l+1) | z_l).

    The guide goes from the data upwards, each layer from a draw of the one below.

    Args:
        prior: p(z_L); called, gives a distribution of event `(D_L,)`.
        decoders: p(z_1 | z_2), ..., p(z_(L-1) | z_L), such as `encoders.DiagonalNormal`, each called on z `(..., D)`.
        likelihood: p(x | z_1).
        encoders: q(z_1 | x), q(z_2 | z_1), ..., q(z_L | z_(L-1)).

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Burda et al. (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519
        Rezende et al. (2014), Stochastic backpropagation and approximate inference, https://arxiv.org/abs/1401.4082

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> vae = HierarchicalVAE(
        ...     prior=priors.StandardNormal(2),
        ...     decoders=[encoders.DiagonalNormal(networks.MLP(2, 2 * 4))],
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(4, (1, 8, 8))),
        ...     encoders=[
        ...         encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 4)),
        ...         encoders.DiagonalNormal(networks.MLP(4, 2 * 2)),
        ...     ],
        ... )
        >>> vae.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    guide_parts = ("encoders",)

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        decoders: Sequence[Given],
        likelihood: Given,
        encoders: Sequence[Given],
    ) -> None:
        super().__init__(prior, decoders, likelihood)
        if len(encoders) != len(self.latents):
            raise ValueError(f"{len(self.latents)} layers of z need as many encoders, not {len(encoders)}")
        self.encoders = nn.ModuleList(encoders)

    def guide(self, x: Tensor) -> None:
        """q(z | x) = q(z_1 | x) prod_l q(z_(l+1) | z_l), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = x
            for name, encoder in zip(self.latents, self.encoders, strict=True):
                z = pyro.sample(name, encoder(z))  # z_1 ~ q(z_1 | x), z_(l+1) ~ q(z_(l+1) | z_l)
