"""CLIP's preprocessing is the official one, pixel by pixel, shrinking and enlarging."""

from __future__ import annotations

import pytest
import torch
from goldens_io import load, relative_error
from torch import Tensor

from vcut.clip import preprocess

SIZES = ["96x160", "224x224", "150x400", "300x500", "576x1024"]
EXACT = 1e-9


def picture_by_rule(height: int = 576, width: int = 1024) -> Tensor:
    """The one too large to be stored (NOTES.md, section 5)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    channels = [7 * (c + 1) * x + 13 * (c + 2) * y + x * y // (11 + c) for c in range(3)]
    return torch.stack(channels)[None] % 256


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return {**load("clip_preprocess"), "in.576x1024": picture_by_rule()}


def picture(io: dict[str, Tensor], size: str) -> Tensor:
    return io[f"in.{size}"].double() / 255 * 2 - 1


@pytest.mark.parametrize("size", SIZES)
def test_float64_equals_both_official_codes(io: dict[str, Tensor], size: str) -> None:
    pixels = preprocess(picture(io, size))
    sums = torch.stack([pixels.sum(), pixels.square().sum()])
    assert relative_error(pixels[:, :, 1::4, 2::4], io[f"sgm_s4.{size}.f64"]) < EXACT
    assert relative_error(pixels[:, :, 1::4, 2::4], io[f"hf_s4.{size}.f64"]) < EXACT
    assert relative_error(sums, io[f"sum.{size}.f64"]) < EXACT


def test_float32_equals_official_float32(io: dict[str, Tensor]) -> None:
    pixels = preprocess(picture(io, "300x500").float())
    assert pixels.dtype is torch.float32
    torch.testing.assert_close(pixels, io["sgm.300x500"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_float32_stays_near_float64(io: dict[str, Tensor], size: str) -> None:
    """Within 1e-4: a float32 coordinate near 1000 is off by 3e-5 pixels, and neighbours differ by up to 4."""
    pixels = picture(io, size)
    torch.testing.assert_close(preprocess(pixels.float()).double(), preprocess(pixels), rtol=0, atol=1e-4)
