"""Variational autoencoders as probabilistic programs in Pyro."""

from pyrovae import data, encoders, evaluation, likelihoods, networks, objectives, plotting, priors, runs
from pyrovae.svi import SVI
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = [
    "SVI",
    "VAE",
    "data",
    "encoders",
    "evaluation",
    "fit",
    "likelihoods",
    "networks",
    "objectives",
    "plotting",
    "priors",
    "runs",
]
