"""D = D_u + s_f (D_c - D_u) with any scale over the frames."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.errors import ConfigError
from vcut.sampling import Ramp, Scale, constant, frame_scales, guide, linear, scale_of, triangle

SCALES = st.floats(-10, 10)
FRAMES = st.integers(1, 30)


def estimates(frames: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    uncond, cond = torch.randn(2, 2, frames, 4, 3, 2, generator=generator, dtype=dtype)
    return uncond, cond


@given(st.lists(SCALES, min_size=1, max_size=8))
def test_guidance_is_the_formula_frame_by_frame(scale: list[float]) -> None:
    uncond, cond = estimates(len(scale))
    out = guide(uncond, cond, torch.tensor(scale, dtype=torch.float64))
    for f, s in enumerate(scale):
        torch.testing.assert_close(
            out[:, f], uncond[:, f] + s * (cond[:, f] - uncond[:, f]), rtol=1e-12, atol=1e-12
        )


@given(a=SCALES, b=SCALES, t=st.floats(-2, 2))
def test_guidance_is_affine_in_the_scale(a: float, b: float, t: float) -> None:
    uncond, cond = estimates()
    at_a, at_b, between = (
        guide(uncond, cond, torch.full((5,), s, dtype=torch.float64)) for s in (a, b, a + t * (b - a))
    )
    torch.testing.assert_close(between, at_a + t * (at_b - at_a), rtol=1e-10, atol=1e-10)


def test_scale_1_is_the_conditional_and_scale_0_the_unconditional_estimate_exactly() -> None:
    for dtype in (torch.float32, torch.float64):
        uncond, cond = estimates(dtype=dtype)
        assert torch.equal(guide(uncond, cond, torch.ones(5)), cond)
        assert torch.equal(guide(uncond, cond, torch.zeros(5)), uncond)


def test_a_scale_for_another_number_of_frames_is_refused() -> None:
    uncond, cond = estimates(5)
    with pytest.raises(ConfigError, match="do not fit"):
        guide(uncond, cond, torch.ones(4))


@given(minimum=SCALES, maximum=SCALES, frames=FRAMES)
def test_linear_goes_from_the_first_to_the_last_frame_by_equal_steps(
    minimum: float, maximum: float, frames: int
) -> None:
    """Rising, falling, equal, below 1, negative: the formula does not care."""
    scale = frame_scales(linear(minimum, maximum), frames)
    assert scale.shape == (frames,)
    assert scale[0] == minimum
    if frames > 1:
        expected = [minimum + i / (frames - 1) * (maximum - minimum) for i in range(frames)]
        assert scale.tolist() == pytest.approx(expected, abs=1e-12)


@given(scale=SCALES, frames=FRAMES)
def test_constant_is_exactly_constant(scale: float, frames: int) -> None:
    assert frame_scales(constant(scale), frames).tolist() == [scale] * frames


@given(minimum=SCALES, maximum=SCALES, frames=FRAMES)
def test_triangle_is_the_minimum_at_both_ends_and_symmetric(
    minimum: float, maximum: float, frames: int
) -> None:
    scale = frame_scales(triangle(minimum, maximum), frames)
    assert scale[0] == pytest.approx(minimum, abs=1e-12)
    torch.testing.assert_close(scale, scale.flip(0), rtol=1e-12, atol=1e-12)
    if frames % 2 and frames > 1:
        assert scale[frames // 2] == pytest.approx(maximum, abs=1e-12)
    for i in range(frames):  # sgm's wave 2 |v - floor(v + 1/2)| for v from 0 to 1
        v = i / (frames - 1) if frames > 1 else 0.0
        wave = 2 * abs(v - (v + 0.5) // 1)
        assert float(scale[i]) == pytest.approx(minimum + (maximum - minimum) * wave, abs=1e-12)


@pytest.mark.parametrize(
    "number", [2, 1.5, Decimal("1.5"), np.float32(1.5), np.array(1.5), torch.tensor(1.5)]
)
def test_one_number_is_the_scale_of_all_frames(number: float) -> None:
    assert scale_of(number) == constant(float(number))


@pytest.mark.parametrize("pair", [(1, 2.5), [1.0, 2.5], np.array([1, 2.5]), {"minimum": 1, "maximum": 2.5}])
def test_two_numbers_are_the_scales_of_the_first_and_of_the_last_frame(pair: Any) -> None:
    assert scale_of(pair) == linear(1.0, 2.5)


def test_any_function_of_the_number_of_frames_is_a_scale() -> None:
    assert frame_scales(lambda frames: [i / 2 for i in range(frames)], 3).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        (3.0, "function of the number of frames"),
        (lambda frames: [1.0] * (frames + 1), "one per frame"),
        (lambda frames: [[1.0] * frames], "one per frame"),
        (lambda frames: 1.0, "one per frame"),
        (lambda frames: [float("nan")] * frames, "frame 0 is nan"),
        (lambda frames: [float("inf")] * frames, "frame 0 is"),
        (lambda frames: None, "numbers"),
        (lambda frames: ["a"] * frames, "numbers"),
    ],
)
def test_scales_that_cannot_work_are_refused(scale: Scale, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        frame_scales(scale, 3)


def test_a_ramp_has_a_known_shape() -> None:
    with pytest.raises(
        ConfigError, match="the shape of guidance must be one of linear, triangle, got 'square'"
    ):
        Ramp(1.0, 3.0, "square")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", None])
def test_a_ramp_takes_finite_numbers_only(value: float) -> None:
    with pytest.raises(ConfigError, match="the maximum of guidance must be a finite number"):
        linear(1.0, value)
    with pytest.raises(ConfigError, match="the minimum of guidance must be a finite number"):
        constant(value)
