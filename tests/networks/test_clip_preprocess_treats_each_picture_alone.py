"""What CLIP's preprocessing keeps: batches, transposition, flat pictures of any size; and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vcut.clip import preprocess
from vcut.clip.preprocess import MEAN, STD
from vcut.errors import ConfigError


def pictures(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


sides = st.integers(1, 80)


@settings(max_examples=25, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 40))
def test_a_batch_is_its_pictures(height: int, width: int, size: int) -> None:
    images = pictures(3, 3, height, width)
    singles = torch.cat([preprocess(image[None], size) for image in images])
    assert singles.shape == (3, 3, size, size)
    torch.testing.assert_close(preprocess(images, size), singles, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 40))
def test_height_and_width_are_treated_alike(height: int, width: int, size: int) -> None:
    images = pictures(2, 3, height, width)
    torch.testing.assert_close(
        preprocess(images.mT, size), preprocess(images, size).mT, rtol=1e-11, atol=1e-11
    )


@settings(max_examples=25, deadline=None)
@given(height=sides, width=sides, value=st.floats(-1, 1))
def test_a_flat_picture_stays_flat(height: int, width: int, value: float) -> None:
    pixels = preprocess(torch.full((1, 3, height, width), value, dtype=torch.float64), 28)
    expected = ((value + 1) / 2 - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(STD).double()
    # the published means are kept in float32
    torch.testing.assert_close(pixels, expected.view(1, 3, 1, 1).expand_as(pixels), rtol=0, atol=1e-6)


def test_the_size_clip_reads_is_only_normalised() -> None:
    images = pictures(2, 3, 28, 28)
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(
        preprocess(images, 28), ((images + 1) / 2 - mean) / std, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32(dtype: torch.dtype) -> None:
    images = pictures(2, 3, 30, 50).to(dtype)
    torch.testing.assert_close(preprocess(images, 28), preprocess(images.float(), 28), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(3, 8, 8), "got [3, 8, 8] torch.float32"),
        (torch.zeros(1, 1, 8, 8), "got [1, 1, 8, 8] torch.float32"),
        (torch.zeros(1, 3, 0, 8), "got [1, 3, 0, 8] torch.float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got [1, 3, 8, 8] torch.uint8"),
    ],
)
def test_other_tensors_are_refused(images: Tensor, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        preprocess(images)
    assert says in str(error.value)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="size that CLIP reads must be a whole number of at least 1, got 0"):
        preprocess(torch.zeros(1, 3, 8, 8), 0)
