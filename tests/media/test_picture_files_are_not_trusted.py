"""A file is a picture by what is in it, opened within bounds, and refused only for what its pixels lack."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import PNG, chunk, png
from PIL import Image, ImageFile

from vcut.errors import MediaError
from vcut.media import files, images

RGB = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, **options)
    return file.getvalue()


def test_postscript_under_another_name_starts_no_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost, seen = tmp_path / "gs", tmp_path / "started"
    ghost.write_text(f"#!/bin/sh\ntouch {seen}\n")
    ghost.chmod(ghost.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n")
    with pytest.raises(MediaError, match=r"photo\.png is not a picture that can be read"):
        images.pixels(path)
    assert not seen.exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["a.png", "a.jfif", "a", "a.heic"])
def test_a_file_is_opened_by_its_content_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    (tmp_path / name).write_bytes(encoded(kind))
    assert images.pixels(tmp_path / name).shape == (24, 36, 3)


def test_a_tga_is_opened_by_its_name_alone(tmp_path: Path) -> None:
    for name in ("a.tga", "A.TGA"):
        (tmp_path / name).write_bytes(encoded("TGA"))
        np.testing.assert_allclose(images.pixels(tmp_path / name) * 255, RGB, atol=1e-4)
    (tmp_path / "a.png").write_bytes(encoded("TGA"))
    with pytest.raises(MediaError, match="not a picture"):
        images.pixels(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PCX", "SGI", "ICO", "DDS", "PSD"])
def test_what_is_not_promised_is_not_opened(tmp_path: Path, kind: str) -> None:
    content = b"8BPS\0\1" + bytes(20) if kind == "PSD" else encoded(kind)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MediaError, match="is not a picture that can be read"):
        images.pixels(tmp_path / "a.png")


def test_formats_of_a_new_pillow_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif")
    with pytest.raises(MediaError, match="is not a picture that can be read"):
        images.pixels(tmp_path / "a.avif")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/null")):
        with pytest.raises(MediaError, match="is a pipe, a socket or a device"):
            images.pixels(path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("https://example.org/a.png", "addresses are not followed: download it first"),
        ("a" * 300, "cannot be read|not the path"),
        ("a\0b.png", "null"),
        ("", "is a folder"),
        ("~nobody-has-this-name/a.png", "no such file"),
    ],
)
def test_odd_names_are_told(name: str, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        images.pixels(name)


def test_a_name_with_a_tilde_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~a.png").write_bytes(encoded("PNG"))
    assert images.pixels("~a.png").shape == (24, 36, 3)


def huge(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """The start of a PNG that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize("limit", [None, Image.MAX_IMAGE_PIXELS])
@pytest.mark.parametrize(
    ("width", "height"), [(13_500, 13_500), (65_536, 100), (100, 65_536), (2**31 - 1, 2**31 - 1)]
)
def test_more_memory_than_is_safe_is_refused_whatever_pillow_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    (tmp_path / "bomb.png").write_bytes(huge(width * (2 if width == height and limit is None else 1), height))
    with pytest.raises(MediaError, match=r"bomb\.png .*(is|than is) safe|are safe: scale it down first"):
        images.pixels(tmp_path / "bomb.png")


def test_the_bound_counts_bytes_and_what_a_decoder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {("RGB", "png"): 24 * 36 * 4 * 2, ("L", "png"): 24 * 36 * 2, ("RGB", "webp"): 24 * 36 * 4 * 5}
    for (mode, suffix), least in needs.items():
        path = tmp_path / f"{mode}.{suffix}"
        Image.fromarray(RGB).convert(mode).save(path)
        for limit, opens in ((least, True), (least - 1, False)):
            monkeypatch.setattr(files, "LARGEST", limit)
            if opens:
                images.pixels(path)
                continue
            with pytest.raises(MediaError, match="36 x 24: it would take"):
                images.pixels(path)


