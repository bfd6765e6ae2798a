"""Intervals are Student's over images, hold the mean as often as they say, and the number of images has its power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut.scores.statistics import (
    estimate,
    image_means,
    images_needed,
    paired_differences,
    student_cdf,
    student_quantile,
)

PRINTED = {
    1: 12.7062,
    2: 4.30265,
    3: 3.18245,
    5: 2.57058,
    10: 2.22814,
    30: 2.04227,
    100: 1.98397,
    1000: 1.96234,
}
"""t_0.975 by degrees of freedom, from a printed table."""


@pytest.mark.parametrize("degrees", PRINTED)
def test_quantiles_are_the_printed_ones(degrees: int) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(PRINTED[degrees], abs=1e-5)


@given(st.floats(0.5, 0.999), st.integers(1, 60))
def test_the_quantile_undoes_the_distribution(probability: float, degrees: int) -> None:
    t = student_quantile(probability, degrees)
    assert student_cdf(t, degrees) == pytest.approx(probability, abs=1e-9)
    assert student_cdf(-t, degrees) == pytest.approx(1 - probability, abs=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 7, 12])
def test_the_distribution_is_the_integral_of_its_density(degrees: int) -> None:
    t = np.linspace(0, 2, 200_001)
    factor = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    density = factor * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert student_cdf(2.0, degrees) == pytest.approx(0.5 + np.trapezoid(density, t), abs=1e-9)


@pytest.mark.parametrize("images", [3, 12])
def test_intervals_hold_the_mean_in_95_of_100_draws(images: int) -> None:
    draws = np.random.default_rng(0).normal(5, 2, (1500, images))
    held = 0
    for values in draws:
        found = estimate(values.tolist())
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 5 <= found.high
    assert held / len(draws) == pytest.approx(0.95, abs=0.017)


def test_clips_of_one_image_are_averaged_first() -> None:
    values = [("a", 1.0), ("a", 3.0), ("b", 4.0)]
    assert image_means(values) == [2.0, 4.0]
    found = estimate(image_means(values))
    assert found is not None
    assert (found.mean, found.images) == (3.0, 2)
    assert found.half == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), abs=1e-3)


def test_differences_are_of_the_clips_that_both_have() -> None:
    ours = {("a", 0): 2.0, ("a", 1): 5.0, ("b", 0): 1.0}
    baseline = {("a", 0): 1.5, ("a", 1): 4.0, ("c", 0): 7.0}
    assert paired_differences(ours, baseline) == [("a", 0.5), ("a", 1.0)]


def test_pairs_see_what_two_separate_means_do_not() -> None:
    draw = np.random.default_rng(1)
    easy = draw.normal(90, 8, 20)
    ours = {(str(i), 0): value - 0.3 for i, value in enumerate(easy)}
    baseline = {(str(i), 0): value + 0.1 * draw.normal() for i, value in enumerate(easy)}
    paired = estimate(image_means(paired_differences(ours, baseline)))
    assert paired is not None
    assert paired.high is not None
    assert paired.high < 0
    alone = estimate(list(ours.values()))
    assert alone is not None
    assert alone.half is not None
    assert alone.half > 2


def test_one_image_has_no_interval_and_none_no_mean() -> None:
    single = estimate([4.0])
    assert single is not None
    assert (single.mean, single.low, single.high, single.images) == (4.0, None, None, 1)
    assert estimate([]) is None


@pytest.mark.parametrize("deviation", [0.4, 1.2])
def test_that_many_images_see_the_difference_in_8_of_10_sweeps(deviation: float) -> None:
    n = images_needed(deviation, 0.3)
    draws = np.random.default_rng(2).normal(0.3, deviation, (4000, n))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(n))
    assert (np.abs(t) > student_quantile(0.975, n - 1)).mean() == pytest.approx(0.8, abs=0.025)


def test_twice_the_deviation_needs_about_four_times_the_images() -> None:
    assert images_needed(2.0, 0.3) == pytest.approx(4 * images_needed(1.0, 0.3), rel=0.03)
    assert images_needed(0.0, 0.3) == 2
