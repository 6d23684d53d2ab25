import torch

from pyrovae import data
from pyrovae.shapes import FACTORS, shapes


def test_every_combination_is_there_once_and_no_two_images_are_alike():
    x, factors = shapes()
    assert x.shape == (3840, 1, 32, 32)
    assert x.unique().tolist() == [0, 1]
    assert len(factors.unique(dim=0)) == len(x.flatten(1).unique(dim=0)) == 3840
    assert [len(v.unique()) for v in factors.T] == [*FACTORS.values()]


def test_factors_are_what_they_are_called():
    x, factors = shapes()
    shape, scale, orientation, right, down = factors.T
    mass = x.sum((1, 2, 3))
    rows, columns = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(32.0) + 0.5, indexing="ij")
    centre = [(x[:, 0] * axis).sum((1, 2)) / mass for axis in (columns, rows)]
    convex = shape < 2  # a heart's centre of mass is off its origin
    for found, place in zip(centre, (right, down), strict=True):
        torch.testing.assert_close(found[convex], 9 + 2.0 * place[convex], atol=0.2, rtol=0)
    radius = 3.5 + scale
    for k, area in ((0, 4 * 0.9**2), (1, torch.pi * 1.2 * 0.7)):
        torch.testing.assert_close(mass[shape == k], area * radius[shape == k] ** 2, atol=8, rtol=0)
    # The longer axis of an ellipse: its angle from the second moments, rows counting downwards.
    u, v = columns - centre[0][:, None, None], rows - centre[1][:, None, None]
    moments = [(x[:, 0] * m).sum((1, 2)) / mass for m in (u * u, v * v, u * v)]
    angle = 0.5 * torch.atan2(2 * moments[2], moments[0] - moments[1])
    large = (shape == 1) & (scale == 3)
    torch.testing.assert_close(angle[large], orientation[large] * torch.pi / 10, atol=0.06, rtol=0)


def test_upright_hearts_have_their_point_below():
    x, factors = shapes()
    [upright] = x[(factors == torch.tensor([2, 3, 0, 4, 4])).all(1), 0]
    rows = upright.sum(1).nonzero().flatten()
    assert upright[rows[-1]].sum() < upright[rows[2]].sum()
    assert torch.equal(upright[:, 9:25], upright[:, 9:25].flip(1))  # its centre is at 17, between two pixels
    assert upright.sum() == upright[:, 9:25].sum()


def test_they_load_with_labels_and_factors_split_alike():
    found = data.load("shapes", valid_size=100)
    assert len(found.train) + 100 + len(found.test) == 3840
    x, factors = shapes()
    for part, labels, v in zip((found.train, found.valid, found.test), found.labels, found.factors, strict=True):
        assert torch.equal(labels, v[:, 0])
        i = (v * torch.tensor([1280, 320, 64, 8, 1])).sum(1)
        assert torch.equal(part, x[i])
        assert torch.equal(v, factors[i])
    assert found.protocol.levels == 2
    assert data.load("digits").factors is None
