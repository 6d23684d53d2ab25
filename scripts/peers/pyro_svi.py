"""Plain Pyro: `pyro.infer.SVI`, a Pyro ELBO and `pyro.optim.Adam`, as in Pyro's VAE example."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.nn.functional import softplus

from peers.case import LEARNING_RATE, Case
from peers.networks import Networks
from peers.peer import Peer

__all__ = ["Pyro"]


class Pyro(Peer):
    """Pyro's VAE example, with the case's networks.

    The parameter store is cleared, as there. Pyro's validation is on, as it is unless switched off.

    Args:
        case: a normal case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        pyro.clear_param_store()
        self.vae, k = self.programs(case), case.num_particles
        loss = Trace_ELBO() if k == 1 else RenyiELBO(0, k, max_plate_nesting=1, vectorize_particles=True)
        self.svi = SVI(self.vae.model, self.vae.guide, Adam({"lr": LEARNING_RATE}), loss=loss)

    def programs(self, case: Case) -> nn.Module:
        """What has the model and the guide."""
        return Example(case, self.device)

    def take(self, n: int) -> None:
        """Take n steps, each of which reads its loss back."""
        for x in self.next(n):
            self.svi.step(x)

    def losses(self, x: Tensor, n: int) -> Tensor:
        """See `Peer`."""
        return torch.tensor([self.svi.evaluate_loss(x) for _ in range(n)]) / len(x)

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        return self.vae.networks.weights()


class Example(nn.Module):
    """Pyro's VAE example, with the case's networks.

    Args:
        case: a normal case.
        device: where the networks are.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__()
        self.latent_dim = case.latent_dim
        self.networks = Networks(case, device)
        self.encoder, self.decoder = self.networks.encoder, self.networks.decoder

    def model(self, x: Tensor) -> None:
        """p(x, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.latent_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.latent_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            logits = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, a = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(z_loc, softplus(a) + 1e-4).to_event(1))
