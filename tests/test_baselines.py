import math

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from discrete import Bits, make_bit_vae
from linear_gaussian import LinearGaussian
from programs import SHAPE, make_data, parameters, same
from torch import nn

from pyrovae import SVI, baselines, fit, networks
from pyrovae.baselines import Learned, LeaveOneOut, MovingAverage, others
from pyrovae.gradients import VIMCO, Pathwise, ScoreFunction
from pyrovae.objectives import CIWAE, ELBO, IWAE, MIWAE, TVO, Renyi


def data(n=4):
    return torch.randn(n, 3).double()


def grads(objective, module, x, seed=7):
    """The gradient by the guide's parameters, and the loss."""
    module.zero_grad()
    pyro.set_rng_seed(seed)
    loss = objective.loss_and_grads(module.model, module.guide, x)
    return module.v.grad.clone(), loss


def signal(baseline, objective, terms, x=None):
    """F - b of each draw."""
    densities = objective.densities(Bits().model, Bits().guide, data() if x is None else x)
    return baseline(objective, terms, densities)


# Signals -------------------------------------------------------------------------------------------------------------


def test_the_others_of_each_draw():
    terms = torch.arange(12.0).reshape(4, 3)
    rest = others(terms)
    assert rest.shape == (3, 4, 3)
    for k in range(4):
        assert torch.equal(rest[:, k], terms[[i for i in range(4) if i != k]])
    assert others(terms.reshape(4, 3, 1)).shape == (3, 4, 3, 1)


def test_leave_one_out_of_the_mean_and_of_the_log_mean():
    terms = torch.randn(5, 4).double()
    found, loss = signal(LeaveOneOut(), ELBO(5), terms)
    assert loss == 0
    mean_of_others = (terms.sum(0) - terms) / 4
    assert torch.allclose(found, (terms - mean_of_others) / 5)
    found, _ = signal(LeaveOneOut(), IWAE(5), terms)
    w = terms.exp()
    assert torch.allclose(found, (w.mean(0)).log() - ((w.sum(0) - w) / 4).log())


def test_the_moving_average_is_of_earlier_batches():
    baseline, objective = MovingAverage(0.75), ELBO(2)
    batches = [torch.randn(2, 4).double() + i for i in range(4)]
    average = 0.0
    for i, terms in enumerate(batches):
        found, loss = signal(baseline, objective, terms)
        assert loss == 0
        assert torch.allclose(found, (terms - average) / 2)
        average = terms.mean() if i == 0 else 0.75 * average + 0.25 * terms.mean()
        assert baseline.average.item() == pytest.approx(average.item())
    again = MovingAverage(0.75)
    again.load_state_dict(baseline.state_dict())
    assert torch.equal(signal(again, objective, batches[0])[0], signal(baseline, objective, batches[0])[0])


def test_looking_does_not_move_the_average():
    objective, bits, x = ELBO(2, ScoreFunction(MovingAverage())), Bits(), data()
    objective.loss(bits.model, bits.guide, x)
    objective.bound(bits.model, bits.guide, x)
    assert objective.gradient.baseline.started == 0
    objective.loss_and_grads(bits.model, bits.guide, x)
    assert objective.gradient.baseline.started == 1
    assert objective.gradient.baseline.average.item() < -1


@pytest.mark.parametrize("bad", [-0.1, 1.0, math.nan])
def test_a_decay_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="decay must be a finite number at least 0 and below 1"):
        MovingAverage(bad)


def test_a_learned_baseline_falls_to_least_squares():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(()).double())

        def forward(self, x):
            return self.b.expand(len(x), 1)

    baseline, x, terms = Learned(Mean()), data(), torch.randn(3, 4).double()
    found, loss = signal(baseline, ELBO(3), terms, x)
    assert not found.requires_grad
    assert torch.allclose(found, terms / 3)
    assert loss.shape == (4,)
    (grad,) = torch.autograd.grad(loss.sum(), baseline.network.b)
    assert grad.item() == pytest.approx(-2 * terms.mean(0).sum().item())
    baseline.network.b.data.fill_(1.5)
    assert torch.allclose(signal(baseline, ELBO(3), terms, x)[0], (terms - 1.5) / 3)


# Estimates -----------------------------------------------------------------------------------------------------------

LEARNED = networks.MLP(3, 1, hidden=(4,)).double()


