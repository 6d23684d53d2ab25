"""Figures of a comparison of models, in the style of `test_plotting`."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color

from pyrovae import plotting
from pyrovae.paired import differences

NAMES = [
    "ELBO / Pathwise",
    "IWAE-8 / Pathwise",
    "IWAE-8 / DoublyReparameterized",
    "IWAE-8 / StickingTheLanding",
    "VIMCO-8 / MultiSampleScore",
    "MixtureOfNormals / IWAE-64 / DReG",
    "Renyi-0.5 / Pathwise",
    "CIWAE-8 / PiecewiseDReG",
]


def history(epochs=20, seconds=2.0, offset=0.0, log_likelihood=True):
    rows = []
    for e in range(1, epochs + 1):
        row = {"epoch": e, "seconds": seconds + e / 10, "valid_elbo": -100.0 - 80.0 * 0.7**e + offset}
        rows.append(row | ({"valid_log_likelihood": row["valid_elbo"] + 2} if log_likelihood else {}))
    return rows


def histories(n=3, seeds=2, epochs=20):
    return {name: [history(epochs, 1 + k, k + s / 5) for s in range(seeds)] for k, name in enumerate(NAMES[:n])}


def bounds(n=3):
    ks = [1, 8, 64, 512]
    return ks, {name: [-100.0 + i - 3 / k for k in ks] for i, name in enumerate(NAMES[:n])}


def rows(n=3):
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(5, 50, generator=generator) + k / 2 for k, name in enumerate(NAMES[:n])}
    return differences(values)


FIGURES = {
    "learning_curves": lambda n: plotting.learning_curves(histories(n)),
    "tightness": lambda n: plotting.tightness(*bounds(n), {NAMES[0]: -99.5, NAMES[n - 1]: -99.0}),
    "paired_differences": lambda n: plotting.paired_differences(rows(n)),
}
over_figures = pytest.mark.parametrize("name", FIGURES)
over_entries = pytest.mark.parametrize("n", [2, 8])


def renderer(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


# All figures ----------------------------------------------------------------------------------------------------------


@over_figures
def test_they_are_public(name):
    assert name in plotting.__all__


@over_figures
def test_no_global_state_of_matplotlib_is_changed(name):
    before = dict(matplotlib.rcParams)
    FIGURES[name](2).savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


@over_figures
@pytest.mark.parametrize("n", [1, 2, 8])
def test_nothing_spills_over_the_figure_and_all_text_is_large_enough(name, n):
    figure = FIGURES[name](n)
    box, (width, height) = figure.get_tightbbox(renderer(figure)), figure.get_size_inches()
    assert max(-box.x0, -box.y0, box.x1 - width, box.y1 - height) <= 0.01
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    assert min(text.get_size() for text in texts) >= 12


@over_figures
@over_entries
def test_no_text_lies_over_other_text(name, n):
    figure = FIGURES[name](n)
    drawn = renderer(figure)
    titles = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    ticks = [text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in shown_labels(axis)]
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    texts = [text for text in [*titles, *ticks, *legends] if text.get_text()]
    for a, b in itertools.combinations(texts, 2):
        assert not a.get_window_extent(drawn).overlaps(b.get_window_extent(drawn)), (a, b)


def shown_labels(axis):
    """Labels of the ticks in view, if the axis has labels at all."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if tick.label1.get_visible() and low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks]


@over_entries
@pytest.mark.parametrize("name", ["learning_curves", "tightness"])
def test_one_legend_beside_the_axes_names_each_entry_in_its_colour(name, n):
    figure = FIGURES[name](n)
    drawn = renderer(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:n] == NAMES[:n]
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert not any(legend.get_window_extent(drawn).overlaps(axes.get_window_extent(drawn)) for axes in figure.axes)
    colors = [handle.get_color() for handle in legend.legend_handles[:n]]
    assert len(set(colors)) == n


