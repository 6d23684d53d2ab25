"""The mixture whose density is fast: against PyTorch's own, and its gradient against finite differences."""

import pyro.distributions as dist
import pytest
import torch

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.distributions import mixture
from pyrovae.distributions.mixture import Mixture, table_size

C, D = 4, 3


def parameters(dtype=torch.float64):
    torch.manual_seed(0)
    logits, loc = torch.randn(C, dtype=dtype), torch.randn(C, D, dtype=dtype)
    return [p.requires_grad_() for p in (logits, loc, torch.rand(C, D, dtype=dtype) + 0.2)]


def made(kind, logits, loc, scale):
    return kind(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


@pytest.mark.parametrize("lead", [(), (6,), (2, 6)], ids=str)
@pytest.mark.parametrize("rows", [1, 5, 10**6])
def test_density_and_gradient_are_those_of_the_sum(lead, rows, monkeypatch):
    """In one piece and in many; PyTorch's own keeps all terms."""
    monkeypatch.setattr(mixture, "_CHUNK", rows * C * D)
    given = parameters()
    z = torch.randn(*lead, D, dtype=torch.float64, requires_grad=True)
    found, expected = (made(kind, *given).log_prob(z) for kind in (Mixture, dist.MixtureSameFamily))
    assert found.shape == lead
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    gradients = [torch.autograd.grad(t.square().sum(), [z, *given]) for t in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_derivatives_of_both_orders_are_those_of_finite_differences():
    _, loc, scale = parameters()
    z = torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixture._SquaredDistances.apply, (z, loc, scale))
    assert torch.autograd.gradgradcheck(mixture._SquaredDistances.apply, (z, loc, scale))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_float32_keeps_its_accuracy_in_narrow_and_wide_components(scale):
    """A point a standard deviation from a component that lies 3 from the origin."""
    loc = torch.full((C, D), 3.0) + torch.arange(C).reshape(C, 1)
    z = (loc[1] + scale).requires_grad_()
    p = made(Mixture, torch.zeros(C), loc, torch.full((C, D), scale))
    exact = made(dist.MixtureSameFamily, torch.zeros(C).double(), loc.double(), torch.full((C, D), scale).double())
    z64 = z.detach().double().requires_grad_()
    found, expected = p.log_prob(z), exact.log_prob(z64)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-4)
    (g,), (e,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z64)
    torch.testing.assert_close(g.double(), e, rtol=5e-3, atol=1e-5 / scale)


def test_expanded_it_scores_draws_of_every_batch_without_repeating_its_components():
    p = made(Mixture, *parameters())
    expanded = p.expand((2, 5))
    z = expanded.sample()
    assert (expanded.batch_shape, expanded.event_shape, z.shape) == ((2, 5), (D,), (2, 5, D))
    torch.testing.assert_close(expanded.log_prob(z), p.log_prob(z.reshape(-1, D)).reshape(2, 5))
    assert p.expand((2, 0)).sample().shape == (2, 0, D)


def test_a_density_takes_a_number_for_each_component_and_dimension_but_of_normals_not_for_dimensions():
    weights, normals = dist.Categorical(logits=torch.zeros(C)), dist.Normal(torch.zeros(C, D), 1.0).to_event(1)
    laplace = dist.Laplace(torch.zeros(C, D), 1.0).to_event(1)
    found = [table_size(p) for p in (Mixture(weights, normals), Mixture(weights, laplace), laplace)]
    assert found == [C, C * D, D]
    assert table_size(dist.MixtureSameFamily(weights, normals)) == C * D


def test_components_that_are_not_normal_are_mixed_as_ever():
    components = dist.Laplace(torch.randn(C, D), 1.0).to_event(1)
    weights = dist.Categorical(logits=torch.zeros(C))
    z = torch.randn(6, D)
    assert torch.equal(
        Mixture(weights, components).log_prob(z), dist.MixtureSameFamily(weights, components).log_prob(z)
    )


def test_a_vamp_prior_s_components_count_as_normals():
    """They are of this library's class, not of Pyro's."""
    encoder = encoders.DiagonalNormal(networks.MLP(5, 4))
    vae = VAE(priors.VampPrior(2, components=C), likelihoods.Bernoulli(networks.MLP(2, 5)), encoder)
    assert mixture._are_normals(vae.prior().component_distribution)


def test_gradients_of_points_alone_are_those_of_all():
    given = parameters()
    z = torch.randn(6, D, dtype=torch.float64, requires_grad=True)
    p, fixed = made(Mixture, *given), made(Mixture, *(t.detach() for t in given))
    (found,), (expected,) = (torch.autograd.grad(of.log_prob(z).sum(), z) for of in (fixed, p))
    assert torch.equal(found, expected)
