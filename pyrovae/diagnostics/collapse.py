"""Posterior collapse: which dimensions of z carry nothing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pyrovae.evaluation import ActiveUnits, active_units, evaluating, kl_of_each
from pyrovae.rng import isolated
from pyrovae.sites import family
from pyrovae.vae import VAE

__all__ = ["Collapse", "collapse"]


class Collapse(NamedTuple):
    """Which dimensions carry how much, D of them, in nats; the KL is in closed form, so the data are all its error."""

    kl: Tensor  # E KL(q(z_d | x) || p(z_d)), (D,)
    std_error: Tensor  # of kl over data, (D,)
    epsilon: Tensor  # what a collapsed dimension's KL is below, (E,)
    delta: float  # for all but which share of data
    share: Tensor  # of data whose KL is below epsilon, (E, D)
    collapsed: Tensor  # whether that is at least 1 - delta, (E, D)
    active: ActiveUnits  # those whose posterior mean moves with x, in units of the prior's variance


def collapse(vae: VAE, x: Tensor, epsilon: Sequence[float] = (0.001, 0.01, 0.1), delta: float = 0.01) -> Collapse:
    """(epsilon, delta)-collapse: the share of data with KL(q(z_d | x) || p(z_d)) < epsilon is at least 1 - delta.

    Args:
        vae: the model, whose p(z) and q(z | x) factorise over dimensions, with a KL in closed form.
        x: data, `(N, *event)`, at least two.
        epsilon: in nats, each positive.
        delta: share of data, at least 0 and below 1.

    Raises:
        ValueError: if there is no KL of each dimension, a single datum, or an epsilon or delta out of range.

    References:
        Lucas et al. (2019), Don't blame the ELBO!, definition 1, https://arxiv.org/abs/1911.02469
        Burda et al. (2016), Importance weighted autoencoders, section 5.2, https://arxiv.org/abs/1509.00519

    Example:
        >>> import torch
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> with torch.no_grad():
        ...     model.weight[:, 1] = 0  # of no use to x
        >>> model.solve_encoder()
        >>> found = collapse(model.vae, model.sample(100), epsilon=[0.01])
        >>> found.collapsed, found.active.value
        (tensor([[False,  True]]), 1)
    """
    if not epsilon or not all(e > 0 for e in epsilon):
        raise ValueError(f"epsilon must be positive numbers of nats, not {list(epsilon)}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be a share of data, at least 0 and below 1, not {delta}")
    vae.check(x)
    active = active_units(vae, x).variance  # refuses a single datum
    kl = kl_of_each(vae, x)  # (N, D)
    if kl is None:
        with evaluating(vae), isolated(0):
            families = family(vae.encode(x[:1].to(next(vae.parameters())))), family(vae.prior())
        raise ValueError(
            "q(z | x) ({}) and p(z) ({}) have no KL of each dimension in closed form: evaluation.active_units counts "
            "dimensions of any z, diagnostics.information tells what all carry together".format(*families)
        )
    with evaluating(vae):
        active = active / vae.prior().variance  # z in other units, with a prior that fits, is the same model
    bounds = kl.new_tensor(epsilon)
    share = (kl < bounds[:, None, None]).double().mean(1)
    std_error = kl.std(0) / math.sqrt(len(kl))
    return Collapse(
        kl.mean(0), std_error, bounds, delta, share, share >= 1 - delta, ActiveUnits(int((active > 0.01).sum()), active)
    )
