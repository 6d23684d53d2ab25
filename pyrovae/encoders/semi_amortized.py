"""Semi-amortised inference: what the network gives for a datum is improved on that datum's own ELBO."""

from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import number, whole
from pyrovae.conditional import Build
from pyrovae.encoders.encoder import Encoder
from pyrovae.encoders.real import DiagonalNormal

__all__ = ["SemiAmortized"]

_LONGEST = 5.0  # gradient of a datum's ELBO, as in the paper


class SemiAmortized(Encoder):
    """q(z | x) = q(z; lambda_T), lambda_(t+1) = lambda_t + lr grad ELBO(x; lambda_t), lambda_0 = network(x).

    Each step takes the gradient of one draw of every datum's own ELBO, shortened to 5 if it is longer. The noise is new
    in each step, as the best q for a fixed draw is infinitely wide; so q differs from call to call, each time a density
    whose ELBO is a bound. Training differentiates through the steps, to encoder and model.

    Args:
        network: maps x to lambda_0, the parameters of the family; or a function that builds it, given `num_outputs`.
        family: makes the encoder of a network, whose distribution is reparameterised.
        steps: T.
        lr: of the steps.

    Raises:
        ValueError: if it is not part of a VAE when it is called, the family is not reparameterised, steps is negative,
            or lr is not positive.

    References:
        Kim et al. (2018), Semi-amortized variational autoencoders, https://arxiv.org/abs/1802.02550

    Example:
        >>> from pyrovae import VAE, likelihoods, networks, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))),
        ...     encoder=SemiAmortized(lambda outputs: networks.MLP((1, 8, 8), outputs(2))),
        ... )
        >>> vae.encode(torch.zeros(20, 1, 8, 8)).batch_shape
        torch.Size([20])
    """

    def __init__(
        self,
        network: nn.Module | Build,
        family: Callable[[nn.Module], Encoder] = DiagonalNormal,
        steps: int = 5,
        lr: float = 0.1,
    ) -> None:
        nn.Module.__init__(self)  # not Encoder's, as the network is the family's
        self.steps, self.lr = whole("steps", steps, least=0), number("lr", lr, above=0)
        self.family = family(network)
        self.support = self.family.support
        self.joined: tuple[nn.Module, ...] = ()  # in a tuple they are no submodules, nor in the state_dict

    @property
    def network(self) -> nn.Module:
        """The family's."""
        return self.family.network

    def num_outputs(self, size: int) -> int:
        """First dimension of the network's output, for z of dimension `size`; it rises with it."""
        return self.family.num_outputs(size)

    def join(self, vae: nn.Module) -> None:
        """Take p(z) and p(x | z) of the VAE that it is part of, whose constructor calls this.

        Raises:
            ValueError: if it has those of another VAE.
        """
        model = (vae.prior, vae.likelihood)
        if self.joined and any(a is not b for a, b in zip(self.joined, model, strict=True)):
            raise ValueError("this SemiAmortized improves by another VAE's model: give each VAE one of its own")
        self.joined = model

    def forward(self, x: Tensor) -> TorchDistribution:
        """The distribution q(z | x), batch `(...)`, event `(D,)`, of data x `(..., *event)`."""
        if not self.joined:
            raise ValueError("SemiAmortized improves q(z | x) by the model's ELBO, but has no model: put it in a VAE")
        train = torch.is_grad_enabled()
        output = self.output(x, dim=-1)
        with torch.enable_grad():
            for _ in range(self.steps):
                output = output if output.requires_grad else output.detach().requires_grad_()
                (g,) = torch.autograd.grad(self._elbo(x, output), output, create_graph=train)
                shorten = _LONGEST / g.norm(dim=-1, keepdim=True).clamp(min=_LONGEST)  # (..., 1)
                output = output + self.lr * shorten * g
                output = output if train else output.detach()
        return self.distribution(output)

    def distribution(self, output: Tensor) -> TorchDistribution:
        """The member of the family, batch `(...)`, event `(D,)`, that has these parameters."""
        return self.family.distribution(output)

    def _elbo(self, x: Tensor, output: Tensor) -> Tensor:
        """Sum over the data of log p(x | z) + log p(z) - log q(z), z one draw of each datum's q."""
        prior, likelihood = self.joined
        q = self.distribution(output)
        if not q.has_rsample or not getattr(q, "twice_differentiable", True):
            raise ValueError(
                f"SemiAmortized needs draws that are twice differentiable in their parameters, as it is trained by the "
                f"gradient of gradient steps, but those of {type(self.family).__name__} are not: use another family, "
                f"like DiagonalNormal"
            )
        z = q.rsample()
        return (likelihood(z).log_prob(x) + prior().log_prob(z) - q.log_prob(z)).sum()
