import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color

from pyrovae import plotting

H, W = 4, 6  # of the images, unequal so that they cannot be swapped


def images(*shape, channels=1):
    return torch.rand(*shape, channels, H, W)


def picture(axes):
    """The pixels of the montage on the axes, with NaN for nothing."""
    (image,) = axes.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def tile(axes, row, column):
    """The pixels of an image in the montage, below and right of a line of white, `(C, H, W)`."""
    pixels = picture(axes)[row * (H + 1) + 1 : (row + 1) * (H + 1), column * (W + 1) + 1 : (column + 1) * (W + 1)]
    return np.atleast_3d(pixels).transpose(2, 0, 1)


def center(row, column):
    """The middle of a tile in the data coordinates of its axes, x before y."""
    return np.arange(W).mean() + column * (W + 1) + 1, np.arange(H).mean() + row * (H + 1) + 1


def drawn(figure):
    """The figure as an image, and its renderer."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3], canvas.get_renderer()


def color_at(figure, axes, x, y):
    """What is seen at data coordinates of the axes in the figure as drawn."""
    pixels, _ = drawn(figure)
    column, row = axes.transData.transform((x, y))
    return pixels[len(pixels) - 1 - int(row), int(column)]


def history(epochs=5, valid=True):
    rows = []
    for e in range(1, epochs + 1):
        row = {"epoch": e, "objective": -20.0 / e, "elbo": -20.0 / e, "reconstruction": -30.0 / e, "kl": 10.0 / e}
        row |= {f"valid_{k}": 1.25 * row[k] for k in ("elbo", "reconstruction", "kl")} if valid else {}
        rows.append(row)
    return rows


def grid(n=5, channels=1):
    """Quantiles, unevenly spaced, and images that are bright by their z: z_1 + 10 z_2, all scaled to [0, 1]."""
    quantiles = torch.stack([torch.tensor([-2.0, -0.6, 0.1, 0.7, 2.5]), torch.tensor([-1.5, -1.0, 0.2, 0.5, 1.0])])
    quantiles = quantiles[:, :n]
    values = torch.stack([torch.stack([brightness(z1, z2) for z1 in quantiles[0]]) for z2 in quantiles[1].flip(0)])
    return values[..., None, None, None].expand(n, n, channels, H, W), quantiles


def brightness(z1, z2):
    return (z1 + 10 * z2 + 20) / 40


def decoded_path():
    _, quantiles = grid()
    path = torch.stack([quantiles[0, [0, 1, 3, 4]], quantiles[1, [3, 3, 0, 2]]], 1)
    return path, images(4)


def all_figures(channels=1):
    x = images(8, channels=channels)
    rows = images(3, 4, channels=channels)
    tiles, quantiles = grid(channels=channels)
    path, strip = decoded_path()
    strip = strip.expand(-1, channels, H, W)
    return {
        "reconstructions": lambda: plotting.reconstructions(x, x, x.round()),
        "samples": lambda: plotting.samples(rows, rows.round()),
        "latent_means": lambda: plotting.latent_means(torch.randn(50, 2), torch.arange(50) % 10),
        "decoded_grid": lambda: plotting.decoded_grid(tiles, quantiles),
        "decoded_path": lambda: plotting.decoded_grid(tiles, quantiles, path, strip),
        "training_curves": lambda: plotting.training_curves(history()),
    }


FIGURES = pytest.mark.parametrize("name", all_figures())
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


# All figures ----------------------------------------------------------------------------------------------------------


def test_every_public_function_is_looked_at():
    here = {name.replace("decoded_path", "decoded_grid") for name in all_figures()}
    elsewhere = {"learning_curves", "tightness", "paired_differences", "signal_to_noise"}  # each in a file of its own
    assert here | elsewhere == set(plotting.__all__)


@FIGURES
def test_no_global_state_of_matplotlib_is_changed(name):
    before, backend, numbers = dict(matplotlib.rcParams), matplotlib.get_backend(), plt.get_fignums()
    all_figures()[name]().savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert plt.get_fignums() == numbers == []


def test_settings_are_as_they_were_after_an_error_too():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        plotting.samples(images(2, 2, channels=2), images(2, 2, channels=2))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_images_are_upright_whatever_origin_the_user_has_set(origin):
    x = torch.zeros(8, 1, H, W)
    x[..., 0, :] = 1  # ink along the top
    with matplotlib.rc_context({"image.origin": origin}):
        figure = plotting.reconstructions(x, x, x)
    (axes,) = figure.axes
    column, middle = center(0, 0)
    top, bottom = middle - 1.5, middle + 1.5
    assert color_at(figure, axes, column, top).tolist() == [0, 0, 0]
    assert color_at(figure, axes, column, bottom).tolist() == [255, 255, 255]
    (_, top), (_, bottom) = axes.transData.transform([(column, top), (column, bottom)])
    assert top > bottom


@FIGURES
def test_all_text_is_large_enough_when_drawn_in_other_settings(name):
    figure = all_figures()[name]()
    with matplotlib.rc_context({"font.size": 6}):
        drawn(figure)
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    assert texts
    assert min(text.get_size() for text in texts) >= 12


def spills(figure):
    """By how many inches what is drawn spills over the figure's edges."""
    _, renderer = drawn(figure)
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


