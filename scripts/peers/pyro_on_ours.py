"""Plain Pyro on the model and guide of our VAE, which are Pyro programs as any."""

from torch import Tensor

from peers.case import Case
from peers.ours import build
from peers.pyro_svi import Pyro
from pyrovae import VAE

__all__ = ["PyroOnOurs"]


class PyroOnOurs(Pyro):
    """For cases with a prior or posterior that the others have not.

    Args:
        case: any case.
        batches: the data, `(batches, B, X)`, on the device.
    """

    @classmethod
    def takes(cls, case: Case) -> bool:
        """See `Peer`: in those in which the example does not."""
        return not case.normal

    def programs(self, case: Case) -> VAE:
        """See `Pyro`."""
        return build(case, self.device)

    def weights(self) -> dict[str, Tensor]:
        """See `Peer`."""
        return self.vae.state_dict()
