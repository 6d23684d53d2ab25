"""The semi-supervised variational autoencoder M2: classes known of some data, and inferred of the others."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn import functional as F

from pyrovae.arguments import number
from pyrovae.conditions import OneHot
from pyrovae.model import Kind, Model, drawn
from pyrovae.networks import Join, Network
from pyrovae.parameters import module
from pyrovae.side_loss import side_loss

__all__ = ["M2"]

_NEVER = -1e9  # a logit of no probability: infinity times 0, which enumeration comes upon, is no number


class M2(Model):
    """p(x, y, z) = p(y) p(z) p(x | z, y), with q(y, z | x) = q(y | x) q(z | x, y), where y is known of some data.

    Where y is known q(y | x) is that class, so that the ELBO bounds log p(x, y); where it is not, with
    `gradients.Enumerate`, the ELBO is the sum over classes of q(y | x) L(x, y), and q's entropy, which bounds log p(x).
    The classifier learns of known classes by -alpha log q(y | x) beside the bound, of whose value that is no part.

    Args:
        prior: p(z).
        likelihood: p(x | z, y), called on `Join(D, C)`.
        encoder: q(z | x, y), called on `Join(x, C)`.
        classifier: network from x to the logits of q(y | x), `(..., C)`; p(y) is 1 / C.
        alpha: weight of the loss of the classifier, for each datum whose class is known.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models, https://arxiv.org/abs/1406.5298

    Example:
        >>> from pyrovae import encoders, gradients, likelihoods, networks, objectives, priors
        >>> m2 = M2(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2 + 10, (1, 8, 8))),
        ...     encoder=encoders.DiagonalNormal(networks.MLP((1 + 10, 8, 8), 2 * 2)),
        ...     classifier=networks.MLP((1, 8, 8), 10),
        ... )
        >>> x, y = torch.zeros(3, 1, 8, 8), torch.tensor([7, -1, -1])  # -1 is not known
        >>> objectives.ELBO(gradient=gradients.Enumerate()).bound(m2.model, m2.guide, x, y).shape
        torch.Size([3])
        >>> m2.classify(x).mean.sum(-1).tolist()
        [1.0, 1.0, 1.0]
    """

    guide_parts = ("encoder", "classifier")

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        likelihood: Callable[[Tensor], TorchDistribution],
        encoder: Callable[[Tensor], TorchDistribution],
        classifier: Network,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(prior=prior, likelihood=likelihood, encoder=encoder, classifier=classifier)
        number("alpha", alpha, least=0)
        self.prior, self.likelihood, self.encoder, self.classifier = prior, likelihood, encoder, classifier
        self.alpha, [self.classes] = alpha, classifier.out_shape
        self.z_and_y = Join(tuple(prior().event_shape), self.classes)
        self.x_and_y = Join(likelihood.event_shape, self.classes)
        for what, part, join in (("p(x | z, y)", likelihood, self.z_and_y), ("q(z | x, y)", encoder, self.x_and_y)):
            given = getattr(part.network, "in_shape", join.out_shape)
            if given != join.out_shape:
                raise ValueError(
                    f"the network of {what} takes {given}, but what it is given has the shape {join.out_shape}"
                )

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, y, z), x observed: data `(B, *event)`, classes `(B,)`, -1 where they are not known."""
        module(self.name, self)  # pyro.module
        known = y
        with pyro.plate("data", len(x)):
            if self.training and known is not None:
                side_loss("classifier", self.alpha * self.log_loss(x, known))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)))  # y ~ p(y) = 1 / C
            z = pyro.sample("z", self.prior())  # z ~ p(z)
            pyro.sample("x", self.likelihood(self.z_and_y(z, y)), obs=x)  # x ~ p(x | z, y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(y, z | x), for data `(B, *event)`, classes `(B,)`, -1 where they are not known."""
        module(self.name, self)  # pyro.module
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.classify(x, y))  # y ~ q(y | x)
            pyro.sample("z", self.encoder(self.x_and_y(x, y)))  # z ~ q(z | x, y)

    def classify(self, x: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """q(y | x), one-hot, batch `(B,)`, event `(C,)`; of what is known, that class."""
        logits = self.classifier(x)
        if y is not None:
            known = torch.full_like(logits, _NEVER).scatter(-1, y.long().clamp(min=0)[:, None], 0.0)
            logits = torch.where((y >= 0)[:, None], known, logits)
        return dist.OneHotCategorical(logits=logits)

    def log_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """-log q(y | x) where the class is known, else 0, `(B,)`."""
        return F.cross_entropy(self.classifier(x), y.long(), ignore_index=-1, reduction="none")

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample", y: Tensor | None = None) -> Tensor:
        """Draw z ~ p(z), and classes unless they are given, `(n,)`: a draw or the mean of p(x | z, y) for each."""
        like = next(self.parameters())
        y = torch.randint(self.classes, (n,), device=like.device) if y is None else y
        if len(y) != n:
            raise ValueError(f"give as many classes as there shall be draws, {n}, not {len(y)}")
        one_hot = OneHot(self.classes)
        one_hot.check(y)
        z = self.prior().sample((n,))
        return drawn(self.likelihood(self.z_and_y(z, one_hot(y))), kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None, kind: Kind = "mean") -> Tensor:
        """Draw y ~ q(y | x) and z ~ q(z | x, y), and give the mean of p(x | z, y), or a draw: `(B, *event)`."""
        y = self.classify(x, y).sample()
        return drawn(self.likelihood(self.z_and_y(self.encoder(self.x_and_y(x, y)).sample(), y)), kind)

    @torch.no_grad()
    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """`accuracy` of the classes that q(y | x) holds likeliest."""
        if labels is None:
            return {}
        found = torch.cat([self.classifier(part).argmax(-1) for part in x.split(1000)])
        return {"accuracy": (found.cpu() == labels.cpu()).double().mean().item()}

    def check(self, x: Tensor, *given: Tensor, name: str = "x") -> None:
        """Refuse data to which p(x | z, y) gives no density, or classes that there are not."""
        super().check(x, name=name)
        for y in given:
            if y.is_floating_point() or y.dim() != 1 or not ((y.long() >= -1) & (y.long() < self.classes)).all():
                raise ValueError(
                    f"classes of {name} are whole numbers from 0 to {self.classes - 1}, -1 where they are not known, "
                    f"(N,), not {y.dtype} {tuple(y.shape)} from {y.min()} to {y.max()}"
                )
