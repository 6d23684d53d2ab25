"""Adversarial variational Bayes: q(z | x) of any shape, its KL learned by a discriminator."""

from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import parts, whole
from pyrovae.density_ratio import accuracy, annealed, logistic_loss
from pyrovae.distributions.implicit import Implicit
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import module
from pyrovae.side_loss import held, side_loss

__all__ = ["AdversarialVB"]


class AdversarialVB(Model):
    """p(z) p(x | z), q(z | x): z = g(eps, x), eps ~ N(0, I), with log q(z | x) ~ T(z, x) + log r(z | x).

    g may make a q(z | x) of any shape, whose density has no formula. The discriminator T tells its draws from those of
    a reference r that has one: T = log q(z | x) - log r(z | x) has the least loss E_q[-log s(T)] + E_r[-log(1 - s(T))],
    s the logistic function. The reference is p(z), or by adaptive contrast a normal N(z; m(x), diag(s(x)^2)) of the
    likeliest mean and deviation for draws of q(z | x): nearer to it, r leaves less for T to tell, which sees
    (z - m) / s. KL(q || p) = E_q[T + log r - log p(z)] for any r. T and r learn by side losses of the same steps, and
    are held where q(z | x) and the model learn; they must keep up: give the encoder a smaller learning rate than the
    rest, such as a fifth of it, by `encoder_lr` of `fit`. Even so, of modes far apart it may find one.

    What is maximised is the ELBO with this KL as T estimates it. It is a bound for the best T alone, so none is
    reported: ELBO and KL are NaN. `diagnostics.ais` gives log p(x), as it needs no q(z | x).

    Args:
        prior: p(z); called, gives a distribution of event `(D,)`.
        likelihood: p(x | z).
        encoder: g, a network of eps and x, such as `networks.Joined`, to z `(D,)`.
        discriminator: T, a network of z and x to a number, `(1,)`.
        noise_dim: of eps.
        reference: r(z | x), such as `encoders.DiagonalNormal`, of a family with a mean and deviation; None is p(z).

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Mescheder et al. (2017), Adversarial variational Bayes, https://arxiv.org/abs/1701.04722

    Example:
        >>> from pyrovae import likelihoods, networks, priors
        >>> vae = AdversarialVB(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=networks.Joined(networks.MLP((1, 8, 8), 16), networks.MLP(3 + 16, 2)),
        ...     discriminator=networks.Joined(networks.MLP((1, 8, 8), 16), networks.MLP(2 + 16, 1)),
        ...     noise_dim=3,
        ... )
        >>> vae.encode(torch.zeros(5, 1, 8, 8)).sample((4,)).shape
        torch.Size([4, 5, 2])
    """

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: nn.Module,
        discriminator: nn.Module,
        noise_dim: int,
        reference: Callable[[Tensor], TorchDistribution] | None = None,
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder, discriminator=discriminator)
        z = tuple(prior().event_shape)
        shapes = {"encoder": (encoder, z), "discriminator": (discriminator, (1,))}
        for part, (network, shape) in shapes.items():
            if (gives := getattr(network, "out_shape", shape)) != shape:
                raise ValueError(f"the {part} gives the shape {gives}, but should {shape}, for z of shape {z}")
        if reference is not None:
            parts(reference=reference)
            if (gives := getattr(reference, "event_shape", None)) not in (None, z):
                raise ValueError(f"the reference is over z of shape {gives}, but the prior over {z}")
        self.prior, self.likelihood, self.noise_dim = prior, likelihood, whole("noise_dim", noise_dim)
        self.encoder, self.discriminator, self.reference = encoder, discriminator, reference

    def model(self, x: Tensor) -> None:
        """p(x, z) = p(z) p(x | z), x observed: data `(B, *event)`; in training, T and r learn beside it."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())  # z ~ p(z)
            pyro.sample("x", self.likelihood(z), obs=x)  # x ~ p(x | z)
            if self.training:
                side_loss("discriminator", logistic_loss(*self.log_ratios(x, z.detach())))
            if self.training and self.reference is not None:
                side_loss("reference", -self.reference(x).log_prob(z.detach()))

    def guide(self, x: Tensor) -> None:
        """q(z | x), for data `(B, *event)`."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x))  # z = g(eps, x)

    def encode(self, x: Tensor) -> Implicit:
        """q(z | x), batch `(B,)`, event `(D,)`, of data x `(B, *event)`; its log-density is T's estimate."""

        def draw(batch: torch.Size) -> Tensor:
            return self.encoder(torch.randn(*batch, self.noise_dim, dtype=x.dtype, device=x.device), x)

        def log_density(z: Tensor) -> Tensor:
            r = self.contrast(x)
            return self._log_ratio(partial(held, self.discriminator), x, z, r) + r.log_prob(z)

        return Implicit(draw, log_density, (len(x),), self.prior().event_shape)

    def contrast(self, x: Tensor) -> TorchDistribution:
        """r(z | x), without gradient by its parameters: batch `(B,)`, or of p(z) `()`."""
        return held(self.prior) if self.reference is None else held(self.reference, x)

    def log_ratios(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """T of draws z `(..., B, D)` of q(z | x), and of as many draws of r(z | x), `(..., B)` each."""
        r = self.contrast(x)
        draws = r.expand(z.shape[:-1]).sample()
        return self._log_ratio(self.discriminator, x, z, r), self._log_ratio(self.discriminator, x, draws, r)

    def _log_ratio(self, discriminator: Callable, x: Tensor, z: Tensor, r: TorchDistribution) -> Tensor:
        """T(z, x), the estimate of log q(z | x) - log r(z | x)."""
        z = z if self.reference is None else (z - r.mean) / r.stddev
        return discriminator(z, x).squeeze(-1)

    @torch.no_grad()
    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """`estimated_kl`, E_q[T + log r - log p(z)]; `discriminator_accuracy`, 1/2 for q = r; log p(x) by `ais`."""
        kl, ratios = [], []
        for part in x.split(100):
            z = (q := self.encode(part)).sample((100,))  # (100, B, D)
            kl.append(q.log_prob(z) - self.prior().log_prob(z))
            ratios.append(self.log_ratios(part, z))
        of_q, of_r = (torch.cat(t, 1) for t in zip(*ratios, strict=True))
        return {
            "estimated_kl": torch.cat(kl, 1).mean().item(),
            "discriminator_accuracy": accuracy(of_q, of_r).item(),
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
