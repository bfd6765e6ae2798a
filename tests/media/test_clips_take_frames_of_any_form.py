"""Frames and rates are taken in every form whose meaning is plain; what a format cannot hold is said before."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vcut import media
from vcut.errors import ConfigError, MediaError, NotFiniteError
from vcut.media import clips

BYTES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
FRAMES = torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255

FORMS: dict[str, Callable[[], Any]] = {
    "float tensor": lambda: FRAMES,
    "byte tensor": lambda: torch.from_numpy(BYTES).permute(0, 3, 1, 2),
    "double": lambda: FRAMES.double(),
    "tensor with a gradient": lambda: FRAMES.clone().requires_grad_(),
    "byte array": lambda: BYTES,
    "float array": lambda: BYTES / 255,
    "float32 array": lambda: (BYTES / 255).astype(np.float32),
    "16 bits": lambda: BYTES.astype(np.uint16) * 257,
    "strided": lambda: np.asfortranarray(BYTES),
    "PIL images": lambda: [Image.fromarray(frame) for frame in BYTES],
    "tuple of tensors": lambda: tuple(FRAMES),
    "list of arrays": lambda: list(BYTES / 255),
    "list of all kinds": lambda: [FRAMES[0], BYTES[1], Image.fromarray(BYTES[2])],
    "with alpha": lambda: np.concatenate([BYTES, np.full_like(BYTES[..., :1], 255)], 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_frames_of_any_form_are_the_same_clip(tmp_path: Path, form: str) -> None:
    media.write(FORMS[form](), tmp_path / "clip")
    found = np.stack([np.asarray(Image.open(file)) for file in sorted((tmp_path / "clip").iterdir())])
    np.testing.assert_array_equal(found, BYTES)
    media.contact_sheet(FORMS[form](), tmp_path / "sheet.png", columns=np.int64(1))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png"))[:32], BYTES[0])


def test_frames_as_bytes_and_as_pil_images() -> None:
    np.testing.assert_array_equal(media.to_bytes(FRAMES), BYTES)
    images = media.to_pil(FRAMES)
    assert {image.mode for image in images} == {"RGB"}
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), BYTES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_to_the_nearest_byte(dtype: torch.dtype) -> None:
    found = clips.to_bytes(FRAMES.to(dtype))
    expected = FRAMES.to(dtype).float().mul(255).round().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected)


def test_grey_frames_are_grey() -> None:
    for grey in (FRAMES[:, :1], BYTES[..., :1], list(BYTES[..., 0])):
        np.testing.assert_array_equal(clips.to_bytes(grey), BYTES[..., :1].repeat(3, 3))


@pytest.mark.parametrize("wrap", [np.asarray, list, lambda frames: [torch.from_numpy(f) for f in frames]])
def test_a_frame_that_is_not_finite_is_named_in_any_form(wrap: Any) -> None:
    frames = BYTES / 255
    frames[1, 2, 3, 1] = np.nan
    if not isinstance(wrap(frames), np.ndarray):
        frames = frames.transpose(0, 3, 1, 2) if wrap is not list else frames
    with pytest.raises(NotFiniteError, match=r"frame 1 of 3: .* holds NaN or infinity"):
        clips.to_bytes(wrap(frames))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (np.float32(7), 7),
        (np.float64(29.97), Fraction(2997, 100)),
        (np.float32(29.97), Fraction(2997, 100)),
        (np.float16(7), 7),
        (np.int64(7), 7),
        (np.array(7), 7),
        (torch.tensor(7), 7),
        (torch.tensor(7.0), 7),
        ("7", 7),
        ("29.97", Fraction(2997, 100)),
        ("30000/1001", Fraction(30000, 1001)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (decimal.Decimal("23.976"), Fraction(2997, 125)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_a_rate_is_a_number_of_any_type(tmp_path: Path, fps: Any, expected: Fraction | int) -> None:
    with av.open(str(media.write(FRAMES, tmp_path / "clip.mp4", fps))) as container:
        assert container.streams.video[0].average_rate == expected


@pytest.mark.parametrize(
    "fps",
    [
        None,
        True,
        "",
        "fast",
        "1/0",
        "nan",
        "-7",
        0,
        1j,
        [7],
        (7, 1),
        np.nan,
        10**400,
        torch.tensor([7, 8]),
        {},
    ],
)
def test_a_rate_that_is_no_number_is_our_error(tmp_path: Path, fps: Any) -> None:
    with pytest.raises((ConfigError, MediaError), match=r"fps must be a positive number|at most 240 frames"):
        media.write(FRAMES, tmp_path / "clip.mp4", fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [0, -1, 52, 60, 18.5, "18", None, True])
def test_a_quality_that_does_not_play_everywhere_is_refused(tmp_path: Path, crf: Any) -> None:
    with pytest.raises(ConfigError, match="crf must be a whole number from 1 to 51"):
        media.write(FRAMES, tmp_path / "clip.mp4", crf=crf)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [1, np.int64(51), torch.tensor(18)])
def test_every_quality_is_of_a_profile_that_plays_everywhere(tmp_path: Path, crf: Any) -> None:
    with av.open(str(media.write(FRAMES, tmp_path / "clip.mp4", crf=crf))) as container:
        assert container.streams.video[0].codec_context.profile == "High"


@pytest.mark.parametrize(
    ("name", "longest"), [("clip.webp", 16383), ("clip.gif", 65535), ("clip.mp4", 16384)]
)
def test_the_longest_side_of_a_format_is_written_and_one_more_refused(
    tmp_path: Path, name: str, longest: int
) -> None:
    line = torch.zeros(1, 3, 2, longest)
    media.check_size(tmp_path / name, 1, 2, longest)
    media.write(line, tmp_path / name)
    for height, width in ((2, longest + 1), (longest + 1, 2)):
        with pytest.raises(MediaError, match=rf"holds at most {longest} pixels a side, got {width}x{height}"):
            media.check_size(tmp_path / name, 1, height, width)
    with pytest.raises(MediaError, match="pixels a side"):
        media.write(line, tmp_path / f"large-{name}", enlarge=2)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["clip", "clip.png/", "clip.webp"])
def test_more_memory_than_is_safe_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match=r"frames of 12800x12800 take .* GiB, .* enlarge less"):
        media.check_size(f"{tmp_path}/{name}", 25, 12800, 12800)
    with pytest.raises(MediaError, match=r"enlarge less|pixels a side"):
        media.write(FRAMES, f"{tmp_path}/{name}", enlarge=3000)
    assert not list(tmp_path.iterdir())


def test_a_rare_colour_keeps_its_place_in_the_palette(tmp_path: Path) -> None:
    """A dot that lies between the pixels of a coarse grid, in one frame of many."""
    frames = torch.linspace(0.1, 0.9, 64).expand(6, 3, 64, 64).clone()
    frames[4, :, 33:36, 33:36] = torch.tensor([1.0, 0, 0])[:, None, None]
    found, _ = media.read(media.write(frames, tmp_path / "clip.gif"))
    assert len(found) == 3  # equal frames are shown longer
    torch.testing.assert_close(found[1, :, 34, 34], torch.tensor([1.0, 0, 0]), atol=0.1, rtol=0)
    torch.testing.assert_close(found[0], frames[0], atol=0.1, rtol=0)


def test_what_an_encoder_cannot_do_is_our_error(tmp_path: Path) -> None:
    """A frame of a GIF is shown 655 seconds at most."""
    with pytest.raises(MediaError, match=r"clip\.gif cannot be encoded"):
        media.write(FRAMES, tmp_path / "clip.gif", fps=Fraction(1, 700))
    assert not list(tmp_path.iterdir())
