"""Figures of diagnostics show the numbers they are given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pyrovae import diagnostic_plots as plots


def all_figures():
    z = torch.linspace(-4, 4, 41)
    line = (-z.square() / 2).exp().expand(3, 41)
    plane = line[:, :, None] * line[:, None]
    value, error = torch.randn(6), torch.rand(6)
    yield plots.evidence({"importance sampling": (value, error), "annealed": (value + 1, error)})
    yield plots.gap_bars({"train": {"approximation": (0.5, 0.1), "amortisation": (1.0, 0.1)}})
    for d in (2, 50):
        yield plots.kl_bars(torch.rand(d), torch.rand(d) > 0.5)
    yield plots.pareto_k(torch.tensor([0.1, 0.8, 2.0, float("nan"), float("-inf")]), 0.67)
    for d in (1, 6, 20):
        yield plots.rank_histograms(torch.randint(0, 200, (100, d)), 199, (1.0, 9.0))
    yield plots.rate_distortion({"a": (20.0, 4.0)})
    yield plots.rate_distortion({"a": (20.0, 4.0), "b": (25.0, 1.0)}, entropy=22.0)
    yield plots.replicated_statistics({name: (0.5, torch.rand(50), 0.1) for name in "abcd"}, "By the prior")
    x = torch.rand(5, 1, 4, 4)
    yield plots.pixels(x, x, 0.1 * x)
    yield plots.posteriors([z], line, {"q(z | x)": line}, {"draws": torch.randn(3, 20, 1)})
    yield plots.posteriors([z, z], plane, {"q(z | x)": plane}, {"draws": torch.randn(3, 20, 2)}, x[:3])


def test_they_draw_without_a_warning_and_leave_the_settings_alone():
    before = dict(matplotlib.rcParams)
    for figure in all_figures():
        FigureCanvasAgg(figure).draw()
    assert dict(matplotlib.rcParams) == before


def test_estimates_are_shown_less_the_first_with_two_errors():
    value, error = torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2])
    [axes] = plots.evidence({"a": (value, error), "b": (value + 0.5, 2 * error)}).axes
    a, b = axes.containers
    assert a.lines[0].get_ydata().tolist() == [0, 0]
    assert b.lines[0].get_ydata().tolist() == [0.5, 0.5]
    heights = [np.ptp(segment[:, 1]) for segment in b.lines[2][0].get_segments()]
    assert heights == pytest.approx([0.8, 1.6])


def test_gaps_are_stacked():
    gaps = {
        "train": {"approximation": (0.5, 0.1), "amortisation": (1.0, 0.2)},
        "test": {"approximation": (0.25, 0.1), "amortisation": (2.0, 0.2)},
    }
    [axes] = plots.gap_bars(gaps).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0, 0.5), (0, 0.25), (0.5, 1.0), (0.25, 2.0)]
    assert axes.yaxis_inverted()  # the first at the top


def test_dimensions_are_sorted_and_named_from_one():
    [axes] = plots.kl_bars(torch.tensor([0.1, 3.0, 2.0]), torch.tensor([False, True, True])).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "3", "1"]
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[0] == colors[1] != colors[2]


def test_k_is_coloured_by_the_thresholds():
    [axes] = plots.pareto_k(torch.tensor([0.1, 0.1, 0.85, 1.15]), 0.67).axes
    counts = {}
    for bar in axes.patches:
        counts[bar.get_facecolor()] = counts.get(bar.get_facecolor(), 0) + bar.get_height()
    assert [*counts.values()] == [2, 1, 1]


def test_ranks_fill_their_bins_and_the_band_is_where_it_is_said():
    figure = plots.rank_histograms(torch.arange(100)[:, None].expand(-1, 3), 99, (2.0, 8.0), num_bins=10)
    assert len(figure.axes) == 4 - 1
    *bars, band = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [10] * 10
    assert (band.get_y(), band.get_y() + band.get_height()) == (2.0, 8.0)


def test_the_line_of_the_best_elbo_goes_through_its_model():
    [axes] = plots.rate_distortion({"a": (20.0, 4.0), "b": (25.0, 1.0)}).axes
    line = axes.lines[-1]
    assert line.get_label() == "ELBO -24.00"
    assert (line.get_xdata() + line.get_ydata()).tolist() == pytest.approx([24.0, 24.0])


def test_contours_hold_half_and_nearly_all_of_the_mass():
    z = torch.linspace(-5, 5, 201)
    normal = (-z.square() / 2).exp()
    plane = (normal[:, None] * normal)[None]
    axes = plots.posteriors([z, z], plane, {"q": plane}, {}).axes[0]
    radii = [np.linalg.norm(path.vertices, axis=1).mean() for path in axes.collections[-1].get_paths()]
    exact = [np.sqrt(-2 * np.log(1 - share)) for share in (0.95, 0.5)]  # of chi-square with two degrees of freedom
    assert radii == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("height", [0.0, 1.0])
def test_a_needle_on_one_point_or_on_none_has_no_contour(height):
    z = torch.linspace(-5, 5, 41)
    normal = (-z.square() / 2).exp()
    needle = torch.zeros(1, 41, 41)
    needle[0, 20, 20] = height
    plane = (normal[:, None] * normal)[None]
    with_it, without = (plots.posteriors([z, z], plane, guides, {}).axes[0] for guides in ({"q": needle}, {}))
    assert len(with_it.collections) == len(without.collections)


def test_z_1_runs_to_the_right():
    z, p = torch.linspace(-4, 4, 81), lambda m: (-(torch.linspace(-4, 4, 81) - m).square() / 0.1).exp()
    plane = (p(2.0)[:, None] * p(-1.0))[None]  # at z = (2, -1)
    axes = plots.posteriors([z, z], plane, {}, {"draws": torch.tensor([[[2.0, -1.0]]])}).axes[0]
    assert axes.get_xlim()[0] < 2 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < -1 < axes.get_ylim()[1]
    assert axes.get_xlim()[0] > 0 > axes.get_ylim()[1]
    assert axes.lines[0].get_xydata().tolist() == [[2.0, -1.0]]


def test_pixels_of_counts_are_shown_up_to_the_largest_and_others_as_they_are():
    x = torch.tensor([0.0, 2.0, 4.0, 8.0]).reshape(1, 1, 2, 2)
    for scale, name in ((1, "data x, up to 8"), (1 / 8, "data x")):
        axes = plots.pixels(scale * x, scale * x / 2, x).axes[0]
        shown = axes.images[0].get_array()[1:3, 1:3]  # of the first row
        np.testing.assert_allclose(shown, [[0, 0.25], [0.5, 1]])
        assert axes.get_yticklabels()[0].get_text() == name
