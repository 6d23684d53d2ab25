"""The vector-quantised VAE: codes for latent variables, whose vectors are learned."""

from collections.abc import Callable
from math import log, log2, prod

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae import evaluation
from pyrovae.arguments import number, parts
from pyrovae.distributions.codewords import Codewords, Nearest
from pyrovae.gradient import with_value
from pyrovae.model import Kind, Model, drawn
from pyrovae.networks.codebook import Codebook, perplexity
from pyrovae.parameters import module
from pyrovae.priors.codes import CodesPrior, UniformCodes
from pyrovae.side_loss import side_loss

__all__ = ["VQVAE"]


class VQVAE(Model):
    """p(x, c) = p(c) p(x | e_c), with q(c | x) = 1 for the code c whose vector e_c is nearest to z(x).

    L(x) = log p(x | e_c) + log p(c) is the ELBO, a bound on log p(x): of a discrete variable a point mass is a
    probability, log q(c | x) = 0. With p(c) uniform, the KL is the constant L log K. The site's value is a vector z,
    which stands for the code c whose e_c is nearest to it, at each of L positions.

    The encoder learns as if quantising were the identity (straight through), and to stay by its codes: a commitment
    loss b |z - e_c|^2, with e_c held, stands beside the bound, and |z - e_c|^2, with z held, if the codebook learns by
    gradients. p(c) gives no gradient to the others: it is learned at once with them, or by `fit_prior` afterwards.

    A trained model's q(c | x) may be spread over codes by setting its `temperature` T > 0: prod_l q(c_l | x) ~
    exp(-|z_l - e_c|^2 / T). Importance-weighted bounds then come closer to log p(x), where those of a point mass all
    are the ELBO.

    Args:
        network: z(x), maps x to `(..., D L)`.
        codebook: the vectors e_c.
        likelihood: p(x | e_c), called on vectors `(..., D L)`.
        prior: p(c), such as `priors.AutoregressiveCodes`; by default uniform.
        commitment: b.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, https://arxiv.org/abs/1711.00937

    Example:
        >>> from pyrovae import likelihoods, networks, objectives
        >>> vqvae = VQVAE(
        ...     network=networks.MLP((1, 8, 8), 4 * 6),
        ...     codebook=networks.Codebook(codes=16, shape=(4, 6)),  # vectors of 4 numbers, at each of 6 positions
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(4 * 6, (1, 8, 8))),
        ... )
        >>> x = vqvae.sample(5)
        >>> objectives.ELBO().bound(vqvae.model, vqvae.guide, x).shape, vqvae.codes(x).shape
        (torch.Size([5]), torch.Size([5, 6]))
    """

    def __init__(
        self,
        network: nn.Module,
        codebook: Codebook,
        likelihood: Callable[[Tensor], TorchDistribution],
        prior: CodesPrior | None = None,
        commitment: float = 0.25,
    ) -> None:
        super().__init__(network=network, codebook=codebook, likelihood=likelihood)
        size = (prod(codebook.shape),)
        gives = getattr(network, "out_shape", size)
        takes = getattr(getattr(likelihood, "network", None), "in_shape", size)
        if not gives == takes == size:
            raise ValueError(
                f"the codebook reads z of shape {size} as {codebook.shape}, but the network gives {gives} and the "
                f"likelihood's takes {takes}"
            )
        number("commitment", commitment, least=0)
        self.encoder, self.codebook, self.likelihood = network, codebook, likelihood
        self.set_prior(UniformCodes(codebook.positions, codebook.codes) if prior is None else prior)
        self.commitment, self.temperature = commitment, 0.0

    def set_prior(self, prior: CodesPrior) -> None:
        """Put another p(c) in the place of the model's; refused if it is over other codes."""
        parts(prior=prior)
        of, needed = (prior.shape, prior.codes), (self.codebook.positions, self.codebook.codes)
        if of != needed:
            raise ValueError(
                f"the prior is over {of[1]} codes at positions {of[0]}, but the codebook has {needed[1]} at {needed[0]}"
            )
        self.prior = prior

    def model(self, x: Tensor) -> None:
        """p(x, c) = p(c) p(x | e_c), x observed: data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Codewords(self.prior(), self.codebook))  # stands for c ~ p(c)
            e = self.codebook(z)  # e_c
            if self.training:
                side_loss("codebook", self.quantisation_loss(z, e))
            pyro.sample("x", self.likelihood(with_value(e, z)), obs=x)  # x ~ p(x | e_c), straight through to z

    def guide(self, x: Tensor) -> None:
        """q(c | x), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = self.encoder(x)
            if self.training and z.requires_grad:
                self.codebook.update(z)
            pyro.sample("z", self._posterior(z))  # z(x), which stands for its nearest code

    def quantisation_loss(self, z: Tensor, e: Tensor) -> Tensor:
        """|sg z - e|^2 + b |z - sg e|^2 of each datum, `(...)`, of vectors `(..., D L)`; sg is held."""
        return (self.commitment * (z - e.detach()).square() + (z.detach() - e).square()).sum(-1)

    def encode(self, x: Tensor) -> TorchDistribution:
        """The distribution q(c | x), written as vectors, batch `(B,)`, event `(D L,)`, of data `(B, *event)`."""
        return self._posterior(self.encoder(x))

    def _posterior(self, z: Tensor) -> TorchDistribution:
        if self.temperature == 0:
            return Nearest(z, self.codebook)
        codes = dist.Categorical(logits=-self.codebook.distances(z) / self.temperature)
        return Codewords(codes.to_event(len(self.codebook.positions)), self.codebook)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The code at each position whose vector is nearest to z(x), `(B, *positions)`, from 0 to K - 1."""
        return self.codebook.nearest(self.encoder(x))

    def usage(self, x: Tensor) -> Tensor:
        """How often each code is used for data `(N, *event)`, `(K,)`; `perplexity` tells how evenly."""
        return torch.bincount(self.codes(x).flatten(), minlength=self.codebook.codes)

    @torch.no_grad()
    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """How codes are used, what they cost in bits, and log p(x) by 100 draws of a q(c | x) spread over codes.

        Its temperature is the mean of |z_l - e_c|^2, so that it reaches as far as vectors lie from their codes.
        """
        z = torch.cat([self.encoder(part) for part in x.split(1000)])
        codes = self.codebook.nearest(z)
        usage = codes.flatten().bincount(minlength=self.codebook.codes)
        spread = (z - self.codebook(z)).square().sum(-1).mean().item() / prod(self.codebook.positions)
        before, self.temperature = self.temperature, spread
        try:
            bound, evidence = evaluation.scores(self, x, 100)
        finally:
            self.temperature = before
        return {
            "perplexity": perplexity(usage),
            "dead_codes": int((usage == 0).sum()),
            "code_bits": -self.prior().log_prob(codes).mean().item() / log(2),
            "code_bits_uniform": prod(self.codebook.positions) * log2(self.codebook.codes),
            "temperature": spread,
            "elbo_spread": bound.value.mean().item(),
            "log_likelihood": evidence.value.mean().item(),  # in place of draws of a point, which all tell the ELBO
            "log_likelihood_std_error": evidence.std_error.square().sum().sqrt().item() / len(x),
            "log_likelihood_ess": evidence.ess.mean().item(),
            "num_samples": 100,
        }

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw c ~ p(c) n times and give, for each, a draw or the mean of p(x | e_c): `(n, *event)`."""
        return drawn(self.likelihood(self.codebook.look_up(self.prior().sample((n,)))), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw c ~ q(c | x) for each datum and give the mean of p(x | e_c), or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.encode(x).sample()), kind)

    def train(self, mode: bool = True) -> "VQVAE":
        """Set training mode, or evaluation mode; a network whose parameters are all frozen stays in evaluation mode."""
        super().train(mode)
        for part in (self.encoder, self.likelihood):
            part.train(mode and any(p.requires_grad for p in part.parameters()))
        return self
