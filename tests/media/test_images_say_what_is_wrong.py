"""Whatever is not a picture ends in one sentence that names it, never in another library's traceback."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vcut import media
from vcut.errors import ConfigError, MediaError
from vcut.media import images


def jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.png", None, "no such file"),
        ("empty.png", b"", "is not a picture that can be read"),
        ("text.jpg", b"hello", "is not a picture that can be read"),
        ("phone.heic", b"\0\0\0\x18ftypheic", "save it as JPEG or PNG"),
        ("head.png", b"\x89PNG\r\n\x1a\n", "head.png"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=says) as error:
        images.pixels(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    content = jpeg(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=re.escape(str(path))):
        images.pixels(path)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".png", ".jpg", ".gif", ".webp", ".tiff"]))
def test_damaged_bytes_give_a_picture_or_a_media_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"picture{suffix}"
    content = bytearray(jpeg(path))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        pixels = images.pixels(path)
    except MediaError:
        return
    assert np.isfinite(pixels).all()


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder"):
        images.pixels(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MediaError, match="more pixels than is safe"):
        images.pixels(tmp_path / "bomb.png")


def test_a_picture_that_is_merely_big_opens_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    jpeg(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert images.pixels(tmp_path / "big.png").shape == (60, 80, 3)
    assert not recwarn.list


NAN = np.full((4, 6, 3), np.nan)
INF = np.zeros((4, 6, 3))
INF[0, 0, 0] = np.inf


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (NAN, "NaN or infinity"),
        (INF, "NaN or infinity"),
        (torch.from_numpy(NAN).permute(2, 0, 1), "NaN or infinity"),
        (np.linspace(-1, 1, 72).reshape(4, 6, 3), r"runs from -1 to 1, .*\(x \+ 1\) / 2"),
        (np.linspace(0, 255, 72).reshape(4, 6, 3), "runs from 0 to 255, .*x / 255"),
        *((np.full((4, 6, 3), far), "floats must lie in 0..1$") for far in (1e9, 255.5, -1.5)),
        (np.zeros((4, 6, 5), np.uint8), r"shape \[4, 6, 5\]"),
        (np.zeros((3, 40, 60), np.uint8), "channels come last in an array"),
        (np.zeros(7, np.uint8), r"shape \[7\]"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"shape \[2, 4, 6, 3\]"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (np.zeros((4, 6, 3), np.int64), "int64"),
        (np.zeros((4, 6, 3), bool), "bool"),
        (np.zeros((4, 6, 3), complex), "complex"),
        (torch.zeros(40, 60, 3), "channels come first in a tensor"),
        (torch.zeros(2, 3, 4, 6), "2 pictures where one is expected"),
        (torch.zeros(5, 4, 6), r"shape \[4, 6, 5\]"),
        (torch.zeros(1, 1, 3, 4, 6), "shape"),
        (torch.zeros(3, 0, 6), "no pixels"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), "int64"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.fromarray(np.full((4, 6), 70000, np.int32)), "32-bit integers"),
        (Image.fromarray(np.full((4, 6), 200, np.float32)), "0..1"),
        (None, "got NoneType"),
        (b"bytes", "got bytes"),
        (7, "got int"),
    ],
)
def test_what_is_no_picture_is_described(image: Any, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        images.to_tensor(image, 32, 32)


def test_a_closed_pil_image_is_a_media_error(tmp_path: Path) -> None:
    jpeg(tmp_path / "picture.png")
    image = Image.open(tmp_path / "picture.png")
    image.close()
    with pytest.raises(MediaError):
        images.pixels(image)


@pytest.mark.parametrize(("height", "width", "fit"), [(0, 4, "crop"), (4, -1, "crop"), (4, 4, "stretch")])
def test_impossible_wishes_are_config_errors(height: int, width: int, fit: Any) -> None:
    with pytest.raises(ConfigError):
        images.to_tensor(np.zeros((4, 6, 3), np.uint8), height, width, fit)


def test_no_pictures_at_all_is_said() -> None:
    with pytest.raises(MediaError, match="no pictures"):
        images.to_tensors([], 32, 32)


def test_without_pillow_the_install_command_is_given_and_tensors_still_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg(tmp_path / "picture.png")
    for module in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MediaError, match=r"pip install pillow$"):
        images.pixels(tmp_path / "picture.png")
    assert images.to_tensor(torch.rand(3, 20, 30), 32, 32).shape == (3, 32, 32)


@pytest.mark.parametrize(("name", "package"), [("still.png", "pillow"), ("clip.mp4", "av")])
def test_a_library_that_is_there_but_cannot_be_loaded_is_not_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    fault = "libtiff.so.6: failed to map segment from shared object"
    module = {"pillow": "PIL", "av": "av"}[package]
    for each in [each for each in sys.modules if each.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, each)
    (tmp_path / f"{module}.py").write_text(f"raise ImportError({fault!r})")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(MediaError, match=f"it is there, but cannot be loaded \\({fault}\\)") as error:
        media.read(tmp_path / name) if package == "av" else images.pixels(tmp_path / name)
    assert "pip" not in str(error.value)


def test_full_memory_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    jpeg(tmp_path / "still.jpg")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "clip.gif")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(MediaError, match=r"still\.jpg does not fit into the memory that is left"):
        images.pixels(tmp_path / "still.jpg")
    with pytest.raises(MemoryError):
        media.read(tmp_path / "clip.gif")
