"""Cropping, squashing and padding, resampled as Pillow's bicubic filter does in floating point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vcut.errors import ConfigError
from vcut.media import images
from vcut.settings import check_size


def bicubic(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray:
    """Pillow's filter on float channels, [h, w, 3] in 0..1."""
    bands = Image.fromarray(rgb).split()
    resized = [band.convert("F").resize(size[::-1], Image.Resampling.BICUBIC) for band in bands]
    return np.stack([np.asarray(band) for band in resized], axis=2).clip(0, 255) / 255


def pixels_of(tensor: torch.Tensor) -> NDArray:
    return (tensor.permute(1, 2, 0).numpy() + 1) / 2


@pytest.mark.parametrize("size", [(64, 96), (10, 7), (300, 130), (61, 83)])
def test_resizing_is_pillows_bicubic_without_its_rounding(size: tuple[int, int]) -> None:
    """Also after a crop: of the middle window that has the wanted aspect, to the nearest pixel."""
    rgb = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)
    squashed = images.to_tensor(rgb, *size, "resize")
    np.testing.assert_allclose(pixels_of(squashed), bicubic(rgb, size), atol=1e-5)
    scale = min(61 / size[0], 83 / size[1])
    h, w = round(size[0] * scale), round(size[1] * scale)
    top, left = (61 - h) // 2, (83 - w) // 2
    window = np.ascontiguousarray(rgb[top : top + h, left : left + w])
    np.testing.assert_allclose(pixels_of(images.to_tensor(rgb, *size)), bicubic(window, size), atol=1e-5)


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_bands_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch, fit: images.Fit) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (61, 83, 3), np.uint8)
    whole = images.fitted(rgb, 24, 40, fit)
    for pixels in (1, 83 * 7, 83 * 60):
        monkeypatch.setattr(images, "_BAND", pixels)
        for form in (rgb, Image.fromarray(rgb)):
            assert torch.equal(images.fitted(form, 24, 40, fit), whole)


def test_the_right_size_passes_unchanged() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    for fit in ("crop", "resize", "pad"):
        assert np.array_equal(np.rint(pixels_of(images.to_tensor(rgb, 64, 96, fit)) * 255), rgb)


def test_crop_keeps_the_middle() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    assert images.to_tensor(wide, 32, 32)[:, :, 4:-4].min() > 0.99
    assert images.to_tensor(wide, 32, 96)[:, :, :24].max() == -1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_pad_keeps_everything_between_black_bars(height: int, width: int) -> None:
    white = np.full((40, 80, 3), 255, np.uint8)
    padded = images.to_tensor(white, height, width, "pad")
    scale = max(40 / height, 80 / width)
    shown = padded > 0.9999
    assert shown.sum() == 3 * round(40 / scale) * round(80 / scale)
    assert torch.equal(padded == -1, ~shown)
    assert torch.equal(shown, shown.flip(1))
    assert torch.equal(shown, shown.flip(2))


def test_shrinking_does_not_alias() -> None:
    checks = np.indices((256, 256)).sum(0).astype(np.uint8) % 2 * 255
    small = images.to_tensor(checks, 32, 32)
    torch.testing.assert_close(small, torch.zeros_like(small), atol=0.02, rtol=0)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fit=st.sampled_from(["crop", "resize", "pad"]),
    seed=st.integers(0, 9),
)
def test_any_mode_and_size_gives_finite_pixels_in_range(
    mode: str, source: tuple[int, int], target: tuple[int, int], fit: images.Fit, seed: int
) -> None:
    random = np.random.default_rng(seed)
    if mode == "F":
        image = Image.fromarray(random.random(source, np.float32))
    elif mode in ("I", "I;16"):
        deep = random.integers(0, 65536, source).astype(np.int32 if mode == "I" else np.uint16)
        image = Image.fromarray(deep)
    else:
        image = Image.fromarray(random.integers(0, 256, (*source, 4), np.uint8))
        image = (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode)
    tensor = images.to_tensor(image, *target, fit)
    assert tensor.shape == (3, *target)
    assert tensor.is_contiguous()
    assert torch.isfinite(tensor).all()
    assert -1 <= tensor.min() <= tensor.max() <= 1


@settings(max_examples=50, deadline=None)
@given(
    source=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    target=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    fit=st.sampled_from(["crop", "resize"]),
    level=st.integers(0, 255),
)
def test_one_colour_stays_that_colour(
    source: tuple[int, int], target: tuple[int, int], fit: images.Fit, level: int
) -> None:
    tensor = images.to_tensor(np.full((*source, 3), level, np.uint8), *target, fit)
    torch.testing.assert_close(tensor, torch.full_like(tensor, level / 127.5 - 1), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "says"),
    [
        (500, 1024, "height 500 is not a multiple of 64 (nearest: 448 or 512)"),
        (576, 1000, "width 1000 is not a multiple of 64 (nearest: 960 or 1024)"),
        (30, 1024, "height 30 is not a multiple of 64 (nearest: 64)"),
        (0, 1024, "height 0 is not a multiple of 64 (nearest: 64)"),
        (-64, 1024, "height -64 is not a multiple of 64 (nearest: 64)"),
    ],
)
def test_a_wrong_size_names_the_nearest_right_ones(height: int, width: int, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_size(height, width, 64)
    assert str(error.value) == says


def test_both_wrong_sides_are_named_and_right_ones_pass() -> None:
    with pytest.raises(ConfigError, match=r"height 5 .*; width 6 "):
        check_size(5, 6, 64)
    check_size(576, 1024, 64)
