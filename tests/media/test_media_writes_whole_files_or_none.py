"""Nothing is replaced unasked, nothing partial stays behind, and what cannot be written is said first."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from PIL import Image

from vcut import media
from vcut.errors import ConfigError, MediaError, NotFiniteError, OutputExistsError, VcutError

FRAMES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
NAMES = ["clip.mp4", "clip.gif", "clip.webp", "clip"]


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_output_is_refused_and_replaced_only_when_asked(tmp_path: Path, name: str) -> None:
    path = media.write(FRAMES, tmp_path / name)
    before, _ = media.read(path)
    with pytest.raises(OutputExistsError, match="exists already"):
        media.write(FRAMES[:2], path)
    torch.testing.assert_close(media.read(path)[0], before, atol=0, rtol=0)
    with pytest.raises(OutputExistsError, match="exists already"):
        media.check_place(path)
    media.write(FRAMES[:2], path, overwrite=True)
    assert len(media.read(path)[0]) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("precious")
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "notes").write_text("precious")
    for name in ("work", "clip.mp4", "notes"):
        with pytest.raises(OutputExistsError, match="not overwritten"):
            media.write(FRAMES, tmp_path / name, overwrite=True)
        with pytest.raises(OutputExistsError, match="not overwritten"):
            media.check_place(tmp_path / name, overwrite=True)
    assert (tmp_path / "work" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("name", [*NAMES, "sheet.png"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_a_stopped_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: Any
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise stop

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(av, "VideoFrame", SimpleNamespace(from_ndarray=fail))
    with pytest.raises((KeyboardInterrupt, MemoryError, VcutError)):
        (media.contact_sheet if name == "sheet.png" else media.write)(FRAMES, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_frames_that_are_not_finite_are_refused_by_number(tmp_path: Path, name: str, bad: float) -> None:
    frames = FRAMES.clone()
    frames[1, 2, 3, 4] = bad
    with pytest.raises(NotFiniteError, match="frame 1 of 3"):
        media.write(frames, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (FRAMES * 2 - 1, r"frame 0 of 3: .* runs from -.* floats must lie in 0..1; .* \(x \+ 1\) / 2"),
        (FRAMES * 255, "frame 0 of 3: .* x / 255"),
        (FRAMES[None], "one clip at a time"),
        (FRAMES[0], r"expected \[f, 3, H, W\]"),
        (FRAMES.permute(0, 2, 3, 1), "channels come first in a tensor"),
        (FRAMES.permute(0, 2, 3, 1)[None].numpy(), "one clip at a time"),
        (FRAMES.numpy(), "channels come last in an array"),
        (FRAMES.mul(255).long(), "int64"),
        (FRAMES.to("meta"), "no plain numbers"),
        (FRAMES[:0], "no frames"),
        ([], "no frames"),
        (FRAMES[:, :, :0], "no pixels"),
        ([FRAMES[0], FRAMES[1, :, 2:]], "frame 1 is 48x30, frame 0 is 48x32"),
        ([[FRAMES[0]]], "frame 0 of 1: expected a path, PIL image, array or tensor, got list"),
        ("clip.mp4", "frames are a str"),
        (iter(FRAMES), "frames are a tuple_iterator"),
        (None, "frames are a NoneType"),
        (FRAMES[..., 1:], ".mp4 needs even sides, got 47x32"),
    ],
)
def test_what_are_no_frames_is_described(tmp_path: Path, frames: Any, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        media.write(frames, tmp_path / "clip.mp4")


def test_odd_sides_are_fine_where_the_format_allows_them(tmp_path: Path) -> None:
    for name in ("clip.gif", "clip.webp", "clip"):
        assert media.read(media.write(FRAMES[..., 1:, 1:], tmp_path / name))[0].shape == (3, 3, 31, 47)


@pytest.mark.parametrize(
    ("name", "fps", "error", "says"),
    [
        ("clip.avi", 7, MediaError, "a clip is .mp4, .gif, .webp"),
        ("clip.png", 7, MediaError, "a single .png holds one picture"),
        ("clip.gif", 51, MediaError, "at most 50 frames per second"),
        ("clip.webp", 100, MediaError, "at most 90 frames per second"),
        ("clip.mp4", 10**9, MediaError, "at most 240 frames per second"),
        ("clip v1.0", 7, MediaError, "a folder whose name has a dot needs a / at its end"),
        ("clip.mp4", 0, ConfigError, "positive"),
        ("clip.mp4", -7, ConfigError, "positive"),
        ("clip.mp4", float("nan"), ConfigError, "positive"),
        ("clip.mp4", float("inf"), ConfigError, "positive"),
        ("nowhere/clip.mp4", 7, MediaError, "there is no folder"),
    ],
)
def test_an_impossible_file_is_refused(
    tmp_path: Path, name: str, fps: float, error: type[VcutError], says: str
) -> None:
    with pytest.raises(error, match=says):
        media.write(FRAMES, tmp_path / name, fps)
    assert list(tmp_path.iterdir()) == []


def test_capital_suffixes_are_understood(tmp_path: Path) -> None:
    assert media.read(media.write(FRAMES, tmp_path / "CLIP.MP4"))[0].shape == FRAMES.shape


def test_a_pyav_without_h264_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(MediaError, match="without libx264"):
        media.write(FRAMES, tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("clip.mp4", "av", "av"), ("clip.gif", "PIL", "pillow"), ("clip", "PIL", "pillow")],
)
def test_a_missing_library_is_named_with_its_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    for loaded in [key for key in sys.modules if key.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MediaError, match=rf"pip install {package}\b"):
        media.check_format(tmp_path / name)
    with pytest.raises(MediaError, match=rf"pip install {package}\b"):
        media.write(FRAMES, tmp_path / name)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip.mov"])
def test_reading_what_is_no_clip_is_a_media_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match="no such file"):
        media.read(tmp_path / name)
    for content in (b"", b"not a clip at all"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=re.escape(str(tmp_path / name))):
            media.read(tmp_path / name)


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.mp4"])
def test_reading_half_a_clip_is_a_media_error(tmp_path: Path, name: str) -> None:
    path = media.write(FRAMES, tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(MediaError):
        media.read(path)


def test_reading_pictures_that_make_no_clip_is_a_media_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"):
        media.read(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    with pytest.raises(MediaError, match="one picture"):
        media.read(tmp_path / "0.png")
    Image.new("RGB", (9, 6)).save(tmp_path / "1.png")
    with pytest.raises(MediaError, match="differ in size"):
        media.read(tmp_path)


@pytest.mark.parametrize(("name", "columns"), [("sheet.jpg", None), ("sheet", None), ("sheet.png", 0)])
def test_an_impossible_contact_sheet_is_refused(tmp_path: Path, name: str, columns: int | None) -> None:
    with pytest.raises((MediaError, ConfigError)):
        media.contact_sheet(FRAMES, tmp_path / name, columns)