@FIGURES
@CHANNELS
def test_all_that_is_drawn_lies_within_the_figure(name, channels):
    assert spills(all_figures(channels)[name]()) <= 0.01


@pytest.mark.parametrize("n", [1, 2, 3, 12])
@pytest.mark.parametrize(
    "draw",
    [lambda n: plotting.reconstructions(*[images(n)] * 3), lambda n: plotting.samples(*[images(n, n)] * 2)],
    ids=["reconstructions", "samples"],
)
def test_few_or_many_images_lie_within_the_figure(draw, n):
    assert spills(draw(n)) <= 0.01


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        (plotting.reconstructions, lambda: [images(3), images(3), images(3)]),
        (plotting.samples, lambda: [images(2, 2), images(2, 2)]),
        (plotting.latent_means, lambda: [torch.randn(9, 2)]),
        (plotting.decoded_grid, lambda: [*grid()]),
        (plotting.decoded_grid, lambda: [*grid(), *decoded_path()]),
    ],
    ids=["reconstructions", "samples", "latent_means", "decoded_grid", "decoded_path"],
)
def test_tensors_may_have_gradients_and_are_not_changed(plot, arguments):
    tensors = [x.clone().requires_grad_() for x in arguments()]
    before = [x.detach().clone() for x in tensors]
    plot(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


# Montages -------------------------------------------------------------------------------------------------------------


@CHANNELS
def test_reconstructions_show_data_means_and_samples_in_rows_and_data_in_columns(channels):
    rows = [images(5, channels=channels) for _ in range(3)]
    (axes,) = plotting.reconstructions(*rows).axes
    assert picture(axes).shape[:2] == (3 * (H + 1), 5 * (W + 1))
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            np.testing.assert_array_equal(tile(axes, i, j), image)


def test_reconstructions_say_which_row_is_what_at_its_middle():
    (axes,) = plotting.reconstructions(*[images(5)] * 3).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["data x", "mean of p(x | z)", "sample of p(x | z)"]
    np.testing.assert_allclose(axes.get_yticks(), [center(i, 0)[1] for i in range(3)])
    assert axes.get_title() == "Reconstructions, z ~ q(z | x)"


@CHANNELS
def test_samples_show_means_and_samples_of_the_same_z_at_the_same_place(channels):
    both = [images(3, 4, channels=channels) for _ in range(2)]
    figure = plotting.samples(*both)
    for axes, expected in zip(figure.axes, both, strict=True):
        for i in range(3):
            for j in range(4):
                np.testing.assert_array_equal(tile(axes, i, j), expected[i, j])


def test_samples_say_mean_or_sample_and_that_z_comes_from_the_prior():
    figure = plotting.samples(*[images(3, 4)] * 2)
    assert [axes.get_title() for axes in figure.axes] == ["means of p(x | z)", "samples of p(x | z)"]
    assert "z ~ p(z)" in figure.get_suptitle()


@CHANNELS
def test_tiles_are_parted_by_white(channels):
    (axes,) = plotting.reconstructions(*[torch.zeros(5, channels, H, W)] * 3).axes
    (image,) = axes.images
    colors = image.to_rgba(image.get_array())
    between = np.ones((3 * (H + 1), 5 * (W + 1)), bool)
    for i in range(3):
        for j in range(5):
            between[i * (H + 1) + 1 : (i + 1) * (H + 1), j * (W + 1) + 1 : (j + 1) * (W + 1)] = False
    seen = colors[..., :3] * colors[..., 3:] + 1 - colors[..., 3:]  # on the white figure
    assert (seen[between] == 1).all()


@pytest.mark.parametrize(
    ("value", "seen"),
    [([0.0], [255] * 3), ([1.0], [0] * 3), ([0.6], [102] * 3), ([1.0, 0.0, 0.0], [255, 0, 0]), ([0.0, 0.4, 1.0], None)],
)
def test_ink_is_black_and_colours_are_themselves_as_drawn(value, seen):
    seen = [255 * v for v in value] if seen is None else seen
    x = torch.full((3, len(value), H, W), 0.5)
    x[1] = torch.tensor(value)[:, None, None]
    figure = plotting.reconstructions(x, x.roll(1, 0), x.roll(-1, 0))
    for row, column in enumerate((1, 2, 0)):
        color = color_at(figure, figure.axes[0], *center(row, column))
        np.testing.assert_allclose(color, seen, atol=8)


@CHANNELS
def test_values_outside_0_and_1_are_shown_as_the_nearest(channels):
    x = torch.linspace(-1, 2, 5 * channels * H * W).reshape(5, channels, H, W)
    (axes,) = plotting.reconstructions(x, x, x).axes
    np.testing.assert_array_equal(tile(axes, 2, 4), x[4].clamp(0, 1))
    np.testing.assert_array_equal(tile(axes, 1, 0), x[0].clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_any_precision_are_shown(dtype):
    x = images(3).to(dtype)
    (axes,) = plotting.reconstructions(x, x, x).axes
    np.testing.assert_array_equal(tile(axes, 1, 2), x[2].float())


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    x = images(2, channels=channels)
    with pytest.raises(ValueError, match=f"images have 1 or 3 channels, not {channels}"):
        plotting.reconstructions(x, x, x)


# Latent means ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [[3, 7], list(range(10)), list(range(0, 24, 2))])
def test_each_label_is_written_at_the_mean_of_its_class(classes):
    points, labels = torch.randn(200, 2), torch.tensor(classes)[torch.arange(200) % len(classes)]
    (axes,) = plotting.latent_means(points, labels).axes
    assert [text.get_text() for text in axes.texts] == [str(label) for label in classes]
    for text, label in zip(axes.texts, classes, strict=True):
        np.testing.assert_allclose(text.get_position(), points.numpy()[labels.numpy() == label].mean(0), atol=1e-6)
        assert (text.get_ha(), text.get_va()) == ("center", "center")


@pytest.mark.parametrize("classes", [[3, 7], list(range(10)), list(range(0, 24, 2))])
def test_points_have_the_colour_of_their_class(classes):
    points, labels = torch.randn(200, 2), torch.tensor(classes)[torch.arange(200) % len(classes)]
    (axes,) = plotting.latent_means(points, labels).axes
    for found, label in zip(axes.collections, classes, strict=True):
        np.testing.assert_array_equal(found.get_offsets(), points[labels == label])
    colors = {tuple(found.get_facecolor()[0].round(3)) for found in axes.collections}
    assert len(colors) == len(classes)
    assert all(len(found.get_facecolor()) == 1 for found in axes.collections)


def test_points_without_labels_are_all_shown_without_text():
    points = torch.randn(30, 2)
    (axes,) = plotting.latent_means(points).axes
    (found,) = axes.collections
    np.testing.assert_array_equal(found.get_offsets(), points)
    assert not axes.texts


def test_latent_means_have_labelled_axes_of_one_scale():
    figure = plotting.latent_means(torch.randn(30, 2) * torch.tensor([1.0, 20.0]))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("$z_1$", "$z_2$", "Means of q(z | x)")
    drawn(figure)
    (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
    assert x1 - x0 == pytest.approx(y1 - y0)
    (axes,) = plotting.latent_means(torch.randn(30, 2), names=("first", "second")).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")


# Decoded grid ---------------------------------------------------------------------------------------------------------


@CHANNELS
def test_decoded_grid_shows_each_image_at_its_place(channels):
    tiles, quantiles = images(5, 5, channels=channels), grid()[1]
    (axes,) = plotting.decoded_grid(tiles, quantiles).axes
    for i in range(5):
        for j in range(5):
            np.testing.assert_array_equal(tile(axes, i, j), tiles[i, j])


def test_decoded_grid_says_mean_and_prior_and_has_labelled_axes():
    (axes,) = plotting.decoded_grid(*grid()).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert axes.get_title() == "Means of p(x | z) at the prior's quantiles"


@pytest.mark.parametrize("n", [3, 5, 20])
def test_ticks_of_decoded_grid_are_quantiles_at_the_middle_of_their_tiles(n):
    quantiles = torch.stack([torch.linspace(-2, 1.5, n), torch.linspace(-1.2, 3, n)])
    (axes,) = plotting.decoded_grid(images(n, n), quantiles).axes
    across = {center(0, i)[0]: quantiles[0, i].item() for i in range(n)}
    down = {center(n - 1 - i, 0)[1]: quantiles[1, i].item() for i in range(n)}  # z_2 rises upwards
    for ticks, labels, values in (
        (axes.get_xticks(), axes.get_xticklabels(), across),
        (axes.get_yticks(), axes.get_yticklabels(), down),
    ):
        assert 3 <= len(ticks) <= 8
        for at, label in zip(ticks, labels, strict=True):
            nearest = min(values, key=lambda place, at=at: abs(place - at))
            assert at == pytest.approx(nearest)
            assert float(label.get_text()) == pytest.approx(values[nearest], abs=0.0501)


def path_of(axes):
    (line,) = axes.lines
    return np.stack(line.get_data(), 1)


@CHANNELS
def test_path_lies_on_the_tiles_of_its_z(channels):
    tiles, quantiles = grid(channels=channels)
    path, strip = decoded_path()
    figure = plotting.decoded_grid(tiles, quantiles, path, strip)
    axes = figure.axes[0]
    for (x, y), (z1, z2) in zip(path_of(axes), path, strict=True):
        column, row = (quantiles[0] == z1).nonzero().item(), 4 - (quantiles[1] == z2).nonzero().item()
        np.testing.assert_allclose((x, y), center(row, column))
        under = np.atleast_1d(picture(axes)[int(y), int(x)])
        np.testing.assert_allclose(under, brightness(z1, z2), atol=1e-6)


def test_path_between_quantiles_lies_between_tiles_in_proportion():
    tiles, quantiles = grid()
    z = torch.stack(
        [torch.lerp(quantiles[0, 1], quantiles[0, 2], 0.25), torch.lerp(quantiles[1, 0], quantiles[1, 1], 0.5)]
    )
    path = torch.stack([z, quantiles[:, 4]])
    (x, y), _ = path_of(plotting.decoded_grid(tiles, quantiles, path, images(2)).axes[0])
    np.testing.assert_allclose(x, center(0, 1)[0] + 0.25 * (W + 1), rtol=1e-5)
    np.testing.assert_allclose(y, center(4, 0)[1] - 0.5 * (H + 1), rtol=1e-5)


def test_path_is_drawn_in_red_over_the_tiles_as_seen():
    tiles, quantiles = grid()
    path, strip = decoded_path()
    figure = plotting.decoded_grid(torch.ones_like(tiles), quantiles, path, strip)
    (x0, y0), (x1, y1) = path_of(figure.axes[0])[1:3]
    red, green, blue = color_at(figure, figure.axes[0], (x0 + x1) / 2, (y0 + y1) / 2).astype(int)
    assert red > 150
    assert max(green, blue) < 100


def test_path_leaves_the_view_of_the_grid_as_it_is():
    without, with_path = (plotting.decoded_grid(*grid(), *more).axes[0] for more in ((), decoded_path()))
    assert without.get_xlim() == with_path.get_xlim() == (-0.5, 5 * (W + 1) - 0.5)
    assert without.get_ylim() == with_path.get_ylim() == (5 * (H + 1) - 0.5, -0.5)


def test_path_begins_at_a_and_ends_at_b_in_its_colour():
    axes = plotting.decoded_grid(*grid(), *decoded_path()).axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(places) == {"A", "B"}
    np.testing.assert_allclose(places["A"], path_of(axes)[0])
    np.testing.assert_allclose(places["B"], path_of(axes)[-1])
    assert all(same_color(text.get_color(), axes.lines[0].get_color()) for text in axes.texts)


@CHANNELS
def test_strip_shows_the_decoded_path_in_order_and_says_mean(channels):
    path, _ = decoded_path()
    strip = images(4, channels=channels)
    _, axes = plotting.decoded_grid(*grid(channels=channels), path, strip).axes
    assert picture(axes).shape[:2] == (H + 1, 4 * (W + 1))
    for j in range(4):
        np.testing.assert_array_equal(tile(axes, 0, j), strip[j])
    assert axes.get_title() == "means of p(x | z) along the path from A to B"


def test_path_without_its_images_is_refused():
    with pytest.raises(ValueError, match="decoded_path"):
        plotting.decoded_grid(*grid(), decoded_path()[0])


# Training curves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [False, True])
def test_each_term_is_drawn_over_epochs_on_its_own_axes(valid):
    rows = history(valid=valid)
    figure = plotting.training_curves(rows)
    for axes, key in zip(figure.axes, ("elbo", "reconstruction", "kl"), strict=True):
        expected = [key, f"valid_{key}"] if valid else [key]
        for line, column in zip(axes.lines, expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
            np.testing.assert_array_equal(line.get_ydata(), [row[column] for row in rows])


@pytest.mark.parametrize("valid", [False, True])
def test_training_curves_have_labelled_axes_with_units_and_a_legend(valid):
    figure = plotting.training_curves(history(valid=valid))
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 3
    assert [axes.get_ylabel() for axes in figure.axes] == ["ELBO (nats)", "reconstruction (nats)", "KL (nats)"]
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == (["training", "validation"] if valid else ["training"])
    assert figure.axes[0].lines[0].get_label() == "training"


def test_epochs_have_whole_numbers():
    figure = plotting.training_curves(history(3))
    drawn(figure)
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def seen(axes, line):
    """Which points of a curve lie in the view."""
    low, high = axes.get_ylim()
    return np.array([low <= y <= high for y in line.get_ydata()])


def test_all_but_the_steep_start_of_the_curves_is_in_view():
    figure = plotting.training_curves(history(100))
    for axes in figure.axes:
        for line in axes.lines:
            assert seen(axes, line)[10:].all()
        assert not seen(axes, axes.lines[0])[0]


def test_validation_that_falls_behind_training_stays_in_view():
    rows = [
        {"epoch": e, "elbo": -20 + e / 10, "valid_elbo": -20 - e, "reconstruction": -15, "valid_reconstruction": -15}
        | {"kl": 5, "valid_kl": 5}
        for e in range(1, 41)
    ]
    axes = plotting.training_curves(rows).axes[0]
    assert seen(axes, axes.lines[1])[10:].all()


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_each_curve_can_be_seen(epochs):
    figure = plotting.training_curves(history(epochs, valid=False))
    figure.axes[0].get_legend().remove()
    pixels, _ = drawn(figure)
    for axes in figure.axes:
        (left, bottom), (right, top) = axes.get_window_extent().get_points().astype(int)
        inside = pixels[len(pixels) - top : len(pixels) - bottom, left:right].astype(int)
        assert (inside.max(2) - inside.min(2) > 60).any()  # coloured


def test_no_epochs_give_empty_axes():
    assert [len(line.get_xdata()) for axes in plotting.training_curves([]).axes for line in axes.lines] == [0, 0, 0]
