"""Compatibility: do a prior, a likelihood, an encoder, an objective, its gradient estimator and the data go together?

The rules live with the parts: supports with distributions, shapes with networks, what an estimator needs of q(z | x)
with the estimator, which data have a density with the likelihood. Here they are asked, all of them, before training.
"""

import copy
import re
from collections.abc import Callable

import pyro.infer
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.check import buffers_restored, check
from pyrovae.columns import Data, arguments
from pyrovae.densities import LogDensities, log_densities
from pyrovae.drawn import Drawn
from pyrovae.evaluation import evaluating
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["refusal", "require"]


def refusal(
    prior: Callable[[], TorchDistribution],
    likelihood: Callable[[Tensor], TorchDistribution],
    encoder: Callable[[Tensor], TorchDistribution],
    objective: pyro.infer.ELBO | None = None,
    x: Tensor | None = None,
) -> str | None:
    """Why p(z), p(x | z), q(z | x), an objective with its gradient and data x do not go together; None if they do.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        encoder: q(z | x).
        objective: any `pyro.infer.ELBO`; ours bring the estimator of their gradient.
        x: data, `(N, *event)`; without them, draws of the model stand for them.

    Returns:
        The reason and what would do, in a sentence, or None.

    Example:
        >>> from pyrovae import encoders, likelihoods, networks, priors
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(2, 5))
        >>> refusal(priors.StandardNormal(2), likelihood, encoders.DiagonalNormal(networks.MLP(5, 4)))
        >>> refusal(priors.StandardNormal(2), likelihood, encoders.Bernoulli(networks.MLP(5, 2)))
        'the prior StandardNormal is over R^D, but the encoder Bernoulli over {0, 1}^D: use encoders...'
    """
    try:
        require(VAE(*copy.deepcopy((prior, likelihood, encoder))), objective, x)
    except ValueError as error:
        return re.split(r"\n *Trace Shapes:", str(error))[0]  # what Pyro adds for whoever wrote the programs
    return None


def require(vae: Model, objective: pyro.infer.ELBO | None = None, x: Data | None = None) -> LogDensities:
    """Refuse a model, an objective and data that cannot be trained together; nothing is changed.

    Args:
        vae: the model.
        objective: any `pyro.infer.ELBO`; ours bring the estimator of their gradient.
        x: data, `(N, *event)`, or a tuple that begins with them, of all that the programs take; without them, draws
            of the model stand for them.

    Returns:
        The log-densities of the first two data.

    Raises:
        ValueError: with the reason and what would do.
    """
    with evaluating(vae), isolated(0):
        data = arguments(vae, vae.sample(2) if x is None else x)
        data = tuple(t.draw(torch.Generator(t.device).manual_seed(0)) if isinstance(t, Drawn) else t for t in data)
        vae.check(*data)
        dtype = next((p.dtype for p in vae.parameters()), data[0].dtype)
        if data[0].dtype != dtype:
            raise ValueError(
                f"the data are {data[0].dtype}, but the parameters are {dtype}: convert the data, x.to({dtype})"
            )
        some = [t[:2] for t in data]
        guide_sites = check(vae.model, vae.guide, *some)
        ours = [objective] if isinstance(objective, Objective) else []
        with ModuleParameters(at_once=bool(ours)), buffers_restored(vae.model, vae.guide, *ours):
            if ours:
                objective.check_sites(guide_sites)
                objective.loss(vae.model, vae.guide, *some)
            elif objective is not None:
                _try(objective, vae, *some)
            return log_densities(vae.model, vae.guide, *some)


def _try(objective: pyro.infer.ELBO, vae: Model, *data: Tensor) -> None:
    """Refuse what one of Pyro's own objectives cannot do."""
    if not isinstance(objective, pyro.infer.ELBO):
        return  # a function, of which nothing is known
    try:
        copy.copy(objective).loss(vae.model, vae.guide, *data)  # a copy, as Pyro notes down how the plates are nested
    except NotImplementedError as error:
        part = type(getattr(vae, "encoder", vae)).__name__
        raise ValueError(
            f"{type(objective).__name__} does not take {part} ({error}): use one of pyrovae.objectives"
        ) from error
