"""The family: every model that the library has."""

from pyrovae.adversarial_autoencoder import AdversarialAutoencoder
from pyrovae.adversarial_vb import AdversarialVB
from pyrovae.autoencoder import Autoencoder
from pyrovae.conditional_vae import ConditionalVAE
from pyrovae.deep_markov import DeepMarkovModel
from pyrovae.hierarchical import HierarchicalVAE
from pyrovae.incomplete_vae import IncompleteVAE
from pyrovae.ladder import LadderVAE
from pyrovae.m2 import M2
from pyrovae.mixture_vae import MixtureVAE
from pyrovae.two_level_vae import TwoLevelVAE
from pyrovae.vae import VAE
from pyrovae.vq_vae import VQVAE

__all__ = [
    "M2",
    "VAE",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialVB",
    "Autoencoder",
    "ConditionalVAE",
    "DeepMarkovModel",
    "HierarchicalVAE",
    "IncompleteVAE",
    "LadderVAE",
    "MixtureVAE",
    "TwoLevelVAE",
]