@pytest.mark.slow
def test_a_large_picture_is_never_whole_in_floats(tmp_path: Path) -> None:
    """64 megapixels of a palette: 64 MB as they are, 770 MB as floats."""
    header = struct.pack(">IIBBBBB", 8000, 8000, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", bytes(6)),
        (b"IDAT", zlib.compress(bytes(8001 * 8000), 1)),
        (b"IEND", b""),
    ]
    (tmp_path / "large.png").write_bytes(PNG + b"".join(chunk(*each) for each in chunks))
    code = (
        "import resource, sys; from vcut.media import images; images.to_tensor(sys.argv[2], 32, 32); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10; "
        "before = peak(); images.to_tensor(sys.argv[1], 64, 64); print(peak() - before)"
    )
    Image.fromarray(RGB).save(tmp_path / "small.png")
    pictures = [tmp_path / name for name in ("large.png", "small.png")]
    done = subprocess.run([sys.executable, "-c", code, *pictures], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250  # MiB


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
@pytest.mark.parametrize("after", [False, True])
def test_long_texts_of_a_png_do_not_matter(tmp_path: Path, kind: bytes, after: bool) -> None:
    long = b"a" * (3 << 20)
    data = b"key\0" + {b"zTXt": b"\0", b"iCCP": b"\0", b"iTXt": b"\1\0\0\0", b"tEXt": b""}[kind]
    data += long if kind == b"tEXt" else zlib.compress(long)
    plain = png([[0, 100, 255]], 8, 0)
    at = plain.index(b"IEND") - 4 if after else plain.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(plain[:at] + chunk(kind, data) + plain[at:])
    np.testing.assert_allclose(images.pixels(tmp_path / "a.png")[0, :, 0], [0, 100 / 255, 1], atol=1e-6)


def test_a_damaged_text_does_not_matter_and_a_damaged_pixel_does(tmp_path: Path) -> None:
    plain = png([[0, 100, 255]], 8, 0, before=[(b"tEXt", b"Title\0a")])
    for damaged, opens in ((b"Title\0a", True), (b"IDAT", False)):
        at = plain.index(damaged) + len(damaged)
        (tmp_path / "a.png").write_bytes(plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :])
        if opens:
            assert images.pixels(tmp_path / "a.png").shape == (1, 3, 3)
            continue
        with pytest.raises(MediaError, match="damaged"):
            images.pixels(tmp_path / "a.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_needs_its_pixels_and_not_its_end_mark(tmp_path: Path, progressive: bool) -> None:
    content = encoded("JPEG", progressive=progressive)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    whole = images.pixels(path)
    for cut in (1, 2):
        path.write_bytes(content[:-cut])
        np.testing.assert_array_equal(images.pixels(path), whole)
    for cut in (5, 20, 100, len(content) // 2):
        path.write_bytes(content[:-cut])
        with pytest.raises(MediaError, match="is cut short or damaged: image file is truncated"):
            images.pixels(path)


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA"]
)
def test_every_truncation_gives_the_picture_or_our_error(tmp_path: Path, kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    content = encoded(kind)
    path = tmp_path / f"a{files.FORMATS[kind][0]}"
    path.write_bytes(content)
    whole = images.pixels(path)
    for tenth in range(10):
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(MediaError, match=re.escape(str(path))):
            images.pixels(path)
    path.write_bytes(content[:-1])
    try:
        found = images.pixels(path)
    except MediaError:
        return
    np.testing.assert_array_equal(found, whole)


def test_nothing_of_pillows_process_wide_settings_is_touched(tmp_path: Path) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:-2])
    images.pixels(tmp_path / "a.jpg")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_a_folder_gives_its_pictures_by_number_and_names_what_it_does_not_take(tmp_path: Path) -> None:
    taken = ["1.png", "2.JFIF", "10.jp2", "a1.avif", "a2.jpe", "a10.dib", "b.tga"]
    for name in (*taken, "a.heic", "b.JXL", "._1.png", ".hidden.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found, others = files.in_folder(tmp_path)
    assert [path.name for path in found] == taken
    assert [path.name for path in others] == ["a.heic", "b.JXL"]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="gone cannot be read: No such file"):
        files.in_folder(tmp_path / "gone")
