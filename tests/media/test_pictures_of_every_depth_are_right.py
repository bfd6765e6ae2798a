"""The same values come out of every depth and mode that a picture can be stored in, with transparency and without."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import packed, png, tiff
from PIL import Image, ImageCms

from vcut.errors import MediaError
from vcut.media import images

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG


def pixels(tmp_path: Path, content: bytes, suffix: str = ".png") -> NDArray[np.float32]:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    return images.pixels(path)


def close(found: NDArray[np.float32], expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), atol=tolerance)


@pytest.mark.parametrize("key", [None, 0, 1, "white"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_greys_of_a_png(tmp_path: Path, bits: int, key: Any) -> None:
    white = 2**bits - 1
    values = [0, 1, white // 2, white - 1, white]
    transparent = white if key == "white" else key
    found = pixels(tmp_path, png([values], bits, GREY, key=None if key is None else [transparent]))
    close(found[0, :, 0], [1 if value == transparent else value / white for value in values])
    assert (found == found[:, :, :1]).all()


@pytest.mark.parametrize("key", [None, (0x1234, 0x5678, 0x9ABC), (0, 0, 0)])
def test_colours_of_16_bits_keep_the_upper_8(tmp_path: Path, key: Any) -> None:
    colours = [(0x1234, 0x5678, 0x9ABC), (0xFFFF, 0x8000, 0), (0, 0, 0), (0x0101, 0, 0)]
    found = pixels(tmp_path, png([[*chain(*colours)]], 16, COLOUR, 3, key=key))
    close(found[0], [(1, 1, 1) if c == key else np.array(c) / 65535 for c in colours], 1 / 255)


@pytest.mark.parametrize("key", [None, (10, 20, 30)])
def test_colours_of_8_bits(tmp_path: Path, key: Any) -> None:
    colours = [(10, 20, 30), (10, 20, 31), (255, 0, 128)]
    found = pixels(tmp_path, png([[*chain(*colours)]], 8, COLOUR, 3, key=key))
    close(found[0], [(1, 1, 1) if c == key else np.array(c) / 255 for c in colours])


@pytest.mark.parametrize(("colour", "channels"), [(GREY_ALPHA, 2), (COLOUR_ALPHA, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_of_a_png(tmp_path: Path, bits: int, colour: int, channels: int) -> None:
    white = 2**bits - 1
    row = [round(0.2 * white)] * (channels - 1) + [round(0.6 * white)] + [0] * (channels - 1) + [white]
    found = pixels(tmp_path, png([row], bits, colour, channels))
    close(found[0, :, 0], [0.2 * 0.6 + 0.4, 0], 1 / 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_a_png_with_alpha(tmp_path: Path, bits: int) -> None:
    chunks = [(b"PLTE", bytes([100, 0, 0, 0, 50, 255])), (b"tRNS", bytes([128]))]
    found = pixels(tmp_path, png([[0, 1]], bits, PALETTE, before=chunks))
    alpha = 128 / 255
    close(found[0], [[100 / 255 * alpha + 1 - alpha, 1 - alpha, 1 - alpha], [0, 50 / 255, 1]])


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", (45455).to_bytes(4, "big"))],
        [(b"gAMA", (100000).to_bytes(4, "big"))],
        [(b"sRGB", b"\0")],
        [(b"iCCP", b"odd\0\0not a profile")],
    ],
)
def test_gamma_and_profiles_change_nothing(tmp_path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    close(pixels(tmp_path, png([[0, 100, 255]], 8, GREY, before=chunks))[0, :, 0], [0, 100 / 255, 1])


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_greys_of_a_tiff(tmp_path: Path, bits: int, white_is_zero: bool) -> None:
    if bits == 12 and white_is_zero:
        pytest.skip("Pillow opens none")
    white = 2**bits - 1
    values = [0, 1, white // 2, white]
    found = pixels(tmp_path, tiff([values], bits, 0 if white_is_zero else 1), ".tif")
    expected = np.array(values) / white
    close(found[0, :, 0], 1 - expected if white_is_zero else expected, 1e-4)


def test_signed_and_long_numbers_of_a_tiff(tmp_path: Path) -> None:
    close(pixels(tmp_path, tiff([[0, 32767]], 16, 1, kind=2), ".tif")[0, :, 0], [0, 1])
    close(pixels(tmp_path, tiff([[0, 65535]], 32, 1), ".tif")[0, :, 0], [0, 1])
    for content, says in (
        (tiff([[-5, 32767]], 16, 1, kind=2), "numbers below 0"),
        (tiff([[0, 65536]], 32, 1), "32-bit integers from 0 to 65536"),
        (tiff([[0, 200]], 32, 1), "does not say which of them is white"),
    ):
        with pytest.raises(MediaError, match=says):
            pixels(tmp_path, content, ".tif")
    close(pixels(tmp_path, tiff([[0, 0]], 32, 1), ".tif"), np.zeros((1, 2, 3)))


@pytest.mark.parametrize(
    ("photometric", "row", "channels", "alpha", "expected"),
    [
        (2, [100, 50, 25], 3, None, [100, 50, 25]),
        (2, [100, 50, 25, 128], 4, 0, [100, 50, 25]),  # the fourth says nothing
        (2, [100, 50, 25, 128], 4, 1, [227, 177, 152]),  # colours were multiplied by it
        (2, [100, 50, 25, 128], 4, 2, [177, 152, 140]),
        (5, [255, 0, 0, 0], 4, None, [0, 255, 255]),  # ink
        (8, [255, 0, 0], 3, None, [255, 255, 255]),  # CIELAB
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_a_tiff(
    tmp_path: Path,
    bits: int,
    photometric: int,
    row: list[int],
    channels: int,
    alpha: int | None,
    expected: list[int],
) -> None:
    if bits == 16 and photometric == 8:
        pytest.skip("Pillow opens none")
    content = tiff(
        [[value * (2**bits - 1) // 255 for value in row]], bits, photometric, channels, alpha=alpha
    )
    close(pixels(tmp_path, content, ".tif")[0, 0], np.array(expected) / 255, 1.5 / 255)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P4 8 1\n\x0f", [1, 1, 1, 1, 0, 0, 0, 0]),
        (b"P5 3 1 100\n" + bytes([0, 50, 100]), [0, 128 / 255, 1]),
        (b"P5 3 1 65535\n" + packed([0, 200, 65535], 16), [0, 200 / 65535, 1]),
        (b"P5 2 1 65535\n" + packed([0, 200], 16), [0, 200 / 65535]),
        (b"P5 3 1 4095\n" + packed([0, 2048, 4095], 16), [0, 2048 / 4095, 1]),
        (b"P6 1 1 1000\n" + packed([500] * 3, 16), [128 / 255]),
    ],
)
def test_greys_of_a_pnm(tmp_path: Path, content: bytes, expected: list[float]) -> None:
    close(pixels(tmp_path, content, ".pgm")[0, :, 0], expected, 1e-5)


def test_a_dark_picture_of_16_bits_is_no_riddle(tmp_path: Path) -> None:
    """Pillow may open it in mode I, as it does a TIFF whose white nobody knows."""
    close(pixels(tmp_path, png([[0, 200]], 16, GREY))[0, :, 0], [0, 200 / 65535])
    close(pixels(tmp_path, b"P5 2 1 65535\n\0\0\0\xc8", ".pgm")[0, :, 0], [0, 200 / 65535])


def test_mode_i_that_may_be_8_bits_is_refused() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    with pytest.raises(MediaError, match="from 0 to 255, and does not say which of them is white"):
        images.pixels(Image.fromarray(values))
    close(images.pixels(Image.fromarray(values * 257))[:, :, 0], values / 255)
    close(images.pixels(Image.fromarray(values + 1))[:, :, 0], (values + 1) / 65535)


MODES = [
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "I;16", "I;16B", "I;16L", "F"),
]
RGB = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (12, 18, 1), np.uint8)


def picture(mode: str) -> tuple[Image.Image, NDArray[Any]]:
    """A PIL image of a mode, and its pixels in 0..1 as they should come out."""
    grey, colour = Image.fromarray(RGB[:, :, 0]), Image.fromarray(RGB)
    plain = {"1": RGB[:, :, :1] > 127, "L": RGB[:, :, :1] / 255}
    alpha = ALPHA / 255
    if mode in ("1", "L"):
        return grey.point(lambda v: 255 * (v > 127) if mode == "1" else v, mode), plain[mode]
    if mode in ("LA", "La"):
        both = Image.merge("LA", [grey, Image.fromarray(ALPHA[:, :, 0])])
        return both.convert(mode), plain["L"] * alpha + 1 - alpha
    if mode in ("RGBA", "RGBa"):
        both = Image.fromarray(np.concatenate([RGB, ALPHA], 2))
        return both.convert(mode), RGB / 255 * alpha + 1 - alpha
    if mode in ("P", "PA"):
        image = colour.quantize(64)
        shown = np.asarray(image.convert("RGB")) / 255
        if mode == "P":
            return image, shown
        image = image.convert("PA")
        image.putalpha(Image.fromarray(ALPHA[:, :, 0]))
        return image, shown * alpha + 1 - alpha
    if mode == "LAB":
        space = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.applyTransform(colour, ImageCms.buildTransform(space[1], space[0], "RGB", "LAB"))
        assert image is not None
        return image, RGB / 255
    if mode == "F":
        return grey.convert("F").point(lambda v: v / 255 + 0), plain["L"]
    if mode == "I":
        return Image.fromarray(RGB[:, :, 0].astype(np.int32) * 257), plain["L"]
    if mode.startswith("I;16"):
        deep = RGB[:, :, 0].astype(">u2" if mode == "I;16B" else "<u2") * 257
        return Image.frombytes(mode, (18, 12), deep.tobytes()), plain["L"]
    return colour.convert(mode), np.asarray(colour.convert(mode).convert("RGB")) / 255


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow(mode: str) -> None:
    image, expected = picture(mode)
    assert image.mode == mode
    before = image.tobytes()
    # La and RGBa hold colours that were multiplied and rounded; LAB is coarse where colours are strong
    tolerance = {"La": 1 / 255, "RGBa": 1 / 255, "LAB": 0.1}.get(mode, 1e-5)
    found = images.pixels(image)
    close(found, np.broadcast_to(expected, found.shape), tolerance)
    assert image.tobytes() == before
    # a window, and bands, are cut before colours are made
    whole = images.fitted(np.ascontiguousarray(found), 5, 5)
    close(images.fitted(image, 5, 5).numpy(), whole.numpy(), 1e-6)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("La", "RGBa", "I;16B", "I;16L")])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_every_mode_is_turned_upright(mode: str, orientation: int) -> None:
    image, _ = picture(mode)
    flat = images.pixels(image)
    image.getexif()[0x0112] = orientation
    turned = {3: flat[::-1, ::-1], 6: np.rot90(flat, -1), 7: flat[::-1, ::-1].transpose(1, 0, 2)}[orientation]
    np.testing.assert_array_equal(images.pixels(image), turned)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f2", "<f4", ">f4", "f8", "g"])
def test_arrays_of_every_number(dtype: str) -> None:
    array = np.linspace(0, 1, 24).reshape(4, 6)
    kind = np.dtype(dtype)
    given = (array * np.iinfo(kind).max).round().astype(kind) if kind.kind == "u" else array.astype(kind)
    for each in (given, given[::-1][::-1], np.asfortranarray(given)):
        close(images.pixels(each)[:, :, 0], array, 2e-3)
