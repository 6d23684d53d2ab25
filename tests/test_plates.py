from functools import partial

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from linear_gaussian import LinearGaussian
from objective_checks import DEFAULTS, assert_same, gradients_of
from pyro import poutine

from pyrovae import gradients as G
from pyrovae import objectives as E
from pyrovae.regularised import Regularised

# Plates and masks ----------------------------------------------------------------------------------------------------


def plated(kind, a, mask=None):
    """x in three pixels given z, as an event, or in a plate to the right or to the left of the data's."""
    keep = torch.ones(5, dtype=torch.bool) if mask is None else mask
    column, dims = {"event": (False, (-1, None)), "right": (True, (-2, -1)), "left": (False, (-1, -2))}[kind]

    def column_of(t):
        return t.unsqueeze(-1) if column else t

    def model(x):
        with pyro.plate("data", 5, dim=dims[0]), poutine.mask(mask=column_of(keep)):
            z = pyro.sample("z", dist.Normal(column_of(torch.zeros(5).double()), a.exp()))
            if kind == "event":
                pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)
            else:
                with pyro.plate("pixels", 3, dim=dims[1]):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x if kind == "right" else x.T)

    def guide(x):
        with pyro.plate("data", 5, dim=dims[0]), poutine.mask(mask=column_of(keep)):
            pyro.sample("z", dist.Normal(column_of(a * x[:, 0]), 0.7))

    return model, guide


@pytest.mark.parametrize("kind", ["right", "left"])
@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True, True, False])])
@pytest.mark.parametrize(
    "objective",
    [
        *(partial(E.ELBO, k, g()) for k in (1, 3) for g in (G.Pathwise, G.STL, G.DReG, G.ScoreFunction)),
        *(partial(E.IWAE, k, g()) for k in (1, 3) for g in (G.Pathwise, G.STL, G.DReG, G.ScoreFunction)),
        partial(E.TMC, 3),
        partial(E.MIWAE, 2, 3, G.DReG()),
        partial(E.PIWAE, 2, 3),
        partial(E.RWS, 3),
        partial(E.TVO, 3),
        partial(E.ELBO, 3, analytic_kl=True),
        partial(E.ELBO, 3, free_bits=0.1),
        *(partial(o, num_particles=k) for k in (1, 3) for o in (E.BetaTCVAE, E.FactorVAE, E.InfoVAE, E.WAE)),
    ],
)
def test_a_plate_inside_a_datum_is_as_an_event(objective, mask, kind):
    x, a = torch.randn(5, 3).double(), torch.nn.Parameter(torch.tensor(0.3).double())
    holder, results = torch.nn.ParameterList([a]), []
    for layout, nesting in (("event", 1), (kind, 2), ("event", 3)):
        model, guide = plated(layout, a, mask)
        torch.manual_seed(0)
        o = objective(max_plate_nesting=nesting)
        if mask is not None and isinstance(o, Regularised):
            with pytest.raises(ValueError, match="'z' is masked, but q"):
                o.differentiable_loss(model, guide, x)
            return
        if mask is not None and isinstance(o.gradient, G.DReG):
            with pytest.raises(ValueError, match=r"'z' is masked.*so use gradients\.Pathwise"):
                o.differentiable_loss(model, guide, x)
            return
        results.append(gradients_of(o, model, guide, x, holder))
        pyro.set_rng_seed(7)
        results[-1][1].append(o.bound(model, guide, x))
    for other in results[1:]:
        assert_same(results[0], other)
    if mask is not None and not o.weights:
        assert (results[0][1][-1][~mask] == 0).all()


@pytest.mark.parametrize("objective", [*DEFAULTS, E.ELBO(3, G.STL()), E.IWAE(3, G.DReG()), E.ELBO(3, free_bits=0.1)])
def test_one_datum_is_a_batch(objective):
    exact = LinearGaussian()
    x = exact.data[:1]
    loss, grads = gradients_of(objective, exact.vae.model, exact.vae.guide, x, exact.vae)
    pyro.set_rng_seed(7)
    bound = objective.bound(exact.vae.model, exact.vae.guide, x)
    assert bound.shape == (1,)
    assert loss == pytest.approx(-bound.item()) or objective.weights
    assert all(torch.isfinite(g).all() for g in grads)
