"""A VAE with a mixture for p(z) whose component is a latent variable of its own: clusters without labels."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.distributions import normal
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module
from pyrovae.priors import MixtureOfNormals

__all__ = ["MixtureVAE"]


class MixtureVAE(Model):
    """p(x, z, c) = pi_c N(z; mu_c, diag(sigma_c^2)) p(x | z), with q(z, c | x) = q(z | x) p(c | z).

    Given z, the component's posterior is known: p(c | z) ~ pi_c N(z; mu_c, diag(sigma_c^2)). With `gradients.Enumerate`
    the component is summed out, and the ELBO is that of a `VAE` with the same mixture for p(z).

    Args:
        prior: the mixture, p(c) p(z | c).
        likelihood: p(x | z).
        encoder: q(z | x).

    Raises:
        ValueError: if the prior is no mixture of normals.

    References:
        Jiang et al. (2017), Variational deep embedding, https://arxiv.org/abs/1611.05148
        Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture variational autoencoders,
        https://arxiv.org/abs/1611.02648

    Example:
        >>> from pyrovae import encoders, gradients, likelihoods, networks, objectives, priors
        >>> vae = MixtureVAE(
        ...     prior=priors.MixtureOfNormals(2, components=10),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 2)),
        ... )
        >>> x = vae.sample(5)
        >>> objectives.ELBO(gradient=gradients.Enumerate()).bound(vae.model, vae.guide, x).shape, vae.cluster(x).shape
        (torch.Size([5]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        prior: MixtureOfNormals,
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder)
        if not isinstance(prior, MixtureOfNormals):
            raise ValueError(
                f"the components must be normals, as in priors.MixtureOfNormals, not {type(prior).__name__}"
            )
        self.prior, self.likelihood, self.encoder = prior, likelihood, encoder

    def model(self, x: Tensor) -> None:
        """p(x, z, c) = p(c) p(z | c) p(x | z), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.prior.logits))  # c ~ p(c)
            z = pyro.sample("z", self.component(c))  # z ~ p(z | c)
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z)

    def guide(self, x: Tensor) -> None:
        """q(z, c | x) = q(z | x) p(c | z), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.encoder(x))  # z ~ q(z | x)
            pyro.sample("c", dist.Categorical(logits=self.log_joint(z)))  # c ~ p(c | z)

    def encode(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(B,)`, event `(D,)`, of data x `(B, *event)`."""
        return self.encoder(x)

    def component(self, c: Tensor) -> TorchDistribution:
        """p(z | c), for components c `(...)`: batch `(...)`, event `(D,)`."""
        normals = self.prior().component_distribution.base_dist  # batch (C, D)
        return normal.Normal(normals.loc[c], normals.scale[c]).to_event(1)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(c) p(z | c) of every c, for z `(..., D)`: `(..., C)`."""
        p = self.prior()
        return p.component_distribution.log_prob(z[..., None, :]) + p.mixture_distribution.logits

    @torch.no_grad()
    def cluster(self, x: Tensor, num_samples: int = 100) -> Tensor:
        """E_q[p(c | z)], the probabilities of the components given each datum, by draws of q(z | x), `(B, C)`."""
        return self.log_joint(self.encoder(x).sample((num_samples,))).softmax(-1).mean(0)

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw c and z n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""
        return drawn(self.likelihood(self.prior().sample((n,))), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x) for each datum and give the mean of p(x | z), or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.encode(x).sample()), kind)
