"""pyrovae: `pyrovae.SVI`, plain and compiled."""

import torch
from torch import Tensor, nn

from peers.case import LEARNING_RATE, Case
from peers.peer import Peer
from pyrovae import SVI, VAE, encoders, likelihoods, networks, objectives, priors
from pyrovae.objective import Objective
from pyrovae.rng import isolated

__all__ = ["Compiled", "Plain", "bound", "build"]


def build(case: Case, device: torch.device) -> VAE:
    """The case's VAE: with the case's weights in a normal case, else with those of a fixed seed."""

    def network(inputs: int, outputs: int) -> networks.MLP:
        return networks.MLP(inputs, outputs, (case.hidden,), nn.Softplus, nn.init.xavier_uniform_)

    with isolated(0):
        vae = VAE(
            getattr(priors, case.prior)(case.latent_dim),
            likelihoods.Bernoulli(network(case.latent_dim, case.pixels)),
            getattr(encoders, case.encoder)(lambda outputs: network(case.pixels, outputs(case.latent_dim))),
        )
    if case.normal:
        vae.load_state_dict(case.weights())
    return vae.to(device)


def bound(case: Case) -> Objective:
    """What is maximised: the ELBO if K = 1, else the IWAE bound."""
    k = case.num_particles
    return objectives.ELBO() if k == 1 else objectives.IWAE(num_particles=k)


class Plain(Peer):
    """`pyrovae.SVI` as it is by default.

    Args:
        case: any case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    compile = False

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        self.vae = build(case, self.device)
        optim = torch.optim.Adam(self.vae.parameters(), lr=LEARNING_RATE)
        self.svi = SVI(self.vae.model, self.vae.guide, optim, loss=bound(case), compile=self.compile)

    @classmethod
    def takes(cls, case: Case) -> bool:
        """See `Peer`: in all."""
        return True

    def take(self, n: int) -> None:
        """Take n steps."""
        for x in self.next(n):
            self.svi.update(x)

    def losses(self, x: Tensor, n: int) -> Tensor:
        """See `Peer`."""
        return torch.tensor([self.svi.evaluate_loss(x) for _ in range(n)]) / len(x)

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        return self.vae.state_dict()


class Compiled(Plain):
    """`pyrovae.SVI(..., compile=True)`.

    Args:
        case: any case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    compile = True
