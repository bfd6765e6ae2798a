"""Noise levels, computed or the user's own, fall strictly and end in one 0."""

from __future__ import annotations

import math
import operator
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcut.errors import ConfigError
from vcut.sampling import ALIGN_YOUR_STEPS, check_sigmas, interpolate_sigmas, karras_sigmas

RATIOS = st.lists(st.floats(0.1, 0.99), min_size=1, max_size=20)
LEVELS = RATIOS.map(lambda ratios: list(accumulate(ratios, operator.mul, initial=700.0)))


@given(steps=st.integers(1, 200), rho=st.floats(1, 20), low=st.floats(1e-3, 1), ratio=st.floats(2, 1e5))
def test_karras_levels_fall_from_the_maximum_to_the_minimum_and_to_zero(
    steps: int, rho: float, low: float, ratio: float
) -> None:
    sigmas = karras_sigmas(steps, low, low * ratio, rho)
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[0] == pytest.approx(low * ratio, rel=1e-9)
    assert sigmas[-1] == 0
    if steps > 1:
        assert sigmas[-2] == pytest.approx(low, rel=1e-6)


def test_one_step_goes_from_700_to_0() -> None:
    assert karras_sigmas(1).tolist() == pytest.approx([700.0, 0.0], rel=1e-12)


@given(LEVELS)
def test_own_levels_are_kept_and_the_final_zero_appended_once(levels: list[float]) -> None:
    expected = [*levels, 0.0]
    assert check_sigmas(levels).tolist() == expected
    assert check_sigmas(expected).tolist() == expected
    assert check_sigmas(torch.tensor(levels, dtype=torch.float64)).tolist() == expected


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], "at least one"),
        ([0.0], "at least one"),
        ([3.0, 3.0], "sigma 2 is 3.0 after 3.0"),
        ([3.0, 4.0, 1.0], "sigma 2 is 4.0 after 3.0"),
        ([3.0, 0.0, 1.0], "sigma 2 is 0"),
        ([3.0, 0.0, 0.0], "sigma 2 is 0"),
        ([3.0, -1.0], "sigma 2 is -1"),
        ([math.nan, 1.0], "sigma 1 is nan"),
        ([math.inf, 1.0], "sigma 1 is inf"),
        ([[3.0, 1.0]], "flat list"),
        (["a"], "list of numbers"),
        ([[3.0], [2.0, 1.0]], "list of numbers"),
    ],
)
def test_impossible_levels_are_refused_by_position(values: list[float], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        check_sigmas(values)


def test_the_published_list_is_ten_steps_as_it_stands() -> None:
    torch.testing.assert_close(
        interpolate_sigmas(ALIGN_YOUR_STEPS, 10),
        torch.tensor([*ALIGN_YOUR_STEPS[:-1], 0.0], dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )


def test_the_published_list_is_that_of_table_3() -> None:
    published = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
    assert list(ALIGN_YOUR_STEPS) == published


def test_twice_the_steps_put_geometric_means_between() -> None:
    sigmas = interpolate_sigmas(ALIGN_YOUR_STEPS, 20).tolist()
    assert len(sigmas) == 21
    for i in range(10):
        assert sigmas[2 * i] == pytest.approx(ALIGN_YOUR_STEPS[i], rel=1e-12)
        between = math.sqrt(ALIGN_YOUR_STEPS[i] * ALIGN_YOUR_STEPS[i + 1])
        assert sigmas[2 * i + 1] == pytest.approx(between, rel=1e-12)


@given(levels=LEVELS, steps=st.integers(1, 60))
def test_interpolation_to_any_number_of_steps_falls_from_the_same_start(
    levels: list[float], steps: int
) -> None:
    sigmas = interpolate_sigmas(levels, steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == pytest.approx(levels[0], rel=1e-12)
    assert (sigmas.diff() < 0).all()


def test_one_level_cannot_be_interpolated() -> None:
    with pytest.raises(ConfigError, match="two positive"):
        interpolate_sigmas([700.0, 0.0], 5)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "25", None])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="steps must be"):
        karras_sigmas(steps)
    with pytest.raises(ConfigError, match="steps must be"):
        interpolate_sigmas(ALIGN_YOUR_STEPS, steps)


@pytest.mark.parametrize(("low", "high"), [(0, 700), (-1, 700), (700, 700), (1, math.inf), (math.nan, 700)])
def test_impossible_ends_are_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match=r"0 < sigma_min < sigma_max|sigma_m\w\w must be a finite number"):
        karras_sigmas(25, low, high)


@pytest.mark.parametrize("rho", [0, -7, math.inf, math.nan])
def test_impossible_exponents_are_refused(rho: float) -> None:
    with pytest.raises(ConfigError, match="rho"):
        karras_sigmas(25, rho=rho)
