"""Variational autoencoders as probabilistic programs in Pyro."""

from pyrovae import (
    baselines,
    corruptions,
    data,
    diagnostics,
    encoders,
    evaluation,
    exact,
    gradients,
    likelihoods,
    networks,
    objectives,
    plotting,
    priors,
    runs,
    schedules,
)
from pyrovae.autoencoder import Autoencoder
from pyrovae.em import em_step, variational_em
from pyrovae.hierarchical import HierarchicalVAE, LadderVAE
from pyrovae.mixture_vae import MixtureVAE
from pyrovae.svi import SVI
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = [
    "SVI",
    "VAE",
    "Autoencoder",
    "HierarchicalVAE",
    "LadderVAE",
    "MixtureVAE",
    "baselines",
    "corruptions",
    "data",
    "diagnostics",
    "em_step",
    "encoders",
    "evaluation",
    "exact",
    "fit",
    "gradients",
    "likelihoods",
    "networks",
    "objectives",
    "plotting",
    "priors",
    "runs",
    "schedules",
    "variational_em",
]
