"""Sequences: a deep Markov model, and a guide that reads them from their end."""

from collections.abc import Callable, Iterator

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import whole
from pyrovae.evaluation import kl_per_layer
from pyrovae.ladder import product
from pyrovae.lengths import check_lengths, counted, steps_of
from pyrovae.model import Kind, Model, drawn
from pyrovae.parameters import ModuleParameters, module
from pyrovae.resampling import resampled

__all__ = ["DeepMarkovModel"]

Given = Callable[[Tensor], TorchDistribution]  # a distribution given a value


class DeepMarkovModel(Model):
    """p(x, z) = prod_t p(z_t | z_(t-1)) p(x_t | z_t), with q(z | x) = prod_t q(z_t | z_(t-1), x_t, ..., x_T).

    The steps of a datum are its rows: T steps of F numbers, `(T, F)`, or the H rows of an image, `(C, H, W)`, each of
    shape `(C, W)`. A datum may have a length L of its own: of the steps after it nothing counts.

    Given z_(t-1), the posterior of z_t depends on the steps from t on: p(z_t | z_(t-1)) p(x_t, ..., x_T | z_t), but for
    a constant. As a `product`, q is p(z_t | z_(t-1)) times the encoder's normal, so that a state starts as the chain
    has it. Otherwise it is the encoder's distribution, of any family: `encoders.IAF` gives each z_t a flow.

    Args:
        prior: p(z_1); called, gives a distribution of event `(D,)`.
        transition: p(z_t | z_(t-1)), such as `encoders.DiagonalNormal(networks.GatedTransition(D))`.
        likelihood: p(x_t | z_t), whose event is one step: `(F,)`, or `(C, W)`.
        reader: x `(B, T, *step)` to h_1, ..., h_T, `(B, T, H)`, such as `networks.BackwardRecurrent`.
        combiner: z_(t-1) and h_t to one vector, such as `networks.Combiner` or `networks.Join`; z_0 is 0.
        encoder: q(z_t | z_(t-1), x_(t:T)), or its second factor, called on that vector.
        steps: T of what `sample` draws.
        product: whether q is a product with p(z_t | z_(t-1)), of diagonal normals.

    Raises:
        ValueError: if the parts do not fit together.

    References:
        Krishnan et al. (2017), Structured inference networks for nonlinear state space models,
        https://arxiv.org/abs/1609.09869

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> markov = DeepMarkovModel(
        ...     prior=priors.StandardNormal(4),
        ...     transition=encoders.DiagonalNormal(networks.GatedTransition(4)),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(4, (1, 8))),
        ...     reader=networks.BackwardRecurrent((1, 8), hidden=32),
        ...     combiner=networks.Combiner(4, 32),
        ...     encoder=encoders.DiagonalNormal(networks.MLP(32, 2 * 4, hidden=())),
        ...     steps=8,
        ... )
        >>> markov.sample(5).shape, markov.forecast(torch.zeros(3, 1, 6, 8), steps=2).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([3, 1, 2, 8]))
    """

    guide_parts = ("reader", "combiner", "encoder")

    def __init__(
        self,
        prior: Callable[[], TorchDistribution],
        transition: Given,
        likelihood: Given,
        reader: nn.Module,
        combiner: nn.Module,
        encoder: Given,
        steps: int,
        product: bool = False,
    ) -> None:
        super().__init__(
            prior=prior, transition=transition, likelihood=likelihood, reader=reader, combiner=combiner, encoder=encoder
        )
        whole("steps", steps)
        self.prior, self.transition, self.likelihood = prior, transition, likelihood
        self.reader, self.combiner, self.encoder, self.steps, self.product = reader, combiner, encoder, steps, product
        self._check_fit()

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """p(x, z), x observed: data `(B, *event)`, of lengths `(B,)`, from 1 to T, or all of T steps."""
        module(self.name, self)  # pyro.module
        steps, seen = steps_of(x, lengths)  # (B, T, *step), (B, T)
        with pyro.plate("data", len(x)):
            z, states = x.new_zeros(self.prior().event_shape), []
            for t in range(steps.shape[1]):
                with counted(seen, t):  # z_1 ~ p(z_1), z_t ~ p(z_t | z_(t-1))
                    z = pyro.sample(f"z{t + 1}", self._next(z, t))
                states.append(z)
            p = self.likelihood(_stack(states)).mask(True if seen is None else seen)
            pyro.sample("x", p.to_event(1), obs=steps)  # x_t ~ p(x_t | z_t), t = 1, ..., L

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """q(z | x), for data `(B, *event)`, of lengths `(B,)`, from 1 to T, or all of T steps."""
        module(self.name, self)  # pyro.module
        steps, seen = steps_of(x, lengths)
        h = self.reader(steps, seen)  # (B, T, H)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(self.prior().event_shape)
            for t in range(steps.shape[1]):
                with counted(seen, t):  # z_t ~ q(z_t | z_(t-1), x_(t:L))
                    q = self.encoder(self.combiner(z, h[:, t]))
                    z = pyro.sample(f"z{t + 1}", product(self._next(z, t), q) if self.product else q)

    @torch.no_grad()
    def sample(self, n: int, kind: Kind = "sample", steps: int | None = None) -> Tensor:
        """Draw z_1, ..., z_T n times and give, for each, a draw or the mean of p(x | z): `(n, *event)`."""
        z = self.prior().sample((n,))
        return self._data([z, *self._onwards(z, (self.steps if steps is None else whole("steps", steps)) - 1)], kind)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, lengths: Tensor | None = None, kind: Kind = "mean") -> Tensor:
        """Draw z ~ q(z | x) for each datum and give the mean of p(x | z), or a draw from it: `(B, *event)`."""
        with ModuleParameters():  # past Pyro's store
            nodes = poutine.trace(self.guide).get_trace(x, lengths).nodes
        return self._data([nodes[f"z{t + 1}"]["value"] for t in range(x.shape[-2])], kind)

    @torch.no_grad()
    def forecast(self, x: Tensor, steps: int, kind: Kind = "sample", num_samples: int = 100) -> Tensor:
        """Draw what comes after x_1, ..., x_t, of p(x_(t+1), ..., x_(t+S) | x_1, ..., x_t).

        The state z_t is one of K draws of the guide, `resampled`, as the guide may never have seen a sequence so short.

        Args:
            x: what is known, `(B, *event)`, of t steps.
            steps: S.
            kind: of p(x_(t+1), ... | z_(t+1), ...), a draw or the mean.
            num_samples: K.
        """
        whole("steps", steps), whole("num_samples", num_samples)
        z = resampled(self, x, f"z{x.shape[-2]}", num_samples)
        return self._data(list(self._onwards(z, steps)), kind)

    def own_numbers(self, x: Tensor, *given: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The KL of each step, E_q[log q(z_t | z_(t-1), x) - log p(z_t | z_(t-1))], the mean over data, in nats.

        Args:
            x: data, `(N, *event)`.
            given: their lengths, `(N,)`, or nothing.
            labels: not used.
        """
        return {f"kl_{name}": kl.mean().item() for name, kl in kl_per_layer(self, (x, *given)).items()}

    def check(self, x: Tensor, *given: Tensor, name: str = "x") -> None:
        """Refuse data, called `name` in the message, to which p(x | z) gives no density, and what are no lengths.

        Args:
            x: the data; what is past their ends does not matter.
            given: their lengths, `(N,)`, or nothing.
            name: what the message calls x.
        """
        if x.dim() < 3:
            raise ValueError(f"{name} holds data of shape {tuple(x.shape[1:])}: give sequences (T, F) or images")
        for lengths in given:
            check_lengths(lengths, x, name)
        for t, step in enumerate(steps_of(x, *given)[0].unbind(1)):
            super().check(step, name=f"step {t + 1} of {name}")

    def _next(self, z: Tensor, t: int) -> TorchDistribution:
        """What comes after t steps: p(z_1), or p(z_(t+1) | z_t)."""
        return self.transition(z) if t else self.prior()

    def _onwards(self, z: Tensor, steps: int) -> Iterator[Tensor]:
        """Draws of the states that come after z."""
        for _ in range(steps):
            z = self.transition(z).sample()
            yield z

    def _data(self, z: list[Tensor], kind: Kind) -> Tensor:
        """Draws or means of p(x | z), `(..., *event)`."""
        return drawn(self.likelihood(_stack(z)), kind).movedim(1, -2)

    def _check_fit(self) -> None:
        z = self.prior().event_shape
        for part, takes, given in (
            ("transition's network", _of_network(self.transition, "in_shape"), z),
            ("likelihood's network", _of_network(self.likelihood, "in_shape"), z),
            ("reader", getattr(self.reader, "in_shape", None), getattr(self.likelihood, "event_shape", None)),
            ("combiner", getattr(self.combiner, "a", None), z),
            ("combiner", getattr(self.combiner, "b", None), getattr(self.reader, "out_shape", None)),
            ("encoder's network", _of_network(self.encoder, "in_shape"), getattr(self.combiner, "out_shape", None)),
            ("chain of z", z, getattr(self.transition, "event_shape", None)),
            ("chain of z", z, getattr(self.encoder, "event_shape", None)),
        ):
            if None not in (takes, given) and tuple(takes) != tuple(given):
                raise ValueError(f"the {part} is for the shape {tuple(takes)}, but is given {tuple(given)}")


def _stack(z: list[Tensor]) -> Tensor:
    """z_1, ..., z_T as one, `(..., T, D)`."""
    return torch.stack(torch.broadcast_tensors(*z), -2)


def _of_network(part: Given, name: str) -> tuple[int, ...] | None:
    return getattr(getattr(part, "network", None), name, None)