@pytest.mark.parametrize("make", [LeaveOneOut, MovingAverage, lambda: Learned(LEARNED)])
@pytest.mark.parametrize("objective", [ELBO, IWAE, MIWAE, Renyi, CIWAE, TVO])
def test_a_baseline_changes_neither_the_value_nor_the_models_gradient(objective, make):
    bits, x, results = Bits(), data(), []
    for baseline in (None, make()):
        _, loss = grads(objective(num_particles=3, gradient=ScoreFunction(baseline)), bits, x)
        results.append((loss, bits.w.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-10)


def test_baselines_lower_the_variance_and_keep_the_mean():
    bits, x = Bits(), data(3)
    plain = ScoreFunction()
    average = MovingAverage()
    for seed in range(20):
        grads(ELBO(4, ScoreFunction(average)), bits, x, seed)
    found = {}
    for name, gradient in {
        "none": plain,
        "average": ScoreFunction(average),
        "others": ScoreFunction(LeaveOneOut()),
        "vimco": VIMCO(),
    }.items():
        found[name] = torch.stack([grads(ELBO(4, gradient), bits, x, seed)[0].flatten() for seed in range(150)]).numpy()
    total = {name: g.var(0).sum() for name, g in found.items()}
    assert total["average"] < 0.5 * total["none"]
    assert total["others"] < 0.5 * total["none"]
    np.testing.assert_allclose(found["vimco"], found["others"], rtol=1e-9, atol=1e-12)
    z = (found["none"] - found["others"]).mean(0) / ((found["none"] - found["others"]).std(0) / 150**0.5)
    assert np.abs(z).max() < 4.5  # p < 1e-5 for each of 6


def test_sites_that_are_pathwise_are_not_scored():
    exact, x = LinearGaussian(), LinearGaussian().data
    results = []
    for gradient in (Pathwise(), ScoreFunction(pathwise=True), ScoreFunction(LeaveOneOut(), pathwise=True)):
        exact.vae.zero_grad()
        pyro.set_rng_seed(0)
        loss = IWAE(3, gradient).loss_and_grads(exact.vae.model, exact.vae.guide, x)
        results.append(torch.cat([torch.tensor([loss]), *(p.grad.flatten() for p in exact.vae.parameters())]))
    assert torch.allclose(results[0], results[1], rtol=1e-10)
    assert torch.allclose(results[0], results[2], rtol=1e-10)


# Training the learned one --------------------------------------------------------------------------------------------


def learned():
    pyro.set_rng_seed(3)
    return ELBO(2, ScoreFunction(Learned(networks.MLP(SHAPE, 1, hidden=(8,)))))


def moved(objective, train):
    """Whether all of the baseline's parameters are trained."""
    before = parameters(objective)
    assert before
    train()
    return not any(torch.equal(p.detach(), before[name]) for name, p in objective.named_parameters())


def test_every_way_to_train_trains_the_learned_baseline_too():
    x = make_data()
    vae, objective = make_bit_vae(), learned()
    assert moved(objective, lambda: fit(vae, x, epochs=1, objective=objective, progress=False))
    assert not list(pyro.get_param_store().keys())
    vae, objective = make_bit_vae(), learned()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    assert moved(objective, lambda: svi.step(x))
    vae, objective = make_bit_vae(), learned()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    assert moved(objective, lambda: svi.step(x))
    vae, objective = make_bit_vae(), learned()
    optim = torch.optim.Adam([*vae.parameters(), *objective.parameters()], lr=1e-3)
    assert moved(objective, lambda: SVI(vae.model, vae.guide, optim, objective).step(x))


def test_an_optimiser_without_the_baseline_is_refused():
    vae, objective = make_bit_vae(), learned()
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-3), objective)
    with pytest.raises(ValueError, match=r"network.* is not trained: the optimiser does not hold it"):
        svi.step(make_data())


def test_two_learned_baselines_do_not_share_parameters():
    x, ends = make_data(), []
    for _ in range(2):
        vae, objective = make_bit_vae(), learned()
        svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
        pyro.set_rng_seed(1)
        for _ in range(3):
            svi.step(x)
        ends.append({**parameters(vae), **parameters(objective)})
    assert same(*ends)


def test_the_learned_baseline_approaches_the_terms():
    vae, objective, x = make_bit_vae(), learned(), make_data()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 3e-2}), objective)
    for _ in range(150):
        svi.step(x)
    b = objective.gradient.baseline.network(x).squeeze(-1)
    bound = ELBO(50).bound(vae.model, vae.guide, x)
    assert (b - bound).mean().abs() < 1.0 < 5.0 < -bound.mean()  # where it began at 0


def test_all_baselines_are_tested_here():
    assert set(baselines.__all__) == {"LeaveOneOut", "MovingAverage", "Learned"}
