"""Sums over data: what several processes can train together, as their shares' gradients add up to the batch's."""

import pyro.infer
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyrovae.evaluation import evaluating
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.rng import isolated
from pyrovae.sites import sample_sites

__all__ = ["require_sum"]

_SUMS = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO)  # of Pyro's, those that are


def require_sum(vae: Model, objective: pyro.infer.ELBO, data: tuple[Tensor, ...], batch_size: int, size: int) -> None:
    """Refuse what is no sum over data, so that the gradient of a batch is not the sum of its shares'.

    Args:
        vae: the model.
        objective: what is maximised.
        data: some of them, that the programs are run on once.
        batch_size: data in a batch, at most.
        size: how many processes there are.

    Raises:
        ValueError: if it is not, or there are more processes than data in a batch.
    """
    if batch_size < size:
        raise ValueError(
            f"there are {size} processes for batches of {batch_size} data: start no more than {batch_size}"
        )
    if not (objective.additive if isinstance(objective, Objective) else type(objective) in _SUMS):
        raise ValueError(
            f"{type(objective).__name__} is not a sum over data, as far as is known, which several processes need: "
            f"train in one, or use another of pyrovae.objectives, such as IWAE, or ELBO without free_bits and capacity"
        )
    modules = [*vae.modules(), *(objective.modules() if isinstance(objective, nn.Module) else ())]
    if found := [m for m in modules if isinstance(m, _BatchNorm)]:
        raise ValueError(
            f"{type(found[0]).__name__} normalises by a whole batch, of which each process has a share: train in one "
            f"process, or choose another normalization, such as of layers"
        )
    with evaluating(vae), isolated(0), ModuleParameters():
        guide = poutine.trace(vae.guide).get_trace(*data)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(*data)
    for name, site in [*sample_sites(guide).items(), *sample_sites(model).items()]:
        plates = site["cond_indep_stack"]
        if not plates or any(plate.full_size not in (None, plate.size) for plate in plates):
            raise ValueError(
                f"site '{name}' is not in a plate of the data of a step alone, so that several processes would count "
                f"it several times: train in one"
            )
