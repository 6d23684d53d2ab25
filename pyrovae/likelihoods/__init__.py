"""Likelihoods p(x | z): families for one element of a datum, whose parameters a network computes from z.

A likelihood of your own is a small subclass of `Elementwise`: its `support`, the distribution of its `element`s, and
what its parameters are for data of a given mean. Where the elements depend on each other, it is one of `Likelihood`,
with a `forward(z)` that gives the distribution of a whole datum.
"""

from pyrovae.likelihoods.counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyrovae.likelihoods.grey_levels import Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from pyrovae.likelihoods.likelihood import Elementwise as Elementwise
from pyrovae.likelihoods.likelihood import Likelihood as Likelihood
from pyrovae.likelihoods.location_scale import Laplace, Normal, StudentT
from pyrovae.likelihoods.unit_interval import Bernoulli, Beta, ContinuousBernoulli

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Laplace",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
