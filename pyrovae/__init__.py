"""Variational autoencoders as probabilistic programs in Pyro."""

from pyrovae import (
    baselines,
    conditions,
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
from pyrovae.models import M2, VAE, Autoencoder, ConditionalVAE, HierarchicalVAE, LadderVAE, MixtureVAE, TwoLevelVAE
from pyrovae.svi import SVI
from pyrovae.training import fit

__all__ = [
    "M2",
    "SVI",
    "VAE",
    "Autoencoder",
    "ConditionalVAE",
    "HierarchicalVAE",
    "LadderVAE",
    "MixtureVAE",
    "TwoLevelVAE",
    "baselines",
    "conditions",
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
