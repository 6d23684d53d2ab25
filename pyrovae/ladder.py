"""The ladder variational autoencoder, whose layers are inferred from the top downwards."""

from collections.abc import Callable, Iterable, Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.distributions import normal
from pyrovae.layers import Given, Layers
from pyrovae.parameters import module
from pyrovae.sites import base, family

__all__ = ["LadderVAE"]


class LadderVAE(Layers):
    """The model of `HierarchicalVAE`, with q(z | x) = q(z_L | x) prod_l q(z_l | z_(l+1), x), from the top downwards.

    What the data say of a layer, N(z_l; m_l(x), s_l(x)^2), is multiplied by what the model says of it given the layer
    above, p(z_l | z_(l+1)) = N(z_l; mu, sigma^2): q(z_l | z_(l+1), x) is normal, with the sum of both precisions.

    Args:
        prior: p(z_L); called, gives a distribution of event `(D_L,)`.
        decoders: p(z_1 | z_2), ..., p(z_(L-1) | z_L), diagonal normals.
        likelihood: p(x | z_1).
        networks: h_1(x), h_2(h_1), ..., h_L(h_(L-1)), without noise.
        encoders: N(z_l; m_l, s_l^2) given h_l, for l = 1, ..., L, diagonal normals.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Sonderby et al. (2016), Ladder variational autoencoders, https://arxiv.org/abs/1602.02282

    Example:
        >>> import torch
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> vae = LadderVAE(
        ...     prior=priors.StandardNormal(2),
        ...     decoders=[encoders.DiagonalNormal(networks.MLP(2, 2 * 4))],
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(4, (1, 8, 8))),
        ...     networks=[networks.MLP((1, 8, 8), 16), networks.MLP(16, 16)],
        ...     encoders=[
        ...         encoders.DiagonalNormal(networks.MLP(16, 2 * 4, hidden=())),
        ...         encoders.DiagonalNormal(networks.MLP(16, 2 * 2, hidden=())),
        ...     ],
        ... )
        >>> vae.reconstruct(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 1, 8, 8])
    """

    guide_parts = ("networks", "encoders")

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        decoders: Sequence[Given],
        likelihood: Given,
        networks: Sequence[nn.Module],
        encoders: Sequence[Given],
    ) -> None:
        super().__init__(prior, decoders, likelihood)
        if not len(networks) == len(encoders) == len(self.latents):
            raise ValueError(
                f"{len(self.latents)} layers of z need as many networks and encoders, not {len(networks)} and "
                f"{len(encoders)}"
            )
        self.networks, self.encoders = nn.ModuleList(networks), nn.ModuleList(encoders)

    def guide(self, x: Tensor) -> None:
        """q(z | x) = q(z_L | x) prod_l q(z_l | z_(l+1), x), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            *given, top = [encoder(h) for encoder, h in zip(self.encoders, self._upwards(x), strict=True)]
            *latents, name = self.latents
            z = pyro.sample(name, top)  # z_L ~ q(z_L | x)
            layers = zip(reversed(latents), reversed(self.decoders), reversed(given), strict=True)
            for name, decoder, q in layers:
                z = pyro.sample(name, product(decoder(z), q))  # z_l ~ q(z_l | z_(l+1), x)

    def _upwards(self, h: Tensor) -> Iterable[Tensor]:
        """h_1, ..., h_L."""
        for network in self.networks:
            h = network(h)
            yield h


def product(p: TorchDistribution, q: TorchDistribution) -> TorchDistribution:
    """The normal density that p(z) q(z) is, but for a constant: precisions add, means are weighted by them.

    Args:
        p: a diagonal normal, event `(D,)`.
        q: another.

    Raises:
        ValueError: if one of them is no diagonal normal.

    Example:
        >>> import torch
        >>> p, q = (normal.Normal(torch.tensor([m]), torch.tensor([1.0])).to_event(1) for m in (0.0, 2.0))
        >>> product(p, q).mean, product(p, q).variance
        (tensor([1.]), tensor([0.5000]))
    """
    (p_z, p_n), (q_z, q_n) = base(p), base(q)
    if not (isinstance(p_z, dist.Normal) and isinstance(q_z, dist.Normal) and p_n == q_n == 1):
        raise ValueError(
            f"a product is of diagonal normals, as of encoders.DiagonalNormal, not of {family(p)} and {family(q)}"
        )
    a, b = p_z.scale.pow(-2), q_z.scale.pow(-2)
    return normal.Normal((a * p_z.loc + b * q_z.loc) / (a + b), (a + b).rsqrt()).to_event(1)
