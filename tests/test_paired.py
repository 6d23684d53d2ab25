"""Paired differences against scipy's t-test, an analysis of variance by numpy's least squares, and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae.paired import difference, differences


def draws(repetitions, seeds, images, seed_sd, image_sd, rest_sd, mu=0.0, rng_seed=0):
    """Differences mu + seed_s + image_i + rest_si, `(repetitions, S, N)`."""
    rng = np.random.default_rng(rng_seed)
    shapes = ((repetitions, seeds, 1), (repetitions, 1, images), (repetitions, seeds, images))
    effects = [sd * rng.normal(size=n) for sd, n in zip((seed_sd, image_sd, rest_sd), shapes, strict=True)]
    return torch.from_numpy(mu + sum(effects))


def of(d, level=0.95):
    """The difference of two models that differ by d, over scores that differ much between images."""
    b = 10 * torch.randn(d.shape[1], generator=torch.Generator().manual_seed(0)).double() - 90
    return difference(b + d, b.expand_as(d), level)


def mean_squares(d):
    """Of seeds, images and rest: what sum of squares least squares loses when an effect is left out of the fit."""
    seeds, images = d.shape
    s, i = np.repeat(np.arange(seeds), images), np.tile(np.arange(images), seeds)
    one, by_seed, by_image = np.ones((d.numel(), 1)), np.eye(seeds)[s], np.eye(images)[i]

    def residual(*columns):
        design = np.concatenate([one, *columns], 1)
        fit = design @ np.linalg.lstsq(design, d.numpy().ravel(), rcond=None)[0]
        return ((d.numpy().ravel() - fit) ** 2).sum()

    full = residual(by_seed, by_image)
    return (
        (residual(by_image) - full) / (seeds - 1),
        (residual(by_seed) - full) / (images - 1),
        full / (seeds - 1) / (images - 1),
    )


# One difference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 50), (6, 1)], ids=["one seed", "one image"])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_one_seed_or_one_image_gives_the_paired_t_test(shape, level):
    a, b = torch.randn(2, *shape).double() + torch.tensor([0.3, 0.0])[:, None, None]
    result = difference(a, b, level)
    expected = stats.ttest_rel(a.flatten().numpy(), b.flatten().numpy())
    low, high = expected.confidence_interval(level)
    assert (result.value, result.low, result.high) == pytest.approx(((a - b).mean().item(), low, high))
    assert result.value / result.std_error == pytest.approx(expected.statistic)
    assert result.real == (expected.pvalue < 1 - level)
    known, unknown = result.image_std_error, result.seed_std_error
    if shape[1] == 1:
        known, unknown = unknown, known
    assert known == result.std_error
    assert math.isnan(unknown)


@pytest.mark.parametrize("sds", [(4.0, 5.0, 1.0), (9.0, 2.0, 0.5)])
@pytest.mark.parametrize("shape", [(2, 7), (4, 5)])
def test_errors_are_those_of_the_analysis_of_variance(shape, sds):
    d = draws(1, *shape, *sds, mu=2.0, rng_seed=3)[0]
    seeds, images = shape
    ms_seed, ms_image, ms_rest = mean_squares(d)
    result = of(d)
    assert result.value == pytest.approx(d.mean().item())
    assert result.seed_std_error == pytest.approx(math.sqrt(ms_seed / d.numel()))
    assert result.image_std_error == pytest.approx(math.sqrt(ms_image / d.numel()))
    assert ms_rest < min(ms_seed, ms_image)  # so that no bound takes hold
    assert result.std_error == pytest.approx(math.sqrt((ms_seed + ms_image - ms_rest) / d.numel()))
    total = ms_seed + ms_image - ms_rest
    parts = ms_seed**2 / (seeds - 1) + ms_image**2 / (images - 1) + ms_rest**2 / (seeds - 1) / (images - 1)
    half_width = stats.t.ppf(0.975, total**2 / parts) * math.sqrt(total / d.numel())
    assert (result.low, result.high) == pytest.approx((result.value - half_width, result.value + half_width))


def test_known_numbers_by_hand():
    """Effects of seeds -1, 1, of images -3, 0, 3, rest +-(1, -2, 1) / 2: sums of squares 6, 36, 3; mean 10."""
    d = torch.tensor([[6.5, 8.0, 12.5], [7.5, 12.0, 13.5]]).double()
    result = of(d)
    ms_seed, ms_image, ms_rest = 6 / 1, 36 / 2, 3 / 2
    assert result.value == pytest.approx(10)
    assert result.std_error == pytest.approx(math.sqrt((ms_seed + ms_image - ms_rest) / 6))
    # 22.5^2 / (6^2 / 1 + 18^2 / 2 + 1.5^2 / 2) = 2.542 degrees of freedom, of which Student's quantile is 3.532.
    assert result.high - 10 == pytest.approx(3.532 * math.sqrt(22.5 / 6), rel=1e-3)
    assert 10 - result.low == pytest.approx(3.532 * math.sqrt(22.5 / 6), rel=1e-3)


@pytest.mark.parametrize("sds", [(0.5, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_errors_are_never_below_those_of_one_source_alone(sds):
    for d in draws(200, 2, 5, *sds):
        result = of(d)
        assert result.std_error >= max(result.image_std_error, result.seed_std_error)


def test_the_squared_error_is_on_average_the_variance_of_the_difference():
    """Where the mean squares are far apart, so that no bound on it takes hold; z-test at level 1e-3."""
    seeds, images, sds = 4, 30, (1.0, 4.0, 1.5)
    squares = np.array([of(d).std_error ** 2 for d in draws(3000, seeds, images, *sds)])
    variance = sds[0] ** 2 / seeds + sds[1] ** 2 / images + sds[2] ** 2 / (seeds * images)
    assert abs(squares.mean() - variance) < 3.3 * squares.std() / len(squares) ** 0.5


@pytest.mark.parametrize("seed_sd", [0.0, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("seeds", "least"), [(2, 0.87), (3, 0.92), (5, 0.94), (10, 0.945)])
def test_intervals_hold_as_often_as_is_said(seeds, least, seed_sd):
    """Seeds that vary by 0 to 10 standard errors over 40 images; of 1000, with room for 3 errors."""
    image_sd = math.sqrt(40)
    d = draws(1000, seeds, 40, seed_sd * math.sqrt(seeds), image_sd, image_sd / 2, mu=3.0, rng_seed=seeds)
    held = [result.low < 3 < result.high for result in map(of, d)]
    assert np.mean(held) > least - 3 * math.sqrt(least * (1 - least) / 1000)


def test_a_difference_of_4_standard_errors_over_images_is_found_where_two_seeds_agree():
    """The standard error over images is 1, over seeds 0.07; or 3.5, which hides the difference."""
    agree, differ = (draws(500, 2, 225, seed_sd, 15.0, 1.5, mu=4.0) for seed_sd in (0.0, 5.0))
    assert np.mean([of(d).real for d in agree]) > 0.85
    assert np.mean([of(d).real for d in differ]) < 0.25


def test_what_is_real_for_these_seeds_is_what_a_t_test_over_images_of_their_mean_finds():
    for d in draws(100, 2, 30, 1.0, 5.0, 3.0, mu=2.0):
        expected = stats.ttest_1samp(d.mean(0).numpy(), 0.0)
        assert of(d).real_for_these_seeds == (expected.pvalue < 0.05)


def test_a_model_and_itself_do_not_differ():
    x = torch.randn(2, 30)
    result = difference(x, x.clone())
    assert result[:6] == (0, 0, 0, 0, 0, 0)
    assert not result.real
    assert not result.real_for_these_seeds


def test_a_difference_that_never_varies_is_real():
    x = torch.randint(9, (2, 30)).float()
    result = difference(x + 1, x)
    assert (result.low, result.high) == (1, 1)
    assert result.real


def test_the_order_is_a_minus_b():
    a, b = torch.randn(2, 3, 20) + torch.tensor([5.0, 0.0])[:, None, None]
    ab, ba = difference(a, b), difference(b, a)
    assert ab.real
    assert ba.real
    assert ab.low > 0 > ba.high
    assert (ba.value, ba.low, ba.high) == pytest.approx((-ab.value, -ab.high, -ab.low))


def test_a_single_value_has_no_error():
    result = difference(torch.ones(1, 1), torch.zeros(1, 1))
    assert result.value == 1
    assert all(math.isnan(number) for number in result[1:-1])
    assert not result.real
    assert not result.real_for_these_seeds


def test_small_differences_of_large_values_in_float32_are_not_lost():
    x = torch.full((2, 10_000), -90.0) + torch.rand(10_000)
    assert difference(x + 2**-10, x).value == pytest.approx(2**-10, rel=0.02)


@pytest.mark.parametrize(
    ("a", "b", "level", "message"),
    [
        ((2, 5), (2, 4), 0.95, "shape"),
        ((2, 5), (1, 5), 0.95, "shape"),  # which would broadcast
        ((5,), (5,), 0.95, "shape"),
        ((2, 0), (2, 0), 0.95, "shape"),
        ((2, 5), (2, 5), 0.0, "level"),
        ((2, 5), (2, 5), 95, "level"),
    ],
)
def test_what_makes_no_table_or_no_level_is_refused(a, b, level, message):
    with pytest.raises(ValueError, match=message):
        difference(torch.zeros(a), torch.zeros(b), level)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_are_refused(bad, which):
    values = torch.zeros(2, 2, 5)
    values[which, 1, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        difference(*values)


# All pairs ------------------------------------------------------------------------------------------------------------


def entries(names, seeds=3, images=50):
    return {name: torch.randn(seeds, images) + 0.5 * k for k, name in enumerate(names)}


def test_each_pair_is_a_row_the_later_minus_the_earlier():
    values = entries(["A", "B", "C", "D"])
    rows = differences(values, level=0.9)
    assert [row["entry"] + row["minus"] for row in rows] == ["BA", "CA", "DA", "CB", "DB", "DC"]
    for row in rows:
        expected = difference(values[row["entry"]], values[row["minus"]], level=0.9)
        assert row["difference"] == expected.value
        assert row["real"] == expected.real
        assert all(row[key] == number for key, number in expected._asdict().items() if key != "value")


def test_one_entry_or_none_makes_no_pair():
    assert differences(entries(["A"])) == differences({}) == []


def test_the_same_values_twice_do_not_differ_and_disturb_no_other_pair():
    values = entries(["A", "B", "C"])
    values["A again"] = values["A"]
    rows = {(row["entry"], row["minus"]): row for row in differences(values)}
    same = rows["A again", "A"]
    assert (same["difference"], same["low"], same["high"], same["real"]) == (0, 0, 0, False)
    assert rows["B", "A"]["difference"] == pytest.approx(-rows["A again", "B"]["difference"])


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_a_level_outside_0_and_1_is_refused_for_lists_too(level):
    with pytest.raises(ValueError, match=f"not {level}"):
        differences(entries(["A", "B", "C"]), level=level)
