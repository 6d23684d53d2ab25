"""Encoders q(z | x): amortised posterior families, modules whose call on data gives the distribution.

An encoder of your own is a small subclass of `Encoder`: its `support`, how many outputs of the network it needs, and a
`distribution(output)` that returns a Pyro distribution of event `(D,)`.
"""

from pyrovae.encoders.autoregressive import IAF, Spline
from pyrovae.encoders.constrained import (
    Bernoulli,
    OneHotCategorical,
    PowerSpherical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from pyrovae.encoders.encoder import Encoder as Encoder
from pyrovae.encoders.flow import Planar, Radial, Sylvester
from pyrovae.encoders.real import Delta, DiagonalNormal, FullRankNormal, Laplace, LowRankNormal, MixtureOfNormals
from pyrovae.encoders.semi_amortized import SemiAmortized

__all__ = [
    "IAF",
    "Bernoulli",
    "Delta",
    "DiagonalNormal",
    "FullRankNormal",
    "Laplace",
    "LowRankNormal",
    "MixtureOfNormals",
    "OneHotCategorical",
    "Planar",
    "PowerSpherical",
    "Radial",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "SemiAmortized",
    "Spline",
    "Sylvester",
]
