"""Diagnostics: what is wrong with a fitted model, if anything, each answer with its Monte Carlo error."""

from pyrovae.diagnostics.annealing import (
    AIS,
    BDMC,
    Agreement,
    agreement,
    ais,
    bdmc,
    linear_schedule,
    sigmoidal_schedule,
)
from pyrovae.diagnostics.calibration import Calibration, calibration
from pyrovae.diagnostics.collapse import Collapse, collapse
from pyrovae.diagnostics.effective_beta import EffectiveBeta, effective_beta
from pyrovae.diagnostics.frechet import frechet_distance, principal_components
from pyrovae.diagnostics.gaps import Gaps, gaps
from pyrovae.diagnostics.hmc import HMC, hmc
from pyrovae.diagnostics.information import Information, information
from pyrovae.diagnostics.posteriors import Posteriors, posteriors
from pyrovae.diagnostics.predictive import Check, predictive_checks, replicate
from pyrovae.diagnostics.refined import refined
from pyrovae.diagnostics.reliability import Reliability, reliability
from pyrovae.diagnostics.representation import classification, disentanglement, latent_means
from pyrovae.diagnostics.two_sample import two_sample
from pyrovae.diagnostics.verdict import Findings, verdict

__all__ = [
    "AIS",
    "BDMC",
    "HMC",
    "Agreement",
    "Calibration",
    "Check",
    "Collapse",
    "EffectiveBeta",
    "Findings",
    "Gaps",
    "Information",
    "Posteriors",
    "Reliability",
    "agreement",
    "ais",
    "bdmc",
    "calibration",
    "classification",
    "collapse",
    "disentanglement",
    "effective_beta",
    "frechet_distance",
    "gaps",
    "hmc",
    "information",
    "latent_means",
    "linear_schedule",
    "posteriors",
    "predictive_checks",
    "principal_components",
    "refined",
    "reliability",
    "replicate",
    "sigmoidal_schedule",
    "two_sample",
    "verdict",
]