def test_many_entries_have_as_many_colours():
    ks, values = [1, 10], {f"entry {k}": [k, k + 1] for k in range(25)}
    assert len({line.get_color() for line in plotting.tightness(ks, values).axes[0].lines}) == 25


# Learning curves ------------------------------------------------------------------------------------------------------


def lines_of(axes, color):
    return [line for line in axes.lines if same_color(line.get_color(), color)]


@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_each_seed_is_drawn_over_epochs_and_over_the_seconds_so_far(epochs):
    data = histories(2, epochs=epochs)
    figure = plotting.learning_curves(data)
    colors = [handle.get_color() for handle in figure.legends[0].legend_handles]
    for (left, right), key in zip(
        (figure.axes[:2], figure.axes[2:]), ("valid_elbo", "valid_log_likelihood"), strict=True
    ):
        for seeds, color in zip(data.values(), colors, strict=True):
            for i, run in enumerate(seeds):
                by_epoch, by_second = lines_of(left, color)[i], lines_of(right, color)[i]
                np.testing.assert_array_equal(by_epoch.get_xdata(), range(1, epochs + 1))
                seconds = [sum(row["seconds"] for row in run[: e + 1]) for e in range(epochs)]
                np.testing.assert_allclose(by_second.get_xdata(), seconds)
                for line in (by_epoch, by_second):
                    np.testing.assert_array_equal(line.get_ydata(), [row[key] for row in run])
                    assert (line.get_marker() == "o") == (epochs == 1)  # or a single epoch could not be seen


def test_the_thick_line_is_the_mean_over_seeds_as_far_as_all_go():
    data = {"A": [history(9, offset=1.0), history(6, offset=4.0)]}
    figure = plotting.learning_curves(data)
    first, second, mean = figure.axes[0].lines
    assert mean.get_linewidth() > first.get_linewidth()
    np.testing.assert_array_equal(mean.get_xdata(), range(1, 7))
    np.testing.assert_allclose(mean.get_ydata(), (first.get_ydata()[:6] + second.get_ydata()) / 2)
    assert len(figure.axes[1].lines) == 2  # times differ: no mean over seconds


def test_one_seed_has_one_line():
    figure = plotting.learning_curves({"A": [history()]})
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1, 1]


def test_panels_say_what_they_show():
    figure = plotting.learning_curves(histories())
    assert [axes.get_ylabel() for axes in figure.axes] == ["ELBO (nats)", "", "log p(x) (nats)", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "epoch", "seconds of training"]


def test_the_steep_beginning_is_out_of_view_and_the_end_of_each_line_in_view():
    figure = plotting.learning_curves(histories(8, epochs=100))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            values = line.get_ydata()
            assert values[0] < low
            assert all(low <= value <= high for value in values[25:])
        assert high - low < 20


def test_log_likelihood_has_no_panel_where_it_is_not_known():
    figure = plotting.learning_curves({"A": [history(log_likelihood=False)], "B": [history(log_likelihood=False)]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["ELBO (nats)", ""]
    figure = plotting.learning_curves({"A": [history(log_likelihood=False)], "B": [history()]})
    assert [len(axes.lines) for axes in figure.axes[:3:2]] == [2, 2]
    assert [len(line.get_xdata()) for line in figure.axes[2].lines] == [0, 20]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_epochs_are_whole_numbers(epochs):
    figure = plotting.learning_curves(histories(epochs=epochs))
    renderer(figure)
    assert all(float(tick).is_integer() for tick in figure.axes[2].get_xticks())


@pytest.mark.parametrize("data", [{}, {"A": []}, {"A": [[]]}, {"A": [[], history()]}])
def test_runs_that_have_not_begun_are_no_error(data):
    renderer(plotting.learning_curves(data))


# Tightness ------------------------------------------------------------------------------------------------------------


def test_bounds_are_drawn_over_k_on_a_logarithmic_axis_with_markers():
    ks, values = bounds()
    (axes,) = plotting.tightness(ks, values).axes
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("particles K", "K-sample bound (nats)")
    for line, numbers in zip(axes.lines, values.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), ks)
        np.testing.assert_array_equal(line.get_ydata(), numbers)
        assert line.get_marker() == "o"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8", "64", "512"]


def test_exact_answers_are_dashed_in_the_colour_of_their_entry_and_named_once():
    figure = plotting.tightness(*bounds(), {NAMES[2]: -97.0, NAMES[0]: -99.0})
    dashed = {line.get_ydata()[0]: line for line in figure.axes[0].lines if line.get_linestyle() == "--"}
    assert set(dashed) == {-97.0, -99.0}
    handles = figure.legends[0].legend_handles
    assert same_color(dashed[-97.0].get_color(), handles[2].get_color())
    assert same_color(dashed[-99.0].get_color(), handles[0].get_color())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*NAMES[:3], "exact log p(x)"]


