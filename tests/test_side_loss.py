"""Losses beside the bound: no part of any value, minimised by the same steps; and two inputs of a network as one."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import SVI, gradients, objectives
from pyrovae.networks import Join
from pyrovae.side_loss import held, side_loss


class Beside(nn.Module):
    """p(z) p(x | z) and q(z | x), with w, which nothing but a loss (w - 3)^2 knows, if it is there."""

    def __init__(self, loss: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decode, self.encode = nn.Linear(2, 5), nn.Linear(5, 2)
        self.loss = loss
        if loss:
            self.w = nn.Parameter(torch.zeros(()))

    def model(self, x):
        pyro.module("beside", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if self.loss:
                side_loss("w", (self.w - 3.0).square().expand(len(x)))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("beside", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encode(x), 0.5).to_event(1))


@pytest.mark.parametrize(
    "objective",
    [
        pyro.infer.Trace_ELBO(),
        objectives.ELBO(2, gradients.STL()),
        objectives.IWAE(4),
        objectives.IWAE(4, chunk=2),
        objectives.IWAE(4, gradients.DReG()),
    ],
)
def test_a_loss_beside_the_bound_is_descended_and_has_no_value(objective):
    x, losses = torch.linspace(-1, 1, 20).reshape(4, 5), {}
    for loss in (False, True):
        one = Beside(loss)
        svi = SVI(one.model, one.guide, torch.optim.Adam(one.parameters(), lr=0.2), objective)
        pyro.set_rng_seed(1)
        losses[loss] = [svi.step(x) for _ in range(100)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert one.w.item() == pytest.approx(3.0, abs=0.02)


def test_a_network_that_is_held_has_no_gradient_but_by_its_inputs():
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.ones(2, 3, requires_grad=True)
    assert torch.equal(held(network, x), network(x))
    (by_x,) = torch.autograd.grad(network(x).sum(), x)
    held(network, x).sum().backward()
    assert torch.equal(x.grad, by_x)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("a", "b", "shape"),
    [
        (4, 3, (7,)),
        (4, (1, 2, 3), (10,)),
        ((2, 5, 6), 3, (5, 5, 6)),
        ((2, 5, 6), (1, 5, 6), (3, 5, 6)),
        ((2, 3), (1, 4), (10,)),
    ],
)
@pytest.mark.parametrize("lead", [((), ()), ((8,), (8,)), ((3, 8), (8,)), ((8,), (3, 8)), ((8, 1), (8, 4))])
def test_two_inputs_are_one(a, b, shape, lead):
    join = Join(a, b)
    x, y = torch.randn(*lead[0], *join.a), torch.randn(*lead[1], *join.b)
    both, batch = join(x, y), torch.broadcast_shapes(*lead)
    assert both.shape == (*batch, *join.out_shape) == (*batch, *shape)
    for index in itertools.product(*map(range, batch)):  # one by one
        of_x, of_y = (
            t[tuple(i * (n > 1) for i, n in zip(index[len(batch) - len(of) :], of, strict=True))]
            for t, of in zip((x, y), lead, strict=True)
        )
        if len(shape) == 1:
            expected = torch.cat([of_x.flatten(), of_y.flatten()])
        else:
            expected = torch.stack([*of_x, *(c if c.dim() else c.expand(shape[1:]) for c in of_y)])
        assert torch.equal(both[index], expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"should be \(\.\.\., \*\(3,\)\), but was given"):
        Join(4, 3)(torch.zeros(2, 4), torch.zeros(2, 5))
