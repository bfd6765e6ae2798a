"""Clips out, and in again: .mp4, .gif, .webp and folders of PNG frames (the ``media`` extra: Pillow and PyAV).

Frames are [f, 3, H, W] float in 0..1: f frames of H x W pixels. A file appears whole or not at all.
"""

from __future__ import annotations

import itertools
import math
import os
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor

from vcut.config import whole_number
from vcut.errors import ConfigError, MediaError, NotFiniteError, OutputExistsError
from vcut.media import images
from weights_tools.outputs import replacing

Rate = int | float | Fraction
Bytes = NDArray[np.uint8]  # [f, h, w, 3]

_FASTEST = {".gif": 50, ".webp": 90, ".mp4": 240}
"""The highest frames per second of each format. GIF players slow a faster clip down to 10."""


def write(
    frames: Tensor,
    path: str | Path,
    fps: Rate = 7,
    *,
    overwrite: bool = False,
    crf: int = 18,
    enlarge: int = 1,
) -> Path:
    """Write a clip in the format that the suffix of ``path`` names.

    ``.mp4`` is H.264 in yuv420p with the index in front, which plays everywhere, browsers included. It needs even
    sides. ``.gif`` has one palette of 256 colours for the whole clip. ``.webp`` is animated, at quality 90. GIF and
    WebP show a frame longer instead of storing an equal one after it. A path without suffix, or with a ``/`` at the
    end, becomes a folder of lossless frames 000.png, 001.png, ...

    Args:
        frames: [f, 3, H, W] float in 0..1, on any device.
        path: the file or folder to write; the folder that it lies in must exist.
        fps: frames per second, exact in .mp4 (a rational) and to 1 ms in .webp. GIF counts in 10 ms, so the showing
            times of its frames alternate and the clip keeps its length.
        overwrite: whether to replace an existing file, or an existing folder that holds PNG frames alone.
        crf: quality of .mp4, 0 (best) to 51; at 18 the loss is hard to see.
        enlarge: times that every pixel is written along each side.

    Returns:
        The path written.

    Raises:
        MediaError: the format is unknown, or cannot hold these frames or this rate, or its encoder is missing.
        NotFiniteError: a frame holds NaN or infinity.
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
    """
    check_format(path, fps)
    check_place(path, overwrite=overwrite)
    pictures = to_bytes(frames, enlarge)
    suffix, path = _suffix(path), Path(path)
    if suffix == ".mp4" and (pictures.shape[1] % 2 or pictures.shape[2] % 2):
        height, width = pictures.shape[1:3]
        raise MediaError(f"{path}: .mp4 needs even sides, got {width}x{height}; crop, or write .webp or .gif")
    with replacing(path, overwrite) as target:
        if suffix == ".mp4":
            _write_mp4(pictures, target, _rate(fps), crf)
        elif suffix == ".gif":
            _write_gif(pictures, target, _rate(fps))
        elif suffix == ".webp":
            _write_webp(pictures, target, _rate(fps))
        else:
            _write_folder(pictures, target)
    return path


def check_format(path: str | Path, fps: Rate = 7) -> None:
    """Raise the error that :func:`write` would raise for this suffix and rate, or for a missing encoder."""
    suffix, rate = _suffix(path), _rate(fps)
    if suffix not in (".mp4", ".gif", ".webp", ""):
        hint = "a single .png holds one picture, " if suffix == ".png" else ""
        raise MediaError(
            f"{path}: {hint}a clip is .mp4, .gif, .webp or, without suffix, a folder of PNG frames; "
            "a folder whose name has a dot needs a / at its end"
        )
    if rate > _FASTEST.get(suffix, math.inf):
        raise MediaError(
            f"{path}: {suffix} plays at most {_FASTEST[suffix]} frames per second, asked for {fps}"
        )
    if suffix == ".mp4":
        _h264(path)
    else:
        _pillow(path)


