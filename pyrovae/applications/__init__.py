"""What a fitted model is used for, each as a function of the model and of data."""

from pyrovae.applications.anomalies import anomaly_scores, likelihood_regret, typicality, typicality_threshold
from pyrovae.applications.auroc import AUROC, auroc
from pyrovae.applications.denoising import Denoised, denoise

__all__ = [
    "AUROC",
    "Denoised",
    "anomaly_scores",
    "auroc",
    "denoise",
    "likelihood_regret",
    "typicality",
    "typicality_threshold",
]
