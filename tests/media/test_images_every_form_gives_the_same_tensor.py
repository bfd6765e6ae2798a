"""A picture conditions the model the same way however it is handed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vcut.media import images

SIZES = [(64, 96), (37, 37), (90, 24)]  # smaller and larger than the picture, other aspects


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_path_pil_array_and_tensor_agree_to_the_bit(
    tmp_path: Path, rgb: NDArray[np.uint8], size: tuple[int, int], fit: images.Fit
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(rgb).save(path)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    forms: dict[str, images.Image] = {
        "str": str(path),
        "Path": path,
        "PIL": Image.fromarray(rgb),
        "PIL, opened": Image.open(path),
        "uint8 array": rgb,
        "uint16 array": rgb.astype(np.uint16) * 257,
        "float32 array": (rgb / 255).astype(np.float32),
        "float64 array": rgb / 255,
        "strided array": np.repeat(rgb, 2, axis=1)[:, ::2],
        "uint8 tensor": tensor,
        "tensor [1, 3, h, w]": tensor[None],
        "float tensor": tensor.float() / 255,
        "float tensor with gradient": (tensor.float() / 255).requires_grad_(),
    }
    expected = images.to_tensor(rgb, *size, fit)
    assert expected.shape == (3, *size)
    assert expected.dtype == torch.float32
    for form, image in forms.items():
        assert torch.equal(images.to_tensor(image, *size, fit), expected), form


def test_half_precision_tensors_agree_to_their_precision(rgb: NDArray[np.uint8]) -> None:
    tensor = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
    expected = images.to_tensor(rgb, 64, 96)
    torch.testing.assert_close(images.to_tensor(tensor.half(), 64, 96), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(images.to_tensor(tensor.bfloat16(), 64, 96), expected, atol=2e-2, rtol=0)


def test_grey_of_any_form_equals_its_three_channels(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    grey = rgb[:, :, 0]
    expected = images.to_tensor(np.stack([grey] * 3, axis=2), 64, 96)
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    for image in (
        grey,
        grey[:, :, None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
        Image.fromarray(grey),
        Image.fromarray(deep),
        Image.fromarray(deep.astype(np.int32)),
        Image.fromarray(grey.astype(np.float32) / np.float32(255)),
        tmp_path / "deep.png",
        tmp_path / "deep.tiff",
    ):
        assert torch.equal(images.to_tensor(image, 64, 96), expected)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep = np.arange(0, 65536, 32, dtype=np.uint16).reshape(32, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = images.pixels(tmp_path / "deep.png")[:, :, 0]
    np.testing.assert_allclose(pixels, deep / 65535, atol=1e-7)


def test_transparency_shows_white_whatever_lies_under_it(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    hidden = np.zeros((45, 70, 4), np.uint8)
    hidden[:20, :, :3] = rgb[:20]
    hidden[:20, :, 3] = 255
    expected = rgb.copy()
    expected[20:] = 255
    Image.fromarray(hidden).save(tmp_path / "hidden.png")
    Image.fromarray(hidden).save(tmp_path / "hidden.webp", lossless=True, exact=True)
    for image in (
        hidden,
        torch.from_numpy(hidden).permute(2, 0, 1),
        Image.fromarray(hidden),
        tmp_path / "hidden.png",
        tmp_path / "hidden.webp",
    ):
        assert torch.equal(images.to_tensor(image, 64, 96), images.to_tensor(expected, 64, 96))


def test_partial_transparency_mixes_with_white() -> None:
    pixels = images.pixels(np.array([[[0, 51]], [[255, 128]], [[100, 255]]], np.uint8))  # grey and alpha
    np.testing.assert_allclose(pixels[:, 0, 0], [0.8, 1.0, 100 / 255], rtol=1e-6)


@pytest.mark.parametrize("kind", ["index", "palette", "colour key", "grey key"])
def test_keyed_transparency_counts_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keyed.png"
    if kind in ("index", "palette"):
        image = Image.new("P", (8, 6), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((0, 0), 0)
        image.save(path, transparency=0 if kind == "index" else bytes([0, 255]))
    elif kind == "colour key":
        image = Image.new("RGB", (8, 6), (200, 100, 50))
        image.putpixel((0, 0), (10, 20, 30))
        image.save(path, transparency=(10, 20, 30))
    else:
        image = Image.new("L", (8, 6), 90)
        image.putpixel((0, 0), 10)
        image.save(path, transparency=10)
    pixels = images.pixels(path) * 255
    np.testing.assert_allclose(pixels[0, 0], 255)
    np.testing.assert_allclose(pixels[3, 3], [90] * 3 if kind == "grey key" else [200, 100, 50], rtol=1e-5)


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "HSV", "RGBX", "P"])
def test_rarer_pil_modes_show_what_pillow_shows(rgb: NDArray[np.uint8], mode: str) -> None:
    image = Image.fromarray(rgb).convert(mode)
    np.testing.assert_allclose(images.pixels(image) * 255, np.asarray(image.convert("RGB")), atol=1e-4)


def test_premultiplied_and_palette_alpha_equal_plain_alpha(rgb: NDArray[np.uint8]) -> None:
    alpha = np.where(rgb[:, :, :1] > 127, 255, 0).astype(np.uint8)
    colour = Image.fromarray(np.concatenate([rgb, alpha], axis=2))
    grey = Image.fromarray(np.concatenate([rgb[:, :, :1], alpha], axis=2))
    palette = Image.fromarray(rgb).convert("P")
    with_alpha = palette.convert("PA")
    with_alpha.putalpha(Image.fromarray(alpha[:, :, 0]))
    both = np.concatenate([np.asarray(palette.convert("RGB")), alpha], axis=2)
    for image, expected in (
        (colour.convert("RGBa"), np.asarray(colour)),
        (grey.convert("La"), np.asarray(grey)),
        (with_alpha, both),
    ):
        np.testing.assert_allclose(images.pixels(image), images.pixels(expected), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_path", [True, False])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, as_path: bool) -> None:
    upright = np.zeros((4, 6), np.uint8)
    upright[0] = 255  # bright along the top,
    upright[:, 0] = 128  # grey down the left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    pixels = images.pixels(path if as_path else Image.open(path))
    np.testing.assert_allclose(pixels[:, :, 0], upright / 255, atol=1e-7)


def test_damaged_exif_does_not_spoil_a_sound_picture(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    path = tmp_path / "scrubbed.png"
    Image.fromarray(rgb).save(path, exif=b"Exif\x00\x00not exif at all")
    assert torch.equal(images.to_tensor(path, 64, 96), images.to_tensor(rgb, 64, 96))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_animated_files_give_their_first_frame(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"animated{suffix}"
    first.save(path, save_all=True, append_images=[second], **options)
    np.testing.assert_allclose(images.pixels(path)[2, 2], [1, 0, 0], atol=1e-6)


def test_a_list_a_stack_and_single_pictures_agree(rgb: NDArray[np.uint8]) -> None:
    other = rgb[::-1].copy()
    expected = torch.stack([images.to_tensor(rgb, 64, 96), images.to_tensor(other, 64, 96)])
    stack = np.stack([rgb, other])
    assert torch.equal(images.to_tensors([rgb, Image.fromarray(other)], 64, 96), expected)
    assert torch.equal(images.to_tensors(stack, 64, 96), expected)
    assert torch.equal(images.to_tensors(torch.from_numpy(stack).permute(0, 3, 1, 2), 64, 96), expected)
    assert torch.equal(images.to_tensors(rgb, 64, 96), expected[:1])


def test_default_device_and_inference_mode_do_not_matter(rgb: NDArray[np.uint8]) -> None:
    expected = images.to_tensor(rgb, 64, 96)
    with torch.inference_mode(), torch.device("meta"):
        assert torch.equal(images.to_tensor(rgb, 64, 96), expected)
