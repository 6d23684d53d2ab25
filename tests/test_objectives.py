import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from linear_gaussian import LinearGaussian
from programs import make_data, make_vae

from pyrovae import SVI, schedules
from pyrovae import gradients as G
from pyrovae import objectives as E

# Schedules -----------------------------------------------------------------------------------------------------------


def test_schedules():
    linear, cyclical = schedules.Linear(10, 0.2, 1.2), schedules.Cyclical(12, cycles=3, start=0.0, end=2.0)
    assert [linear(t) for t in (0, 5, 10, 99)] == pytest.approx([0.2, 0.7, 1.2, 1.2])
    assert [cyclical(t) for t in range(14)] == pytest.approx([0, 1, 2, 2] * 3 + [2, 2])
    down = schedules.Linear(2, 4.0, 1.0)
    assert [down(t) for t in range(4)] == [4.0, 2.5, 1.0, 1.0]
    for bad in (lambda: schedules.Linear(0), lambda: schedules.Cyclical(4, cycles=5), lambda: schedules.Cyclical(4, 0)):
        with pytest.raises(ValueError, match=r"not [05]"):
            bad()


def test_a_step_is_counted_once_for_each_gradient():
    vae, x = make_vae(), make_data()
    objective = E.ELBO(beta=schedules.Linear(10))
    assert objective.warm_up == 10
    counts = [objective.step]

    def count():
        counts.append(objective.step)

    objective.loss(vae.model, vae.guide, x)
    objective.bound(vae.model, vae.guide, x)
    objective.kl_terms(vae.model, vae.guide, x)
    count()
    objective.differentiable_loss(vae.model, vae.guide, x).backward()
    count()
    objective.loss_and_grads(vae.model, vae.guide, x)
    count()
    pyros = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), objective)
    pyros.step(x)
    count()
    pyros.evaluate_loss(x)
    count()
    ours = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), objective)
    ours.step(x)
    count()
    ours.step(x)
    count()
    ours.evaluate_loss(x)
    count()
    assert counts == [0, 0, 1, 2, 3, 3, 4, 5, 5]
    assert objective.weights == {"beta": pytest.approx(0.4)}  # of the last step
    again = E.ELBO(beta=schedules.Linear(10))
    again.load_state_dict(objective.state_dict())
    assert again.step == 5


def test_the_weight_is_that_of_the_step():
    exact, losses = LinearGaussian(), []
    objective = E.ELBO(beta=schedules.Linear(4), analytic_kl=True)
    for _ in range(6):
        pyro.set_rng_seed(0)
        losses.append(objective.loss_and_grads(exact.vae.model, exact.vae.guide, exact.data))
    steps = np.diff(losses)
    np.testing.assert_allclose(steps, [*[LinearGaussian().kl().sum() / 4] * 4, 0.0], rtol=1e-6, atol=1e-9)


# Interfaces ----------------------------------------------------------------------------------------------------------


class Program(torch.nn.Module):
    """A VAE's model or guide as a module, for `objective(model, guide)`."""

    def __init__(self, vae, name):
        super().__init__()
        self.vae, self.program = vae, name

    def forward(self, x):
        return getattr(self.vae, self.program)(x)


def by_pyro(vae, objective, x):
    return pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective).step


def by_svi(vae, objective, x):
    parameters = [*vae.parameters(), *objective.parameters()]
    return SVI(vae.model, vae.guide, torch.optim.Adam(parameters, lr=1e-2), objective).step


def by_torch(vae, objective, x):
    return torch_step(vae, lambda x: objective.differentiable_loss(vae.model, vae.guide, x))


def by_module(vae, objective, x):
    module = objective(Program(vae, "model"), Program(vae, "guide"))
    assert {id(p) for p in module.parameters()} == {id(p) for p in (*vae.parameters(), *objective.parameters())}
    return torch_step(module, module)


def torch_step(module, loss):
    optim = torch.optim.Adam(module.parameters(), lr=1e-2)

    def step(x):
        optim.zero_grad()
        loss(x).backward()
        optim.step()

    return step


@pytest.mark.parametrize("interface", [by_pyro, by_svi, by_torch, by_module])
@pytest.mark.parametrize("objective", [getattr(E, name) for name in E.__all__])
def test_every_objective_raises_its_bound_in_every_interface(objective, interface):
    vae, x, objective = make_vae(), make_data(), objective()
    objective.loss(vae.model, vae.guide, x)  # a discriminator is made when z is first seen
    step = interface(vae, objective, x)
    pyro.set_rng_seed(1)

    def value():
        """The bound, or of an objective that is none what is maximised."""
        if not objective.weights:
            return objective.bound(vae.model, vae.guide, x).mean()
        return -sum(objective.loss(vae.model, vae.guide, x) for _ in range(10)) / 10 / len(x)

    before = value()
    for _ in range(60):
        step(x)
    assert value() > before + 1.5
    assert objective.step == 60


def test_all_interfaces_lead_to_the_same_parameters():
    ends, x = [], make_data().double()
    for interface in (by_pyro, by_svi, by_torch, by_module):
        vae, objective = make_vae().double(), E.IWAE(4, G.DReG())
        step = interface(vae, objective, x)
        pyro.set_rng_seed(1)
        for _ in range(5):
            step(x)
        ends.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert all(torch.allclose(end, ends[0], rtol=1e-9, atol=1e-12) for end in ends[1:])