@pytest.mark.parametrize("exact", [None, {}])
def test_no_exact_answer_leaves_no_trace(exact):
    figure = plotting.tightness(*bounds(), exact)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES[:3]
    assert len(figure.axes[0].lines) == 3


@pytest.mark.parametrize("ks", [[1], [1, 2], [1, 2, 3, 4, 5, 10, 1000], list(range(1, 65)), [1000, 100, 1]])
def test_ticks_are_some_of_k_and_do_not_overlap(ks):
    figure = plotting.tightness(ks, {"A": [-9.0] * len(ks)})
    drawn = renderer(figure)
    labels = shown_labels(figure.axes[0].xaxis)
    assert {int(label.get_text()) for label in labels} <= set(ks)
    assert len(labels) >= min(len(ks), 3)
    for a, b in itertools.pairwise(labels):
        assert not a.get_window_extent(drawn).overlaps(b.get_window_extent(drawn))


# Paired differences ---------------------------------------------------------------------------------------------------


def test_each_pair_has_its_interval_beside_its_name():
    data = rows()
    (axes,) = plotting.paired_differences(data).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row['entry']} - {row['minus']}" for row in data]
    zero, *others = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    for i, (row, interval, point) in enumerate(zip(data, others[::2], others[1::2], strict=True)):
        np.testing.assert_array_equal(interval.get_xdata(), [row["low"], row["high"]])
        assert set(interval.get_ydata()) == set(point.get_ydata()) == {axes.get_yticks()[i]}
        assert list(point.get_xdata()) == [row["difference"]]
    low, high = axes.get_ylim()
    assert low > high  # the first at the top


def test_what_is_real_is_coloured_and_filled_and_the_rest_grey():
    names = ("difference", "low", "high", "real")
    data = [{"entry": "A", "minus": "B"} | dict(zip(names, (1, 0.5, 1.5, True), strict=True))]
    data += [{"entry": "A", "minus": "C"} | dict(zip(names, (1, -0.5, 2.5, False), strict=True))]
    _, real, real_point, other, other_point = plotting.paired_differences(data).axes[0].lines
    assert same_color(other.get_color(), "tab:gray")
    assert not same_color(real.get_color(), "tab:gray")
    assert same_color(real_point.get_markerfacecolor(), real.get_color())
    assert same_color(other_point.get_markerfacecolor(), "white")


def test_title_and_axis_name_the_level_and_the_quantity():
    (axes,) = plotting.paired_differences(rows()).axes
    assert axes.get_title().startswith("95 % intervals over seeds and images")
    assert axes.get_xlabel() == "difference of log p(x) (nats)"
    (axes,) = plotting.paired_differences(rows(), quantity="the ELBO", level=0.9).axes
    assert axes.get_title().startswith("90 % intervals over seeds and images")
    assert axes.get_xlabel() == "difference of the ELBO (nats)"


def test_pairs_without_an_interval_and_no_pairs_are_no_error():
    renderer(plotting.paired_differences([]))
    data = differences({"A": torch.zeros(1, 1), "B": torch.ones(1, 1)})
    (axes,) = plotting.paired_differences(data).axes
    assert list(axes.lines[2].get_xdata()) == [1]
