"""What a fitted model is used for, each as a function of the model and of data."""

from pyrovae.applications.aggregate_posterior import aggregate_posterior
from pyrovae.applications.anomalies import anomaly_scores, likelihood_regret, typicality, typicality_threshold
from pyrovae.applications.arithmetic import attribute_vector, share
from pyrovae.applications.augmentation import augmented, few_of_each, rightly_told
from pyrovae.applications.auroc import AUROC, auroc
from pyrovae.applications.bits_back import Compressed, compress, decompress
from pyrovae.applications.decoding import decoded
from pyrovae.applications.denoising import Denoised, denoise
from pyrovae.applications.filling import column_means, nearest_neighbours
from pyrovae.applications.generation import distances, generated
from pyrovae.applications.geodesics import geodesic, measured
from pyrovae.applications.imputation import importance_resampling, log_score, observed_log_likelihood
from pyrovae.applications.paths import linear, spherical
from pyrovae.applications.pseudo_gibbs import pseudo_gibbs
from pyrovae.applications.traversals import traversal

__all__ = [
    "AUROC",
    "Compressed",
    "Denoised",
    "aggregate_posterior",
    "anomaly_scores",
    "attribute_vector",
    "augmented",
    "auroc",
    "column_means",
    "compress",
    "decoded",
    "decompress",
    "denoise",
    "distances",
    "few_of_each",
    "generated",
    "geodesic",
    "importance_resampling",
    "likelihood_regret",
    "linear",
    "log_score",
    "measured",
    "nearest_neighbours",
    "observed_log_likelihood",
    "pseudo_gibbs",
    "rightly_told",
    "share",
    "spherical",
    "traversal",
    "typicality",
    "typicality_threshold",
]
