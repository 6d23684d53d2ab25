"""Models of one vector z of continuous units: of which latent means, paths, exports and diagnoses are."""

from torch import Tensor

from pyrovae.columns import Data, arity
from pyrovae.evaluation import encoded
from pyrovae.model import Model
from pyrovae.supports import describe
from pyrovae.vae import VAE

__all__ = ["has_one_vector", "has_real_vector", "require_one_vector", "require_real_vector"]


def has_one_vector(vae: Model, x: Data) -> bool:
    """Whether the model is p(z) p(x | z) with q(z | x), of x alone, and z a vector of continuous units.

    Args:
        vae: the model.
        x: data as its programs take them, at least one.

    Example:
        >>> import torch
        >>> from pyrovae.exact import LinearGaussian
        >>> has_one_vector(LinearGaussian().vae, torch.zeros(1, 5))
        True
    """
    if isinstance(vae, VAE):
        return True
    if not hasattr(vae, "encode") or not isinstance(x, Tensor) or arity(vae) > 1 or hasattr(vae, "codebook"):
        return False
    takes = getattr(getattr(vae.likelihood, "network", None), "in_shape", None)
    return takes == tuple(next(encoded(vae, x[:1])).event_shape)


def require_one_vector(vae: Model, x: Data, what: str) -> None:
    """Refuse a model that is no such.

    Args:
        vae: the model.
        x: data as its programs take them, at least one.
        what: what is refused.

    Raises:
        ValueError: that tells what the model should be.
    """
    if not has_one_vector(vae, x):
        raise ValueError(
            f"{what} is of a model of one vector z, p(z) p(x | z) with q(z | x), which {type(vae).__name__} is not: "
            f"leave it out, and see the run's metrics and figures"
        )


def has_real_vector(vae: Model, x: Data) -> bool:
    """Whether z, besides, is any vector of R^D, so that codes can be added, and a normal be fitted to them.

    Args:
        vae: the model.
        x: data as its programs take them, at least one.
    """
    return has_one_vector(vae, x) and describe(vae.prior().support) == "R^D"


def require_real_vector(vae: Model, x: Data, what: str) -> None:
    """Refuse a model that is no such.

    Args:
        vae: the model.
        x: data as its programs take them, at least one.
        what: what is refused.

    Raises:
        ValueError: that tells what the model should be.
    """
    require_one_vector(vae, x, what)
    if not has_real_vector(vae, x):
        place = describe(vae.prior().support)
        raise ValueError(f"{what} is of z in R^D, but p(z) is over {place}: take a prior such as StandardNormal")
