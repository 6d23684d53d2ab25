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
from pyrovae.applications.latent_map import latent_moments, neighbours, path, plane, quantile_grid, tsne
from pyrovae.applications.manifold import by_components, by_model, told
from pyrovae.applications.paths import linear, spherical
from pyrovae.applications.posterior_regions import posterior_regions
from pyrovae.applications.pseudo_gibbs import pseudo_gibbs
from pyrovae.applications.traversals import traversal
from pyrovae.applications.uncertainty import predictive, predictive_coverage, region_coverage

__all__ = [
    "AUROC",
    "Compressed",
    "Denoised",
    "aggregate_posterior",
    "anomaly_scores",
    "attribute_vector",
    "augmented",
    "auroc",
    "by_components",
    "by_model",
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
    "latent_moments",
    "likelihood_regret",
    "linear",
    "log_score",
    "measured",
    "nearest_neighbours",
    "neighbours",
    "observed_log_likelihood",
    "path",
    "plane",
    "posterior_regions",
    "predictive",
    "predictive_coverage",
    "pseudo_gibbs",
    "quantile_grid",
    "region_coverage",
    "rightly_told",
    "share",
    "spherical",
    "told",
    "traversal",
    "tsne",
    "typicality",
    "typicality_threshold",
]
