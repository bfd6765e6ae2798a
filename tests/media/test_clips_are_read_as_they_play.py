"""A clip is read upright, in order and whole, from a file that cannot lead elsewhere."""

from __future__ import annotations

import io
import os
import struct
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vcut import media
from vcut.errors import MediaError
from vcut.media import images, reading

FRAMES = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def quarters(height: int = 32, width: int = 48) -> Tensor:
    """A frame whose quarters differ: red, green; blue, white."""
    frame = torch.zeros(3, height, width)
    frame[0, : height // 2, : width // 2] = 1
    frame[1, : height // 2, width // 2 :] = 1
    frame[2, height // 2 :, : width // 2] = 1
    frame[:, height // 2 :, width // 2 :] = 1
    return frame


def video(path: Path, frames: NDArray[np.uint8], codec: str, pixels: str, **options: Any) -> Path:
    """A video of other makers: frames [f, h, w, c] of bytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=options.get("rate", 7), options=options.get("encoder", {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if aspect := options.get("aspect"):
            stream.codec_context.sample_aspect_ratio = aspect
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            picture = picture.reformat(format=pixels)
            picture.pts = options.get("times", range(len(frames)))[i]
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: x.rot90(-1, (1, 2))),  # a phone held upright
        ((-1, 0, 0, -1), lambda x: x.rot90(2, (1, 2))),
        ((0, -1, 1, 0), lambda x: x.rot90(1, (1, 2))),
        ((-1, 0, 0, 1), lambda x: x.flip(2)),  # a mirror
        ((1, 0, 0, -1), lambda x: x.flip(1)),
        ((0, 1, 1, 0), lambda x: x.mT),
        ((0, -1, -1, 0), lambda x: x.mT.flip(1, 2)),
    ],
)
def test_a_video_is_turned_as_its_matrix_says(tmp_path: Path, matrix: tuple[int, ...], shown: Any) -> None:
    path = media.write(quarters().expand(2, 3, 32, 48), tmp_path / "clip.mp4", crf=1)
    content = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = content.index(b"tkhd") + 4 + 40  # the matrix in the header of the track
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frames, _ = media.read(path)
    torch.testing.assert_close(frames[0], shown(quarters()), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "http:x.mp4", "a%03d.mp4", "-.mp4", "写真:é.mp4", "concat:a|b.mp4"]
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_name_is_never_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = media.write(FRAMES, name if relative else tmp_path / name)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208
    assert media.read(path)[0].shape == FRAMES.shape


def test_a_folder_is_no_address_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30").mkdir()
    for name in ("clip.mp4", "clip.gif", "clip"):
        assert media.read(media.write(FRAMES, f"12:30/{name}"))[0].shape == FRAMES.shape


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"lat\xe9in.mp4")
    assert media.read(media.write(FRAMES, path))[0].shape == FRAMES.shape


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile clip.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.sdp", "list.ffconcat"])
def test_a_playlist_leads_nowhere(tmp_path: Path, content: str, name: str) -> None:
    media.write(FRAMES, tmp_path / "clip.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(MediaError, match=r"list\..* is damaged, or no"):
        media.read(tmp_path / name)


def test_frames_of_a_folder_are_read_by_number(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("L", (4, 4), 20 * i).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "._frame_0.png").write_bytes(b"a companion")
    frames, fps = media.read(tmp_path)
    assert fps is None
    torch.testing.assert_close(frames.mean((1, 2, 3)) * 255, torch.arange(12) * 20.0)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.png")
    for path in (tmp_path, tmp_path / "0.png"):
        with pytest.raises(MediaError, match=r"0\.png is a pipe"):
            media.read(path)
    for name in ("pipe.mp4", "pipe.gif"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(MediaError, match="is a pipe"):
            media.read(tmp_path / name)


@pytest.mark.parametrize("path", [None, 7, b"clip.mp4", "a\0b.mp4", "x" * 300])
def test_what_is_no_path_is_told(path: Any) -> None:
    with pytest.raises(MediaError, match=r"is not the path of a file"):
        media.read(path)
    with pytest.raises(MediaError, match=r"is not the path of a file"):
        media.write(FRAMES, path)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mov", "png", "rgba"), (".mov", "qtrle", "argb"), (".avi", "ffv1", "bgra"), (".mkv", "ffv1", "bgra")],
)
def test_transparency_is_laid_on_white(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    frames = np.full((2, 32, 48, 4), (100, 0, 50, 128), np.uint8)
    found, _ = media.read(video(tmp_path / f"clip{suffix}", frames, codec, pixels))
    expected = (torch.tensor([100.0, 0, 50]) * 128 + 255 * 127) / 255 / 255
    torch.testing.assert_close(found, expected.view(3, 1, 1).expand_as(found), atol=1.5 / 255, rtol=0)


def test_transparent_frames_of_animations_too(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    for name in ("clip.gif", "clip.webp"):
        clear.save(
            tmp_path / name, save_all=True, append_images=[Image.new("RGBA", (8, 6), (0, 0, 255, 255))]
        )
        frames, _ = media.read(tmp_path / name)
        torch.testing.assert_close(frames[0], torch.ones(3, 6, 8))
        assert frames[1, 0].max() < 0.1


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(MediaError, match=r"song\.mp4: there is no video in it"):
        media.read(tmp_path / "song.mp4")


@pytest.mark.parametrize(("height", "width"), [(31, 47), (2, 2), (1, 1)])
def test_odd_sizes_are_read(tmp_path: Path, height: int, width: int) -> None:
    frames = np.full((2, height, width, 3), (200, 100, 50), np.uint8)
    found, _ = media.read(video(tmp_path / "clip.mkv", frames, "ffv1", "bgr0"))
    assert found.shape == (2, 3, height, width)
    torch.testing.assert_close(found[0, :, 0, 0] * 255, torch.tensor([200.0, 100, 50]), atol=1, rtol=0)


def test_pixels_that_are_not_square_are_kept(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    path = video(tmp_path / "clip.mp4", frames, "libx264", "yuv420p", aspect=Fraction(16, 11))
    assert media.read(path)[0].shape == (2, 3, 32, 48)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(1, 2), 25, 240, 1000])
def test_the_rate_of_other_makers(tmp_path: Path, rate: Fraction | int) -> None:
    path = video(tmp_path / "clip.mp4", np.zeros((6, 32, 48, 3), np.uint8), "libx264", "yuv420p", rate=rate)
    assert media.read(path)[1] == pytest.approx(float(rate))


def test_a_rate_that_varies_is_given_as_its_average(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    path = video(
        tmp_path / "clip.mp4", frames, "libx264", "yuv420p", rate=10, times=[0, 1, 2, 27], encoder={"bf": "0"}
    )
    found, fps = media.read(path)
    assert len(found) == 4
    assert fps == pytest.approx(4 / 2.8, rel=0.02)


def test_frames_of_no_duration_have_no_rate(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=0)
    found, fps = media.read(tmp_path / "clip.gif")
    assert (len(found), fps) == (2, None)


def test_metadata_of_any_encoding_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "plain"
        stream = container.add_stream("ffv1", rate=7)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8)).reformat(format="bgr0"))
        )
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"plain", b"pl\xe9in"))
    assert media.read(path)[0].shape == (1, 3, 16, 16)


def test_a_bomb_is_told(tmp_path: Path) -> None:
    """A frame of a GIF may lie outside of its canvas, which grows to take it."""
    file = io.BytesIO()
    Image.new("P", (61, 47)).save(file, "GIF")
    content = bytearray(file.getvalue())
    at = content.index(b"\x2c\0\0\0\0") + 1
    content[at : at + 8] = struct.pack("<4H", 65000, 65000, 61, 47)
    (tmp_path / "bomb.gif").write_bytes(content)
    with pytest.raises(MediaError, match=r"bomb\.gif is damaged, or no \.gif"):
        media.read(tmp_path / "bomb.gif")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip"])
def test_more_frames_than_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = media.write(FRAMES, tmp_path / name)
    monkeypatch.setattr(reading, "LARGEST", FRAMES.nbytes)
    assert len(media.read(path)[0]) == 5
    monkeypatch.setattr(reading, "LARGEST", FRAMES.nbytes - 1)
    with pytest.raises(MediaError, match=r"more than 4 frames of 48 x 32 take more than .*: cut it"):
        media.read(path)


def test_only_one_frame_is_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.write(FRAMES, tmp_path / "clip.mp4")
    pixels, move = images.pixels, reading.rearrange
    frames: list[weakref.ref[NDArray[np.float32]]] = []
    held: list[int] = []

    def noted(image: Any) -> NDArray[np.float32]:
        frames.append(weakref.ref(found := pixels(image)))
        return found

    def counted(frame: Tensor, axes: str) -> Tensor:
        held.append(sum(each() is not None for each in frames))
        return move(frame, axes)

    monkeypatch.setattr(images, "pixels", noted)
    monkeypatch.setattr(reading, "rearrange", counted)
    media.read(path)
    assert held == [5, 4, 3, 2, 1]


def test_a_frame_of_video_has_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.write(FRAMES, tmp_path / "clip.mp4")
    monkeypatch.setattr(reading, "_PIXELS", 48 * 32 - 1)
    with pytest.raises(MediaError, match="is damaged, or no"):
        media.read(path)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_every_truncation_gives_the_clip_or_our_error(tmp_path: Path, name: str) -> None:
    path = media.write(FRAMES, tmp_path / name)
    content, whole = path.read_bytes(), media.read(path)[0]
    for length in [*(len(content) * tenth // 10 for tenth in range(10)), len(content) - 20, len(content) - 1]:
        path.write_bytes(content[:length])
        try:
            found = media.read(path)[0]
        except MediaError:
            continue
        torch.testing.assert_close(found, whole, atol=0, rtol=0)


def test_a_gif_without_its_end_may_lack_frames_and_is_refused(tmp_path: Path) -> None:
    path = media.write(FRAMES, tmp_path / "clip.gif")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"!\xf9\x04")])  # a whole frame less
    with pytest.raises(MediaError, match="the mark of its end is missing"):
        media.read(path)
    path.write_bytes(content + bytes(30))  # some programs fill up
    assert len(media.read(path)[0]) == len(FRAMES)
