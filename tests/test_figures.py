"""Which figures of its own a fitted model has, and what is in their rows."""

import pytest
import torch

from pyrovae import encoders, likelihoods, models, priors
from pyrovae.application_plots.imputation import tinted
from pyrovae.application_plots.manifold import Panel, manifold
from pyrovae.conditions import Features
from pyrovae.figures import _one_of_each, _projected, own
from pyrovae.model import Model
from pyrovae.networks import MLP
from pyrovae.networks.codebook import Codebook

IMAGE = (1, 4, 4)
X = torch.rand(15, *IMAGE)


def bernoulli(*in_shape):
    return likelihoods.Bernoulli(MLP(*in_shape, IMAGE, hidden=()))


def names(vae, *data):
    with torch.no_grad():
        return [name for name, _ in own(vae.eval(), (X, *data), None, 0)]


def test_a_model_of_a_kind_of_its_own_shows_draws():
    class Own(Model):
        model = guide = None

        def sample(self, n, kind="sample"):
            return torch.rand(n, *IMAGE)

    assert names(Own()) == ["samples"]


@pytest.mark.parametrize("prior", [priors.UniformCodes, priors.AutoregressiveCodes])
def test_codes_are_drawn_by_a_learned_prior_if_there_is_one(prior, monkeypatch):
    shown = []
    monkeypatch.setattr("pyrovae.family_plots.montage", lambda rows, title: shown.extend(rows))
    book = Codebook(3, (2, 2))
    assert names(models.VQVAE(MLP(IMAGE, 4), book, bernoulli(4), prior(2, 3))) == ["samples", "codes", "code_usage"]
    drawn = [row.removeprefix("c by ") for row in shown if row.startswith("c by ")]
    assert drawn == ["uniform p(c)", "learned p(c)"][: 1 + (prior is priors.AutoregressiveCodes)]


def test_of_features_there_is_nothing_to_show():
    encoder = encoders.DiagonalNormal(MLP(16 + 3, 4, hidden=()))
    likelihood = likelihoods.Bernoulli(MLP(2 + 3, 16, hidden=()))
    vae = models.ConditionalVAE(priors.StandardNormal(2), likelihood, encoder, Features(3))
    assert names(vae, torch.rand(15, 3)) == []


def test_what_is_filled_in_has_no_tint_in_images_in_colour():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(tinted(x, torch.zeros_like(x, dtype=torch.bool)), x)


def test_a_surface_without_positions_or_classes_has_no_key():
    panel = Panel(torch.randn(9, 3), "data x", ["$x_1$", "$x_2$", "$x_3$"])
    figures = [manifold([panel], color, "class") for color in (None, torch.arange(9) % 2)]
    assert [(len(figure.legends), len(figure.axes)) for figure in figures] == [(0, 1), (1, 1)]


def test_without_classes_the_first_are_shown():
    assert [_one_of_each(None, n).tolist() for n in (3, 9)] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]


def test_z_of_one_or_two_dimensions_is_shown_as_it_is():
    z, other = torch.randn(9, 2), torch.randn(4, 2)
    assert _projected(z, other) == (("$z_1$", "$z_2$"), other)
    axes, line = _projected(z[:, :1], other[:, :1])
    assert axes == ("$z_1$", "")
    assert torch.equal(line, other * torch.tensor([1.0, 0.0]))
