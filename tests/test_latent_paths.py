"""Paths through latent space against closed forms: arcs, surfaces of known geodesics, the Fisher-Rao metric."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.spatial import geometric_slerp
from torch import nn

from pyrovae import VAE, encoders, exact, likelihoods, networks, priors
from pyrovae.applications import decoded, geodesic, linear, measured, spherical

T = torch.linspace(0, 1, 9, dtype=torch.float64)


def model(network, size, likelihood=likelihoods.Normal, latent_dim=2):
    encoder = encoders.DiagonalNormal(networks.MLP(size, 2 * latent_dim, hidden=()))
    return VAE(priors.StandardNormal(latent_dim), likelihood(network), encoder).double()


class Globe(nn.Module):
    """Latitude and longitude to the unit sphere."""

    def forward(self, z):
        latitude, longitude = z.unbind(-1)
        return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], -1)


class Angles(nn.Module):
    """Logits 2 log tan(z / 2), with which p = sin^2(z / 2), so that z is the Fisher-Rao coordinate itself."""

    def forward(self, z):
        return 2 * (z / 2).tan().log()


def test_spherical_is_scipys_between_unit_vectors():
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, dtype=torch.float64), dim=-1)
    np.testing.assert_allclose(spherical(a, b, T), geometric_slerp(a.numpy(), b.numpy(), T.numpy()), atol=1e-12)


def test_spherical_turns_at_constant_speed_while_the_length_changes_evenly():
    a, b = torch.randn(2, 3, 5, dtype=torch.float64) * torch.tensor([1.0, 4.0]).double()[:, None, None]
    path = spherical(a, b, T)  # (9, 3, 5)
    unit = path / path.norm(dim=-1, keepdim=True)
    steps = (unit[1:] * unit[:-1]).sum(-1).arccos()
    whole = (unit[0] * unit[-1]).sum(-1).arccos()
    torch.testing.assert_close(steps, (whole / 8).expand(8, 3))
    torch.testing.assert_close(path.norm(dim=-1), linear(a.norm(dim=-1), b.norm(dim=-1), T))
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_spherical_ends_that_are_parallel_opposite_or_the_origin(size):
    a = torch.randn(size, dtype=torch.float64)
    for b in (a, 3 * a, torch.zeros_like(a)):
        torch.testing.assert_close(spherical(a, b, T), linear(a, b, T))
        torch.testing.assert_close(spherical(b, a, T), linear(b, a, T))
    path = spherical(a, -2 * a, T)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, -2 * a]))
    if size > 1:
        cosines = torch.cosine_similarity(path, a.expand_as(path), dim=-1)
        torch.testing.assert_close(cosines, (math.pi * T).cos())


def test_where_the_decoder_is_linear_the_geodesic_is_straight():
    linear_gaussian = exact.LinearGaussian(latent_dim=3, data_dim=5)
    a, b = torch.randn(2, 4, 3, dtype=torch.float64)
    curve = geodesic(linear_gaussian.vae, a, b)
    torch.testing.assert_close(curve.z, linear(a, b, torch.linspace(0, 1, 129).double()), atol=1e-5, rtol=0)
    length = ((b - a) @ linear_gaussian.weight.T).norm(dim=-1).detach()
    torch.testing.assert_close(curve.length, length)
    torch.testing.assert_close(curve.energy, length**2)


def test_on_a_globe_the_geodesic_is_the_great_circle():
    vae = model(Globe(), 3)
    a = torch.tensor([[0.9, 0.0], [0.5, -0.4]], dtype=torch.float64)
    b = torch.tensor([[0.9, 2.0], [-0.7, 1.0]], dtype=torch.float64)
    curve = geodesic(vae, a, b)
    start, end = Globe()(a), Globe()(b)
    angle = (start * end).sum(-1).arccos()
    torch.testing.assert_close(curve.length, angle, rtol=2e-4, atol=0)
    torch.testing.assert_close(curve.energy, angle**2, rtol=4e-4, atol=0)  # constant speed
    circle = torch.linalg.cross(start, end)
    assert (decoded(vae, curve.z) * circle).sum(-1).abs().max() < 0.01
    parallel = measured(vae, linear(a, b, torch.linspace(0, 1, 129).double())).length[0]
    torch.testing.assert_close(parallel, 2 * torch.tensor(0.9).double().cos(), rtol=1e-4, atol=0)
    assert parallel > 1.05 * angle[0]


def test_a_bernoulli_likelihoods_length_is_that_of_fisher_and_rao():
    flat = model(Angles(), 2, likelihoods.Bernoulli)
    a, b = torch.tensor([[0.3, 2.5], [2.0, 0.4]], dtype=torch.float64)
    curve = geodesic(flat, a, b)
    torch.testing.assert_close(curve.z, linear(a, b, torch.linspace(0, 1, 129).double()), atol=1e-5, rtol=0)
    torch.testing.assert_close(curve.length, (b - a).norm())

    layer = networks.MLP(1, 4, hidden=()).double()
    vae = model(layer, 4, likelihoods.Bernoulli, latent_dim=1)
    w, c = (p.detach().numpy() for p in layer.parameters())

    def speed(z):  # ds^2 = sum_i p_i'^2 / (p_i (1 - p_i)) dz^2, with p' = w p (1 - p)
        p = 1 / (1 + np.exp(-(w[:, 0] * z + c)))
        return np.sqrt((w[:, 0] ** 2 * p * (1 - p)).sum())

    z = torch.linspace(-2, 3, 2001, dtype=torch.float64)[:, None]
    np.testing.assert_allclose(measured(vae, z).length, quad(speed, -2, 3)[0], rtol=1e-6)


def test_a_geodesic_is_never_longer_than_the_straight_line_and_none_is_there_from_a_point_to_itself():
    rough = networks.MLP(2, 6, hidden=(30, 30))
    with torch.no_grad():
        for parameter in rough.parameters():
            parameter.mul_(3)
    vae = model(rough, 6).float()
    a, b = 2 * torch.randn(2, 6, 2)
    b[0] = a[0]
    curve, straight = geodesic(vae, a, b, 65), measured(vae, linear(a, b, torch.linspace(0, 1, 65)))
    assert (curve.length <= straight.length).all()
    assert (curve.length[1:] < 0.99 * straight.length[1:]).any()
    assert curve.length[0] == 0
    assert torch.equal(curve.z[:, 0], a[:1].expand(65, 2))
    torch.testing.assert_close(curve.z[[0, -1]], torch.stack([a, b]))
    assert all(p.grad is None for p in vae.parameters())


def test_a_path_of_its_two_ends_is_the_straight_one():
    a, b = torch.zeros(2), torch.ones(2)
    assert torch.equal(geodesic(model(Globe(), 3), a, b, num_points=2).z, torch.stack([a, b]).double())


def test_a_path_of_fewer_points_than_its_ends_is_refused():
    with pytest.raises(ValueError, match="at least its two ends"):
        geodesic(model(Globe(), 3), torch.zeros(2), torch.ones(2), num_points=1)
