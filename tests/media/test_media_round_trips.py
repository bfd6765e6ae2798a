"""A clip that was written is read back: its frames, their number, their size, their rate and their colours."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vcut import media
from vcut.errors import ConfigError, OutputExistsError
from vcut.media import images


def moving(f: int = 9, height: int = 48, width: int = 64) -> Tensor:
    """A smooth coloured pattern that drifts: [f, 3, height, width] in 0..1, every frame different."""
    t = torch.linspace(0, 1, f)[:, None, None]
    y = torch.linspace(0, 1, height)[None, :, None]
    x = torch.linspace(0, 1, width)[None, None, :]
    waves = [torch.sin(3 * (a * x + b * y) + 4 * t + c) for a, b, c in ((1, 2, 0), (2, 1, 2), (1, -1, 4))]
    return torch.stack(waves, dim=1) / 2 + 0.5


@pytest.mark.parametrize(
    ("name", "worst", "mean"),
    [
        ("clip.mp4", 0.15, 0.02),
        ("clip.gif", 0.3, 0.05),
        ("clip.webp", 0.1, 0.012),
        ("clip", 0.5001 / 255, 0.002),
    ],
)
@pytest.mark.parametrize("f", [1, 2, 9])
def test_frames_come_back(tmp_path: Path, name: str, worst: float, mean: float, f: int) -> None:
    frames = moving(f)
    assert media.write(frames, tmp_path / name) == tmp_path / name
    back, _ = media.read(tmp_path / name)
    assert back.shape == frames.shape
    assert back.dtype == torch.float32
    error = (back - frames).abs()
    assert error.max() < worst
    assert error.mean() < mean


@pytest.mark.parametrize("fps", [1, 7, Fraction(30000, 1001), 50])
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_the_rate_comes_back(tmp_path: Path, suffix: str, fps: float | Fraction) -> None:
    frames = moving(25)
    _, back = media.read(media.write(frames, tmp_path / f"clip{suffix}", fps))
    assert back is not None
    tick = {".mp4": 0, ".gif": 0.005, ".webp": 0.0005}[
        suffix
    ]  # a clip's length is off by half a tick at most
    assert abs(25 / back - 25 / float(fps)) <= tick + 1e-6


@pytest.mark.parametrize("fps", [7, 29.97, Fraction(24000, 1001), 0.5, 240])
def test_mp4_keeps_the_rate_as_a_fraction(tmp_path: Path, fps: float | Fraction) -> None:
    with av.open(str(media.write(moving(5), tmp_path / "clip.mp4", fps))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(str(fps)) if isinstance(fps, float) else Fraction(fps)
        assert stream.duration * stream.time_base == 5 / stream.average_rate


def test_gif_frames_alternate_around_a_rate_that_ticks_do_not_divide(tmp_path: Path) -> None:
    with Image.open(media.write(moving(9), tmp_path / "clip.gif", 7)) as image:
        times = []
        for i in range(image.n_frames):
            image.seek(i)
            times.append(image.info["duration"])
    assert set(times) == {140, 150}
    assert sum(times) == round(9 / 7 * 100) * 10


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_a_moving_picture_is_shown_for_ever(tmp_path: Path, name: str) -> None:
    with Image.open(media.write(moving(2), tmp_path / name)) as image:
        assert image.info["loop"] == 0


def test_mp4_plays_in_browsers(tmp_path: Path) -> None:
    """H.264 in yuv420p, tagged with its colours, and the index before the data."""
    path = media.write(moving(), tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert (codec.width, codec.height) == (64, 48)
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ""])
@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (200, 100, 50), (0, 0, 0)]
)
def test_flat_colours_survive(tmp_path: Path, suffix: str, colour: tuple[int, int, int]) -> None:
    frames = (torch.tensor(colour) / 255)[None, :, None, None].expand(1, 3, 32, 32)
    back, _ = media.read(media.write(frames, tmp_path / f"clip{suffix}"))
    torch.testing.assert_close(back, frames, atol=3 / 255, rtol=0)


def test_lower_crf_is_closer(tmp_path: Path) -> None:
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    errors = []
    for crf in (10, 30, 45):
        back, _ = media.read(media.write(noise, tmp_path / f"{crf}.mp4", crf=crf))
        errors.append((back - noise).abs().mean())
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_pixels_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = torch.tensor([0.0, 0.4, 0.6, 1.4, 1.6, 254.4, 254.6, 255.0]) / 255
    media.write(values.expand(1, 3, 2, 8), tmp_path / "frames/")
    with Image.open(tmp_path / "frames" / "000.png") as image:
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_gradients_are_written_too(tmp_path: Path, dtype: torch.dtype) -> None:
    frames = moving(2).to(dtype).requires_grad_()
    back, _ = media.read(media.write(frames, tmp_path / "frames"))
    torch.testing.assert_close(back, frames.detach().float(), atol=0.51 / 255, rtol=0)


def test_a_folder_numbers_its_frames_so_that_names_sort(tmp_path: Path) -> None:
    media.write(moving(3, 8, 8), tmp_path / "few")
    assert sorted(file.name for file in (tmp_path / "few").iterdir()) == ["000.png", "001.png", "002.png"]
    many = torch.linspace(0, 1, 1002)[:, None, None, None].expand(1002, 3, 2, 2)
    back, fps = media.read(media.write(many, tmp_path / "many"))
    assert fps is None
    torch.testing.assert_close(back, many, atol=0.51 / 255, rtol=0)
    assert (tmp_path / "many" / "1001.png").exists()


def test_a_slash_makes_a_folder_of_any_name(tmp_path: Path) -> None:
    media.write(moving(2), f"{tmp_path}/my.photo/")
    assert sorted(file.name for file in (tmp_path / "my.photo").iterdir()) == ["000.png", "001.png"]


def test_the_last_frame_starts_the_next_clip(tmp_path: Path) -> None:
    frames = moving()
    back, _ = media.read(media.write(frames, tmp_path / "frames"))
    start = images.to_tensor(back[-1], 48, 64)
    torch.testing.assert_close(start, frames[-1] * 2 - 1, atol=1.01 / 255, rtol=0)


def test_a_contact_sheet_shows_the_frames_in_reading_order(tmp_path: Path) -> None:
    frames = moving(5)
    path = media.contact_sheet(frames, tmp_path / "sheet.png", columns=3)
    sheet = torch.from_numpy(images.pixels(path)).permute(2, 0, 1)
    assert sheet.shape == (3, 2 * 48 + 4, 3 * 64 + 2 * 4)
    for i, frame in enumerate(frames):
        top, left = i // 3 * 52, i % 3 * 68
        torch.testing.assert_close(sheet[:, top : top + 48, left : left + 64], frame, atol=0.51 / 255, rtol=0)
    assert (sheet[:, 52:, 136:] == 1).all()
    with pytest.raises(OutputExistsError, match="exists already"):
        media.contact_sheet(frames, path)


@pytest.mark.parametrize(
    ("f", "columns", "size"), [(9, None, (3, 3)), (14, None, (4, 4)), (2, 8, (2, 1)), (1, None, (1, 1))]
)
def test_a_contact_sheet_is_nearly_square_unless_told(
    tmp_path: Path, f: int, columns: int | None, size: tuple[int, int]
) -> None:
    media.contact_sheet(moving(f, 8, 16), tmp_path / "sheet.png", columns)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (size[0] * 20 - 4, size[1] * 12 - 4)


@pytest.mark.parametrize("name", ["frames", "sheet.png"])
def test_enlarged_frames_repeat_every_pixel(tmp_path: Path, name: str) -> None:
    frames = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    large = frames.repeat_interleave(3, -2).repeat_interleave(3, -1)
    for label, given, enlarge in (("asked", frames, 3), ("made", large, 1)):
        (tmp_path / label).mkdir()
        if name == "frames":
            media.write(given, tmp_path / label / name, enlarge=enlarge)
        else:
            media.contact_sheet(given, tmp_path / label / name, enlarge=enlarge)
    for file in (tmp_path / "made").rglob("*.png"):
        twin = tmp_path / "asked" / file.relative_to(tmp_path / "made")
        assert twin.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("enlarge", [0, 1.5, "2"])
def test_enlarging_is_by_a_whole_number(tmp_path: Path, enlarge: Any) -> None:
    with pytest.raises(ConfigError, match="enlarge must be a whole number of at least 1"):
        media.write(torch.rand(2, 3, 4, 6), tmp_path / "frames", enlarge=enlarge)
