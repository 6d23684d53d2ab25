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
from pyrovae.models import M2, VAE, VQVAE, Autoencoder, ConditionalVAE, HierarchicalVAE, LadderVAE, MixtureVAE, TwoLevelVAE
from pyrovae.svi import SVI
from pyrovae.training import fit
from pyrovae.vq_vae import fit_prior

__all__ = [
    "M2",
    "SVI",
    "VAE",
    "VQVAE",
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
    "fit_prior",
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