def check_place(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that :func:`write` would raise for this place: no such folder, or something in the way."""
    suffix, path = _suffix(path), Path(path)
    if not path.parent.is_dir():
        raise MediaError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise MediaError(f"{path}: the folder {path.parent} is not writable")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{path} exists already; choose another name or overwrite it (overwrite=True, --overwrite)"
        )
    if suffix and path.is_dir():
        raise OutputExistsError(f"{path} is a folder and is not overwritten by a file")
    if not suffix and not (path.is_dir() and all(_is_frame(file) for file in path.iterdir())):
        raise OutputExistsError(f"{path} is not a folder of PNG frames only and is not overwritten")


def contact_sheet(
    frames: Tensor,
    path: str | Path,
    columns: int | None = None,
    *,
    overwrite: bool = False,
    enlarge: int = 1,
) -> Path:
    """Write all frames side by side into one PNG, in reading order, at full size.

    Args:
        frames: [f, 3, H, W] float in 0..1, on any device.
        path: the .png to write; the folder that it lies in must exist.
        columns: frames in a row, by default the number that makes the grid nearly square.
        overwrite: whether to replace an existing file.
        enlarge: times that every pixel is written along each side.

    Returns:
        The path written.

    Raises:
        ConfigError: ``columns`` is below 1.
        VcutError: as :func:`write`.
    """
    check_sheet(path, overwrite=overwrite)
    if columns is not None and columns < 1:
        raise ConfigError(f"columns must be at least 1, got {columns}")
    pil = _pillow(path)
    pictures = to_bytes(frames, enlarge)
    f, h, w, _ = pictures.shape
    columns = min(f, columns or math.ceil(math.sqrt(f)))
    rows, gap = math.ceil(f / columns), 4
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    with replacing(path, overwrite) as target:
        pil.fromarray(sheet).save(target)
    return Path(path)


def check_sheet(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that :func:`contact_sheet` would raise for this path."""
    if _suffix(path) != ".png":
        raise MediaError(f"{path}: a contact sheet is a .png")
    _pillow(path)
    check_place(path, overwrite=overwrite)


def read(path: str | Path) -> tuple[Tensor, float | None]:
    """Read a clip that :func:`write` wrote, or any video that FFmpeg knows.

    Args:
        path: a file, or a folder of frames, which are read in the order of their names.

    Returns:
        The frames [f, 3, H, W] float32 in 0..1, and the frames per second: the average over the file, or None for a
        folder of frames, which does not record it.

    Raises:
        MediaError: there is no clip, or it is damaged, or its frames differ in size.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    suffix = path.suffix.lower()
    fps: float | None = None
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in images.SUFFIXES)
        pictures = [images.pixels(file) for file in files]
    elif suffix in (".gif", ".webp"):
        pictures, fps = _read_animation(path)
    elif suffix in images.SUFFIXES:
        raise MediaError(f"{path} is one picture, not a clip")
    else:
        pictures, fps = _read_video(path)
    if not pictures:
        raise MediaError(f"{path}: there are no frames in it")
    if len({picture.shape for picture in pictures}) > 1:
        raise MediaError(f"{path}: the frames differ in size")
    return torch.from_numpy(np.stack([rearrange(picture, "h w c -> c h w") for picture in pictures])), fps


def to_bytes(frames: Tensor, enlarge: int) -> Bytes:
    """Round frames [f, 3, H, W] in 0..1 to bytes [f, H m, W m, 3], every pixel ``enlarge`` = m times each way."""
    whole_number("enlarge", enlarge)
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        hint = "; write one clip at a time" if frames.ndim == 5 else ""
        raise MediaError(f"frames are {list(frames.shape)} {frames.dtype}, expected [f, 3, H, W] float{hint}")
    if 0 in frames.shape:
        raise MediaError(f"frames are {list(frames.shape)}: there is nothing to write")
    finite = torch.isfinite(frames).flatten(1).all(1)
    if not finite.all():
        raise NotFiniteError(f"frame {int(finite.int().argmin())} of {len(frames)} holds NaN or infinity")
    frames = frames.detach().float()
    low, high = (float(x) for x in torch.aminmax(frames))
    if low < -1e-3 or high > 1 + 1e-3:
        raise MediaError(f"frames run from {low:.4g} to {high:.4g}, expected 0..1")
    array: Bytes = frames.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(repeat(array, "f c h w -> f (h m) (w n) c", m=enlarge, n=enlarge))


def _suffix(path: str | Path) -> str:
    """The suffix of ``path`` in lower case, empty for a folder."""
    return "" if str(path).endswith(("/", os.sep)) else Path(path).suffix.lower()


def _is_frame(file: Path) -> bool:
    return file.suffix == ".png" and file.stem.isdigit()


def _rate(fps: Rate) -> Fraction:
    """Frames per second as the simplest fraction near it (29.97 is 2997/100)."""
    rate = Fraction(fps).limit_denominator(1001) if math.isfinite(fps) else Fraction(0)
    if rate <= 0:
        raise ConfigError(f"fps must be a positive number, got {fps}")
    return rate


def _showing_times(f: int, rate: Fraction, per_second: int) -> list[int]:
    """Ticks that each of ``f`` frames is shown, chosen so that each starts at the tick nearest to its time."""
    starts = [round(i * per_second / rate) for i in range(f + 1)]
    return [end - start for start, end in itertools.pairwise(starts)]


def _write_mp4(pictures: Bytes, target: Path, rate: Fraction, crf: int) -> None:
    av = _h264(target)
    # Matrix, primaries and transfer of BT.709 share one number. The range is as H.264 counts it.
    bt709, limited = 1, 1
    try:
        with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.colorspace = codec.color_primaries = codec.color_trc = bt709
            codec.color_range = limited
            for i, picture in enumerate(pictures):
                rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = rgb.reformat(format="yuv420p", dst_colorspace=bt709, dst_color_range=limited)
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise MediaError(f"{target.name} cannot be encoded: {error}") from error


def _write_gif(pictures: Bytes, target: Path, rate: Fraction) -> None:
    pil = _pillow(target)
    # One palette from a sample of all frames: a palette per frame would flicker. It first covers the range of
    # colours and is then fitted to the pixels, so that a small bright light keeps its colour.
    sample = rearrange(pictures[:, ::4, ::4], "f h w c -> (f h) w c")
    cover = pil.Quantize.MAXCOVERAGE
    palette = pil.fromarray(np.ascontiguousarray(sample)).quantize(256, method=cover, kmeans=3)
    first, *rest = [pil.fromarray(picture).quantize(palette=palette) for picture in pictures]
    times = [10 * ticks for ticks in _showing_times(len(pictures), rate, 100)]
    first.save(target, save_all=True, append_images=rest, duration=times, loop=0)


def _write_webp(pictures: Bytes, target: Path, rate: Fraction) -> None:
    pil = _pillow(target)
    first, *rest = [pil.fromarray(picture) for picture in pictures]
    times = _showing_times(len(pictures), rate, 1000)
    first.save(target, save_all=True, append_images=rest, duration=times, loop=0, quality=90)


def _write_folder(pictures: Bytes, target: Path) -> None:
    pil = _pillow(target)
    target.mkdir()
    digits = max(3, len(str(len(pictures) - 1)))
    for i, picture in enumerate(pictures):
        pil.fromarray(picture).save(target / f"{i:0{digits}}.png")


def _read_animation(path: Path) -> tuple[list[images.Pixels], float | None]:
    pil = _pillow(path)
    pictures, milliseconds = [], 0.0
    try:
        with pil.open(path) as image:
            for i in range(getattr(image, "n_frames", 1)):
                image.seek(i)
                pictures.append(images.pixels(image))
                milliseconds += image.info.get("duration", 0)
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path} is damaged, or not a {path.suffix}: {error}") from error
    return pictures, 1000 * len(pictures) / milliseconds if milliseconds else None


def _read_video(path: Path) -> tuple[list[images.Pixels], float | None]:
    av = _pyav(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: there is no video in it")
            stream = container.streams.video[0]
            rate = stream.average_rate
            # PyAV 16 and older heed the matrix of a file only if the output has another one. RGB has none, so we name
            # BT.601, which PyAV also assumes for a file of unknown matrix (2 or 3).
            bt601 = 5
            matrix = stream.codec_context.colorspace
            matrix = bt601 if matrix in (2, 3) else matrix
            pictures = [
                images.pixels(
                    frame.reformat(format="rgb24", src_colorspace=matrix, dst_colorspace=bt601).to_ndarray()
                )
                for frame in container.decode(stream)
            ]
    except av.error.FFmpegError as error:
        raise MediaError(f"{path} cannot be read as a video: {error}") from error
    return pictures, float(rate) if rate else None


def _pillow(path: str | Path) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MediaError(f"{path}: this needs Pillow: pip install pillow") from error
    return Image


def _pyav(path: str | Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise MediaError(f"{path}: video needs PyAV: pip install av; .gif does not") from error
    return av


def _h264(path: str | Path) -> Any:
    """PyAV, if it can encode H.264; raises :class:`MediaError` if not."""
    av = _pyav(path)
    if "libx264" not in av.codecs_available:
        raise MediaError(
            f"{path}: this PyAV was built without libx264, so it cannot write H.264; "
            "reinstall it from PyPI (pip install --force-reinstall av), or write .webp or .gif"
        )
    return av
