"""Networks: maps between tensors, with no probability in them.

A network maps `(..., *in_shape)` to `(..., *out_shape)` for any leading dimensions, so that one call serves a datum, a
batch `(B, ...)` and K samples for each datum of a batch `(K, B, ...)`. In training mode, batch normalization takes its
means over all of these rows, and no row's output is then a function of its input alone.
"""

from pyrovae.networks.codebook import Codebook as Codebook
from pyrovae.networks.convolutional import Conv, ConvTranspose, ResidualConv, ResidualConvTranspose
from pyrovae.networks.fully_connected import MLP, GatedMLP
from pyrovae.networks.grid import ConvGrid as ConvGrid
from pyrovae.networks.grid import ConvGridTranspose as ConvGridTranspose
from pyrovae.networks.join import Join as Join
from pyrovae.networks.join import Joined as Joined
from pyrovae.networks.markov import BackwardRecurrent as BackwardRecurrent
from pyrovae.networks.markov import Combiner as Combiner
from pyrovae.networks.markov import GatedTransition as GatedTransition
from pyrovae.networks.network import Network as Network
from pyrovae.networks.per_datum import PerDatum
from pyrovae.networks.recurrent import Recurrent, RecurrentTranspose

__all__ = [
    "MLP",
    "Conv",
    "ConvTranspose",
    "GatedMLP",
    "PerDatum",
    "Recurrent",
    "RecurrentTranspose",
    "ResidualConv",
    "ResidualConvTranspose",
]
