"""The family: every model that the library has."""

from pyrovae.autoencoder import Autoencoder
from pyrovae.hierarchical import HierarchicalVAE
from pyrovae.ladder import LadderVAE
from pyrovae.mixture_vae import MixtureVAE
from pyrovae.vae import VAE

__all__ = ["VAE", "Autoencoder", "HierarchicalVAE", "LadderVAE", "MixtureVAE"]
