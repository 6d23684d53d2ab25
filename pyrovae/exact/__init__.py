"""Models whose answers are known: log p(x), p(z | x), the ELBO and its gap in closed form, or as sums and integrals.

Each holds a `vae`, a live `VAE` in float64: its methods give the answers for the parameters as they are, in nats for
each datum, differentiably. Train `model.vae` with any objective, and `model.log_likelihood(x)` still is exact;
`torch.autograd.grad(model.elbo(x).sum(), model.vae.parameters())` is the gradient that estimators are to meet.
"""

from pyrovae.exact.discrete import BernoulliToy
from pyrovae.exact.gaussian_mixture import GaussianMixture
from pyrovae.exact.gaussian_toy import GaussianToy
from pyrovae.exact.linear_gaussian import LinearGaussian
from pyrovae.quadrature import GridPosterior, grid_posterior

__all__ = ["BernoulliToy", "GaussianMixture", "GaussianToy", "GridPosterior", "LinearGaussian", "grid_posterior"]
