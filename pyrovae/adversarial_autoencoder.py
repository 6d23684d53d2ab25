"""Adversarial autoencoders: the codes of all data together are to look like draws of p(z)."""

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.density_ratio import accuracy, annealed, logistic_loss
from pyrovae.distributions.implicit import Implicit
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module
from pyrovae.side_loss import held, side_loss

__all__ = ["AdversarialAutoencoder"]


class AdversarialAutoencoder(Model):
    """p(z) p(x | z), q(z | x): maximises E_q[log p(x | z)] - KL(q(z) || p(z)), of q(z) = E_x[q(z | x)], KL ~ E_q[T(z)].

    Where the ELBO has each q(z | x) near p(z), this has all of them together, the aggregated posterior, so codes may be
    points: with `encoders.Delta`, an autoencoder that can be sampled from. The discriminator T tells codes z ~ q(z)
    from draws of p(z): T = log q(z) - log p(z) has the least loss E_q[-log s(T)] + E_p[-log(1 - s(T))], s the logistic
    function. It learns by a side loss of the same steps, and is held where encoder and decoder learn; it must keep up:
    give the encoder a smaller learning rate than the rest, by `encoder_lr` of `fit`. `objectives.ELBO(beta=...)`
    weights the KL.

    What is maximised exceeds the ELBO by the mutual information of x and z, so it is no bound on log p(x), and none is
    reported: ELBO and KL are NaN. `diagnostics.ais` gives log p(x), as it needs no q(z | x).

    Args:
        prior: p(z); called, gives a distribution of event `(D,)`.
        likelihood: p(x | z).
        encoder: q(z | x), such as `encoders.Delta` or `encoders.DiagonalNormal`, of draws with gradient.
        discriminator: T, a network from z `(D,)` to a number, `(1,)`.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Makhzani et al. (2016), Adversarial autoencoders, https://arxiv.org/abs/1511.05644
        Mescheder et al. (2017), Adversarial variational Bayes, https://arxiv.org/abs/1701.04722

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> autoencoder = AdversarialAutoencoder(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=encoders.Delta(networks.MLP((1, 8, 8), 2)),
        ...     discriminator=networks.MLP(2, 1),
        ... )
        >>> autoencoder.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
        discriminator: nn.Module,
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder, discriminator=discriminator)
        self.prior, self.likelihood, self.encoder, self.discriminator = prior, likelihood, encoder, discriminator
        z = tuple(prior().event_shape)
        found = {
            "encoder gives": (getattr(encoder, "event_shape", z) or z, z),
            "discriminator takes": (getattr(discriminator, "in_shape", z), z),
            "discriminator gives": (getattr(discriminator, "out_shape", (1,)), (1,)),
        }
        for what, (shape, expected) in found.items():
            if tuple(shape) != expected:
                raise ValueError(f"the {what} {tuple(shape)}, but should {expected}, as p(z) is over z of shape {z}")

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z) p(x | z), x observed: data `(B, *event)`; in training, T learns beside it."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # z ~ p(z)
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z)
            if self.training:
                side_loss("discriminator", logistic_loss(*self.log_ratios(z.detach())))

    def guide(self, x: Tensor) -> None:
        """q(z | x), for data `(B, *event)`, scored by the estimate T(z) + log p(z) of log q(z) in its place."""
        module(self.name, self)  # pyro.module
        q = self.encoder(x)
        with pyro.plate("data", len(x)):
            aggregated = Implicit(lambda batch: q.expand(batch).rsample(), self._log_q, q.batch_shape, q.event_shape)
            pyro.sample("z", aggregated)  # z ~ q(z | x)

    def encode(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(B,)`, event `(D,)`, of data x `(B, *event)`."""
        return self.encoder(x)

    def log_ratios(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """T(z) of codes z `(..., D)`, and T(z') of as many draws z' of p(z), `(...)` each."""
        draws = self.prior().expand(z.shape[:-1]).sample()
        return self.discriminator(z).squeeze(-1), self.discriminator(draws).squeeze(-1)

    def _log_q(self, z: Tensor) -> Tensor:
        """T(z) + log p(z), the estimate of log q(z), with a gradient by z alone."""
        return held(self.discriminator, z).squeeze(-1) + held(self.prior).log_prob(z)

    @torch.no_grad()
    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """`estimated_kl`, E[T(z)] ~ KL(q(z) || p(z)); `discriminator_accuracy`, 1/2 for q = p; log p(x) by `ais`."""
        parts = [self.encode(part).expand((100, len(part))).sample() for part in x.split(100)]  # each (100, B, D)
        of_q, of_p = (torch.cat(t, 1) for t in zip(*map(self.log_ratios, parts), strict=True))
        return {
            "estimated_kl": of_q.mean().item(),
            "discriminator_accuracy": accuracy(of_q, of_p).item(),
            **annealed(self, x),
        }

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample") -> Tensor:
        """Draw z ~ p(z) n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""
        return drawn(self.likelihood(self.prior().sample((n,))), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x) for each datum and give the mean of p(x | z), or a draw from it: `(B, *event)`."""
        return drawn(self.likelihood(self.encode(x).sample()), kind)
