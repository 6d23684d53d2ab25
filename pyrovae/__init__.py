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
    models,
    networks,
    objectives,
    plotting,
    priors,
    runs,
    schedules,
)
from pyrovae.em import em_step, variational_em
from pyrovae.models import VAE, Autoencoder, HierarchicalVAE, LadderVAE, MixtureVAE
from pyrovae.svi import SVI
from pyrovae.training import fit

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
    "models",
    "networks",
    "objectives",
    "plotting",
    "priors",
    "runs",
    "schedules",
    "variational_em",
]
