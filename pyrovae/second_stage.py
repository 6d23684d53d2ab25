"""The second stage of a vector-quantised VAE: p(c) is learned when the codes are."""

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.em import _fixed
from pyrovae.priors.codes import CodesPrior
from pyrovae.training import History, fit
from pyrovae.vq_vae import VQVAE

__all__ = ["fit_prior"]


def fit_prior(
    vqvae: VQVAE,
    train: Tensor | Dataset,
    valid: Tensor | None = None,
    prior: CodesPrior | None = None,
    **options: Any,
) -> History:
    """Maximise log p(c(x)) over p(c) alone: the ELBO by `fit`, with all else frozen, so that log p(x | e_c) stays.

    Args:
        vqvae: the model, its encoder, codebook and decoder learned; its prior is changed in place.
        train: data, as for `fit`.
        valid: data to validate on after each epoch.
        prior: p(c) to put in the place of the model's.
        options: others of `fit`.

    Raises:
        ValueError: if p(c) has no parameters, as a uniform one, or does not fit.

    References:
        van den Oord et al. (2017), Neural discrete representation learning, section 3.3,
        https://arxiv.org/abs/1711.00937

    Example:
        >>> from pyrovae import data, likelihoods, networks, priors
        >>> digits = data.load("digits", binarize="dynamic")
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(4 * 6, (1, 8, 8)))
        >>> vqvae = VQVAE(networks.MLP((1, 8, 8), 4 * 6), networks.Codebook(16, (4, 6)), likelihood)
        >>> first = fit(vqvae, digits.train, epochs=3, progress=False)
        >>> then = fit_prior(vqvae, digits.train, prior=priors.AutoregressiveCodes(6, 16), epochs=3, progress=False)
        >>> first["kl"][-1], then["kl"][-1] < first["kl"][-1]  # 6 log 16, and less
        (16.6, True)
    """
    if prior is not None:
        vqvae.set_prior(prior.to(next(vqvae.parameters())))
    learned = [p for p in vqvae.prior.parameters() if p.requires_grad]
    if not learned:
        raise ValueError(
            f"{type(vqvae.prior).__name__} has no parameters to learn: give prior=priors.AutoregressiveCodes(...)"
        )
    ours = {id(p) for p in learned}
    with _fixed([p for p in vqvae.parameters() if p.requires_grad and id(p) not in ours]):
        return fit(vqvae, train, valid, **options)
