"""NumPyro: `numpyro.infer.SVI`, its updates in one jitted `lax.fori_loop` over batches on the device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import torch
from jax import Array, lax, random
from jax.nn import softplus
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.infer.svi import SVIState
from numpyro.optim import Adam
from torch import Tensor

from peers.case import LEARNING_RATE, Case
from peers.peer import Peer

__all__ = ["NumPyro"]

Layers = dict[str, Array]


class NumPyro(Peer):
    """Model and guide as in NumPyro's VAE example. XLA takes as many threads as it likes.

    Args:
        case: a normal case.
        batches: the data, `(batches, B, X)`.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        weights = {name: jnp.asarray(value.numpy().T) for name, value in case.weights().items()}
        self.decoder, self.encoder = (
            {name: w for name, w in weights.items() if name.startswith(part)} for part in ("likelihood", "encoder")
        )
        k = case.num_particles
        loss = Trace_ELBO() if k == 1 else RenyiELBO(alpha=0, num_particles=k)
        self.svi = SVI(self.model, self.guide, Adam(LEARNING_RATE), loss)
        self.data = jnp.asarray(batches.cpu().numpy())
        self.state = self.svi.init(random.PRNGKey(0), self.data[0])
        self.taken = 0
        self.update = jax.jit(self._update, donate_argnums=0)

    @classmethod
    def missing(cls, device: torch.device) -> str | None:
        """Why it does not run on this device, or None if it does."""
        if (sees := jax.default_backend()) != {"cuda": "gpu"}.get(device.type, device.type):
            return f"jax sees no {device.type} device here, only {sees}"
        return None

    def model(self, x: Array) -> None:
        """p(x, z)."""
        decoder = numpyro.param("decoder", self.decoder)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([self.case.latent_dim]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=_network(decoder, z)).to_event(1), obs=x)

    def guide(self, x: Array) -> None:
        """q(z | x)."""
        encoder = numpyro.param("encoder", self.encoder)
        with numpyro.plate("data", len(x)):
            loc, a = jnp.split(_network(encoder, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, softplus(a) + 1e-4).to_event(1))

    def take(self, n: int) -> None:
        """Take n steps."""
        self.state = self.update(self.state, self.data, self.taken, n)
        self.taken += n

    def finish(self) -> None:
        """Wait until all steps are finished."""
        jax.block_until_ready(self.state)

    def losses(self, x: Tensor, n: int) -> Tensor:
        """See `Peer`."""
        data, keys, loss = jnp.asarray(x.cpu().numpy()), random.split(random.PRNGKey(1), n), self.svi.loss.loss
        parameters = self.svi.get_params(self.state)
        losses = jax.jit(partial(lax.map, lambda key: loss(key, parameters, self.model, self.guide, data)))
        return torch.tensor(losses(keys).tolist()) / len(x)

    def peak(self) -> int:
        """The most bytes that its arrays took on the GPU so far."""
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        parts = self.svi.get_params(self.state).values()
        return {name: torch.tensor(jax.device_get(w).T) for part in parts for name, w in part.items()}

    def _update(self, state: SVIState, data: Array, first: int, n: int) -> SVIState:
        return lax.fori_loop(first, first + n, lambda i, s: self.svi.update(s, data[i % len(data)])[0], state)


def _network(layers: Layers, x: Array) -> Array:
    """W_2 softplus(W_1 x + b_1) + b_2."""
    first_bias, first, second_bias, second = (layers[name] for name in sorted(layers))
    return softplus(x @ first + first_bias) @ second + second_bias
