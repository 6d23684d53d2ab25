"""Priors p(z) over latent vectors z of D dimensions: modules whose call gives the distribution.

A prior of your own is a small subclass of `Prior` with a `forward` that returns a Pyro distribution of event `(D,)`.
"""

from pyrovae.priors.codes import AutoregressiveCodes as AutoregressiveCodes
from pyrovae.priors.codes import UniformCodes as UniformCodes
from pyrovae.priors.discrete import Bernoulli, OneHotCategorical, RelaxedBernoulli, RelaxedOneHotCategorical
from pyrovae.priors.flow import FlowPrior
from pyrovae.priors.gaussian_process import GaussianProcess
from pyrovae.priors.prior import Prior as Prior
from pyrovae.priors.real import HypersphericalUniform, Laplace, MixtureOfNormals, Normal, StandardNormal, StudentT
from pyrovae.priors.vamp import VampPrior

__all__ = [
    "Bernoulli",
    "FlowPrior",
    "GaussianProcess",
    "HypersphericalUniform",
    "Laplace",
    "MixtureOfNormals",
    "Normal",
    "OneHotCategorical",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]
