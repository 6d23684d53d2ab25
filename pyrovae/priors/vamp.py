"""The VampPrior: a mixture of the encoder's own posteriors."""

from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.arguments import tensor, whole
from pyrovae.distributions.mixture import Mixture
from pyrovae.priors.prior import Prior
from pyrovae.rng import isolated

if TYPE_CHECKING:
    from pyrovae.data import Dataset
    from pyrovae.vae import VAE

__all__ = ["VampPrior"]


class VampPrior(Prior):
    """p(z) = 1/C sum_c q(z | u_c), where q is the VAE's encoder and u_1 ... u_C are pseudo-inputs.

    The pseudo-inputs are free: where the paper clips them to [0, 1], for pixels, and so stops the gradient of those
    outside, these may go anywhere, as data of other kinds do. Unless given, they start uniform on [0, 1]; `start_from`,
    of which the scripts make use, starts them as the training data are.

    Args:
        latent_dim: D, dimensions of z.
        components: C, how many pseudo-inputs.
        pseudo_inputs: where the pseudo-inputs start, `(C, *event)`, in place of `components`.
        learned: whether the pseudo-inputs are learned, or stay where they start.
        of_data: whether `start_from` makes random training data of them, or normals of the training data's mean and
            standard deviation, element by element.

    Raises:
        ValueError: if there are no components; if it is called outside of a VAE.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks
        >>> encoder = encoders.DiagonalNormal(networks.MLP((1, 8, 8), 2 * 2))
        >>> vae = VAE(VampPrior(2, components=50), likelihoods.Bernoulli(networks.MLP(2, (1, 8, 8))), encoder)
        >>> vae.prior.pseudo_inputs.shape
        torch.Size([50, 1, 8, 8])
    """

    pseudo_inputs: Tensor

    def __init__(
        self,
        latent_dim: int,
        components: int = 500,
        pseudo_inputs: Tensor | None = None,
        learned: bool = True,
        of_data: bool = False,
    ) -> None:
        super().__init__(latent_dim)
        inputs = None if pseudo_inputs is None else tensor("pseudo_inputs", pseudo_inputs)
        self.components = whole("components", components if inputs is None else len(inputs))
        self.given, self.learned, self.of_data = pseudo_inputs is not None, learned, of_data
        self.joined: tuple[nn.Module, ...] = ()  # in a tuple the encoder is no submodule: its parameters are the VAE's
        if pseudo_inputs is not None:
            self._hold(pseudo_inputs)

    def join(self, vae: "VAE") -> None:
        """Become the prior of this VAE.

        Raises:
            ValueError: if its encoder cannot be the components of a mixture.
        """
        encoder = vae.encoder
        if self.joined and self.joined[0] is not encoder:
            raise ValueError("this VampPrior is made of another VAE's encoder: give each VAE a VampPrior of its own")
        self._check(encoder)
        if not hasattr(self, "pseudo_inputs"):
            self._hold(_like(encoder).new_empty(self.components, *encoder.network.in_shape).uniform_())
        self.joined = (encoder,)

    @torch.no_grad()
    def start_from(self, dataset: "Dataset") -> None:
        """Start the pseudo-inputs as the training data are, unless they were given.

        Raises:
            ValueError: if they shall be training data, and there are too few.
        """
        if self.given:
            return
        x = dataset.train.as_subclass(Tensor)
        if not self.of_data:
            noise = torch.randn(self.components, *x.shape[1:], dtype=x.dtype, device=x.device)
            self.pseudo_inputs.copy_(x.mean(0) + x.std(0) * noise)
        elif self.components > len(x):
            raise ValueError(
                f"{self.components} pseudo-inputs shall be training data, of which there are {len(x)}: use "
                f"components={len(x)} or fewer"
            )
        else:
            self.pseudo_inputs.copy_(x[torch.randperm(len(x), device=x.device)[: self.components]])

    def forward(self) -> TorchDistribution:
        """The distribution p(z), batch `()`, event `(D,)`."""
        if not self.joined:
            raise ValueError("a VampPrior is made of a VAE's encoder: put it in one, VAE(prior=VampPrior(D), ...)")
        q = self.joined[0](self.pseudo_inputs)  # batch (C,)
        return Mixture(dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs))), q)

    def _hold(self, pseudo_inputs: Tensor) -> None:
        if self.learned:
            self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())
        else:
            self.register_buffer("pseudo_inputs", pseudo_inputs.detach().clone())

    def _check(self, encoder: nn.Module) -> None:
        name = type(encoder).__name__
        if hasattr(encoder, "join"):
            raise ValueError(
                f"{name} needs the model for q(z | x), and the model's VampPrior would need {name}: use another prior "
                f"such as priors.MixtureOfNormals, or another encoder such as encoders.DiagonalNormal"
            )
        shape = getattr(getattr(encoder, "network", None), "in_shape", None)
        if shape is None:
            if not hasattr(self, "pseudo_inputs"):
                raise ValueError(
                    f"the network of {name} does not tell the shape of its input as `in_shape`: give pseudo_inputs"
                )
            shape = self.pseudo_inputs.shape[1:]
        elif hasattr(self, "pseudo_inputs") and self.pseudo_inputs.shape[1:] != shape:
            raise ValueError(f"{name} takes data {shape}, but the pseudo-inputs are {tuple(self.pseudo_inputs.shape)}")
        with torch.no_grad(), isolated():
            given = hasattr(self, "pseudo_inputs")
            q = encoder(self.pseudo_inputs[:2] if given else _like(encoder).new_empty(2, *shape).uniform_())
            if q.event_shape != (self.latent_dim,):
                raise ValueError(f"the prior is over z of shape {(self.latent_dim,)}, {name} gives {q.event_shape}")
            try:
                scored = q.log_prob(q.sample().flip(0)).isfinite().all()  # each draw by the other's density
            except (KeyError, NotImplementedError):
                scored = False
        if not scored:
            raise ValueError(
                f"a VampPrior gives each z the density of every q(z | u_c), but {name} has none for a z that it did "
                f"not draw itself: use another encoder such as encoders.DiagonalNormal, or another prior"
            )


def _like(encoder: nn.Module) -> Tensor:
    """A tensor of the encoder's dtype and device."""
    return next(encoder.parameters(), torch.empty(0))
