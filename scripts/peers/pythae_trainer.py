"""pythae: its VAE and IWAE, trained by its trainer's own epoch over batches on the device."""

import logging
from collections.abc import Iterator

import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler
from torch import Tensor
from torch.nn.functional import softplus

from peers.case import LEARNING_RATE, Case
from peers.networks import Networks
from peers.peer import Peer

__all__ = ["Pythae"]


class Pythae(Peer):
    """pythae's `BaseTrainer.train_step`, which is an epoch, without its `DataLoader` and its progress bar.

    Args:
        case: a normal case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    def __init__(self, case: Case, batches: Tensor) -> None:
        super().__init__(case, batches)
        logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.WARNING)
        self.networks = Networks(case, self.device)
        options = {"input_dim": (case.pixels,), "latent_dim": case.latent_dim, "reconstruction_loss": "bce"}
        parts = {"encoder": Encoder(self.networks), "decoder": Decoder(self.networks)}
        if case.num_particles == 1:
            self.model = VAE(VAEConfig(**options), **parts)
        else:
            self.model = IWAE(IWAEConfig(**options, number_samples=case.num_particles), **parts)
            self.loss_of = _self_normalised
        first = batches[0].cpu()
        config = BaseTrainerConfig(
            per_device_train_batch_size=case.batch_size, learning_rate=LEARNING_RATE, no_cuda=self.device.type == "cpu"
        )
        self.trainer = BaseTrainer(self.model, BaseDataset(first, torch.zeros(len(first))), training_config=config)
        self.trainer.set_optimizer()
        self.trainer.callback_handler = CallbackHandler([], self.model)

    def take(self, n: int) -> None:
        """Take n steps, each of which reads its loss back."""
        self.trainer.train_loader = Resident(self, n)
        self.trainer.train_step(epoch=1)

    @torch.no_grad()
    def losses(self, x: Tensor, n: int) -> Tensor:
        """See `Peer`; pythae's are means over the batch."""
        return torch.stack([self.model(DatasetOutput(data=x)).loss for _ in range(n)])

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        return self.networks.weights()


def _self_normalised(log_weight: Tensor) -> Tensor:
    """-sum_k w_k log w_k / sum_k w_k, pythae's IWAE loss, whose gradient is that of the bound but not its value."""
    return -(log_weight.softmax(0) * log_weight).sum(0)


class Resident:
    """What the trainer takes for its loader: the peer's next n batches.

    Args:
        peer: whose.
        n: how many.
    """

    def __init__(self, peer: Peer, n: int) -> None:
        self.peer, self.n, self.dataset = peer, n, range(n * peer.case.batch_size)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[DatasetOutput]:
        return (DatasetOutput(data=x) for x in self.peer.next(self.n))


class Encoder(BaseEncoder):
    """The case's encoder, as pythae takes one.

    Args:
        networks: the case's.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.network = networks.encoder

    def forward(self, x: Tensor) -> ModelOutput:
        """The mean and log-variance of q(z | x)."""
        loc, a = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * (softplus(a) + 1e-4).log())


class Decoder(BaseDecoder):
    """The case's decoder, as pythae takes one.

    Args:
        networks: the case's.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.network = networks.decoder

    def forward(self, z: Tensor) -> ModelOutput:
        """The mean of p(x | z)."""
        return ModelOutput(reconstruction=self.network(z).sigmoid())
