"""Clips in: videos, animated GIF and WebP, and folders of frames (the ``media`` extra: Pillow and PyAV)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vcut.errors import MediaError, import_fault
from vcut.media import files, images

LARGEST = 1 << 30
"""Bytes that the frames of a clip may take."""

# What FFmpeg may take a file for. The others are playlists, which name other files, streams, and single pictures.
_VIDEOS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,nut,yuv4mpegpipe,h264,hevc,mpegvideo,m4v,ivf,obu"

# Pixels of a frame of video, of which FFmpeg keeps a dozen while it decodes.
_PIXELS = 1 << 24


def read(path: str | Path) -> tuple[Tensor, float | None]:
    """Read a clip that :func:`vcut.media.write` wrote, or a video of any usual kind.

    A video is turned as its file says, as those of phones are. Transparency is laid on white. Pixels that are not
    square are kept as they are stored.

    Args:
        path: a file, or a folder of frames, which are read in the order of the numbers in their names.

    Returns:
        The frames [f, 3, H, W] float32 in 0..1, and the frames per second: the average over the file, or None for a
        folder of frames, which does not record it.

    Raises:
        MediaError: there is no clip, or it is damaged, or its frames differ in size, or take more than 1 GiB.
    """
    path = files.as_path(path)
    suffix = path.suffix.lower()
    rate: list[float] = []
    if path.is_dir():
        frames = _all_of_a_size((images.pixels(file) for file in files.in_folder(path)[0]), path)
        return _stack(frames), None
    files.check(path)
    if suffix in files.SUFFIXES and suffix not in (".gif", ".webp"):
        raise MediaError(f"{path} is one picture, not a clip")
    reader = _animation if suffix in (".gif", ".webp") else _video
    with warnings.catch_warnings(), files.told(f"{path} is damaged, or no {suffix or 'video'}"):
        warnings.simplefilter("ignore")
        frames = _all_of_a_size(reader(path, rate), path)
    return _stack(frames), rate[0] if rate else None


def _all_of_a_size(pictures: Iterator[images.Pixels], path: Path) -> list[images.Pixels]:
    """The frames of a clip, unless they differ in size or are too many."""
    frames: list[images.Pixels] = []
    for frame in pictures:
        frames.append(frame)
        if frame.shape != frames[0].shape:
            raise MediaError(f"{path}: the frames differ in size")
        if len(frames) * frame.nbytes > LARGEST:
            raise MediaError(
                f"{path}: more than {len(frames) - 1} frames of {frame.shape[1]} x {frame.shape[0]} take more than "
                f"{LARGEST / 2**30:.1f} GiB: cut it, or scale it down first"
            )
    if not frames:
        raise MediaError(f"{path}: there are no frames in it")
    return frames


def _stack(frames: list[images.Pixels]) -> Tensor:
    """Frames as one tensor [f, 3, H, W]. Each is taken out of the list when it is copied: only one is held twice."""
    height, width, _ = frames[0].shape
    clip = torch.empty(len(frames), 3, height, width, dtype=torch.float32, device="cpu")
    for i in range(len(frames)):
        clip[i] = rearrange(torch.from_numpy(frames.pop(0)), "h w c -> c h w")
    return clip


def _animation(path: Path, rate: list[float]) -> Iterator[images.Pixels]:
    """Frames of a GIF or WebP; ``rate`` takes the frames per second."""
    milliseconds = 0.0
    with path.open("rb") as file, files.opened(file, path, ("GIF", "WEBP")) as image:
        file.seek(max(0, path.stat().st_size - 64))
        # Pillow takes a frame that is cut short for the end.
        if image.format == "GIF" and not file.read().rstrip(b"\0").endswith(b";"):
            raise MediaError(f"{path} is cut short: the mark of its end is missing")
        count = getattr(image, "n_frames", 1)
        for i in range(count):
            image.seek(i)
            yield images.decoded_pixels(image, str(path))
            milliseconds += image.info.get("duration", 0)
    if milliseconds > 0:
        rate.append(1000 * count / milliseconds)


def _video(path: Path, rate: list[float]) -> Iterator[images.Pixels]:
    """Frames of a video; ``rate`` takes the average frames per second."""
    av = pyav(path)
    # Not a name that FFmpeg could take for an address: 12:30.mp4 would have the protocol 12.
    options = {"format_whitelist": _VIDEOS, "protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise MediaError(f"{path}: there is no video in it")
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(_PIXELS)}
        if stream.average_rate:
            rate.append(float(stream.average_rate))
        # PyAV 16 and older heed the matrix of a file only if the output has another one. RGB has none, so we name
        # BT.601, which PyAV also assumes for a file of unknown matrix (2 or 3). RGB itself is 0.
        bt601 = 5
        matrix = stream.codec_context.colorspace
        matrix = bt601 if matrix in (0, 2, 3) else matrix
        for frame in container.decode(stream):
            alpha = any(component.is_alpha for component in frame.format.components)
            rgb = frame.reformat(
                format="rgba" if alpha else "rgb24", src_colorspace=matrix, dst_colorspace=bt601
            )
            yield images.pixels(_upright(rgb.to_ndarray(), frame))


def _upright(picture: NDArray[Any], frame: Any) -> NDArray[Any]:
    """A picture [h, w, c], turned and mirrored as the display matrix of its frame says, by right angles."""
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is not None:
        # (x, y) goes to (a x + c y, b x + d y)
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
        if abs(b) + abs(c) > abs(a) + abs(d):
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return picture


def pyav(path: str | Path) -> Any:
    """The module ``av``; raises :class:`MediaError` if there is none."""
    try:
        import av
    except ImportError as error:
        raise MediaError(f"{path}: video needs PyAV: {import_fault(error, 'av')}; .gif does not") from error
    return av
