"""A VAE of data with missing values: p(x_obs), for those elements of each x that are observed."""

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.missing import masked
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module
from pyrovae.vae import VAE

__all__ = ["IncompleteVAE"]


class IncompleteVAE(Model):
    """p(x_obs, z) = p(z) prod_(i observed) p(x_i | z), with q(z | x_obs): data with missing values.

    The programs take `observed` beside x, booleans `(B, *event)`. A missing element has no likelihood, and the encoder
    sees 0 in its place, so its value makes no difference; it must lie in the likelihood's support, as 0 mostly does.
    Then p(x_obs) is right where values are missing at random: whether they are depends on what is observed alone.

    With `objectives.IWAE` the bound E[log 1/K sum_k p(z_k) p(x_obs | z_k) / q(z_k | x_obs)] is what Mattei and Frellsen
    call MIWAE, for missing data. `objectives.MIWAE` is another thing of that name, the mean of M bounds.

    Args:
        prior: p(z), as that of a `VAE`.
        likelihood: p(x | z), of elements that are independent given z.
        encoder: q(z | x_obs), called on x with 0 where it is missing.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Mattei and Frellsen (2019), MIWAE: deep generative modelling and imputation of incomplete data sets,
        https://arxiv.org/abs/1812.02633
        Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs, https://arxiv.org/abs/1807.03653

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, objectives, priors
        >>> vae = IncompleteVAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Normal(networks.MLP(2, 5)),
        ...     encoder=encoders.DiagonalNormal(networks.MLP(5, 2 * 2)),
        ... )
        >>> x, observed = torch.randn(20, 5), torch.rand(20, 5) > 0.5
        >>> objectives.IWAE(num_particles=50).bound(vae.model, vae.guide, x, observed).shape
        torch.Size([20])
    """

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder)
        if hasattr(encoder, "join"):
            raise ValueError(
                f"{type(encoder).__name__} looks at p(x | z) of all elements, also of those that are missing: use "
                f"another encoder such as encoders.DiagonalNormal"
            )
        VAE(prior, likelihood, encoder)  # refuses what does not fit together, and makes a VampPrior this encoder's
        self.prior, self.likelihood, self.encoder = prior, likelihood, encoder

    def model(self, x: Tensor, observed: Tensor) -> None:
        """p(x_obs, z), x_obs observed: data `(B, *event)`, booleans `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # z ~ p(z)
            pyro.sample("x", masked(self.likelihood(z), observed), obs=x)  # x_obs ~ p(x_obs | z)

    def guide(self, x: Tensor, observed: Tensor) -> None:
        """q(z | x_obs), for data `(B, *event)`, booleans `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x, observed))  # z ~ q(z | x_obs)

    def encode(self, x: Tensor, observed: Tensor) -> TorchDistribution:
        """The distribution q(z | x_obs), batch `(B,)`, event `(D,)`."""
        return self.encoder(torch.where(observed, x, 0.0))

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw z ~ p(z) n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""
        return drawn(self.likelihood(self.prior().sample((n,))), kind)

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x_obs) for each datum and put the mean of p(x | z), or a draw, where x is missing."""
        return torch.where(observed, x, drawn(self.likelihood(self.encode(x, observed).sample()), kind))

    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The share of elements that are observed."""
        return {"observed": given[0].double().mean().item()}

    def check(self, x: Tensor, *given: Tensor, name: str = "x") -> None:
        """Refuse data to which p(x_obs | z) gives no density, or of which it is not told what is observed."""
        if len(given) != 1 or given[0].dtype != torch.bool or given[0].shape != x.shape:
            raise ValueError(
                f"{name} needs to be told which of its elements are observed: give (x, observed), observed being "
                f"booleans of the shape {tuple(x.shape)}"
            )
        if not x[~given[0]].isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity where it is not observed: put there any value that the likelihood "
                f"takes, such as 0, of which nothing is seen"
            )
        super().check(x, name=name)
