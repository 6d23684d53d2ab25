"""Supports: where a latent variable lies, and whether a posterior's lies within a prior's."""

from pyro.distributions.constraints import Constraint
from torch.distributions import Distribution

__all__ = ["THIN", "describe", "scores", "within"]

_NAMES = {
    "Real": "R^D",
    "Boolean": "{0, 1}^D",
    "OneHot": "the one-hot vectors",
    "Sphere": "the unit sphere",
    "Interval": "a cube",
    "Simplex": "the simplex",
}
THIN = ("the unit sphere", "the simplex")  # they have no volume in R^D


def element(support: Constraint) -> Constraint:
    """The constraint on the smallest part that has one, without what declares dimensions as event, or mixes."""
    base = getattr(support, "base_constraint", None)
    return support if base is None else element(base)


def describe(support: Constraint) -> str:
    """What a message calls a support."""
    support = element(support)
    return _NAMES.get(type(support).__name__.removeprefix("_"), str(support))


def scores(p: Distribution, q: Distribution) -> bool:
    """Whether p has a density for draws of q, as far as they tell their supports."""
    try:
        return within(q.support, p.support)
    except NotImplementedError:  # a distribution that does not state its support
        return True


def within(q: Constraint, p: Constraint) -> bool:
    """Whether a density on the support q can be compared with one on p: else KL(q || p) is infinite, or means nothing.

    Bounds of intervals are not compared.
    """
    in_q, in_p = describe(q), describe(p)
    if in_q == in_p:
        return True
    if q.is_discrete or p.is_discrete:
        same_kind = q.is_discrete and p.is_discrete
        return same_kind and in_p != "the one-hot vectors" and (in_p != "{0, 1}^D" or in_q == "the one-hot vectors")
    return not {in_q, in_p} & {*THIN} and in_q != "R^D"
