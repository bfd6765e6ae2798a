"""Clips out: .mp4, .gif, .webp and folders of PNG frames (the ``media`` extra: Pillow and PyAV).

A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

import numpy as np
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor

from vcut.config import whole_number
from vcut.errors import ConfigError, MediaError, OutputExistsError, VcutError
from vcut.media import files, images
from vcut.media.reading import LARGEST, pyav
from weights_tools.outputs import replacing

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Frames: TypeAlias = Tensor | NDArray[Any] | Sequence[images.Image]
Rate: TypeAlias = SupportsFloat | str
Bytes = NDArray[np.uint8]  # [f, h, w, 3]

_FASTEST = {".gif": 50, ".webp": 90, ".mp4": 240}
"""The highest frames per second of each format. GIF players slow a faster clip down to 10."""

_LONGEST = {".gif": 65535, ".webp": 16383, ".mp4": 16384}
"""Pixels of the longest side of each format."""


def write(
    frames: Frames,
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
        frames: f pictures of one size in any form that :func:`vcut.media.images.fitted` takes: a tensor [f, c, H, W]
            or an array [f, H, W, c], of float in 0..1 or bytes, or a list of PIL images, arrays or tensors.
        path: the file or folder to write; the folder that it lies in must exist.
        fps: frames per second, a number of any type or a text such as ``"30000/1001"``. It is exact in .mp4 (a
            rational) and to 1 ms in .webp. GIF counts in 10 ms, so the showing times of its frames alternate and the
            clip keeps its length.
        overwrite: whether to replace an existing file, or an existing folder that holds PNG frames alone.
        crf: quality of .mp4, 1 (best) to 51; at 18 the loss is hard to see. 0 would be a profile that few play.
        enlarge: times that every pixel is written along each side.

    Returns:
        The path written.

    Raises:
        ConfigError: ``fps``, ``crf`` or ``enlarge`` is no such number.
        MediaError: the format is unknown, or cannot hold these frames or this rate, or its encoder is missing.
        NotFiniteError: a frame holds NaN or infinity.
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
    """
    check_format(path, fps)
    check_place(path, overwrite=overwrite)
    crf = whole_number("crf", crf, 1, 51)
    pictures = to_bytes(frames, enlarge, path)
    suffix, path = _suffix(path), Path(path)
    with replacing(path, overwrite) as target, _encoding(path):
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
        files.pillow(path)


def check_size(path: str | Path, frames: int, height: int, width: int) -> None:
    """Raise the error that :func:`write` would raise for ``frames`` of these pixels, after enlarging."""
    suffix = _suffix(path)
    longest = _LONGEST.get(suffix, LARGEST)
    if max(height, width) > longest:
        raise MediaError(f"{path}: {suffix} holds at most {longest} pixels a side, got {width}x{height}")
    if frames * height * width * 3 > LARGEST:
        raise MediaError(
            f"{path}: {frames} frames of {width}x{height} take {frames * height * width * 3 / 2**30:.1f} GiB, "
            f"at most {LARGEST / 2**30:.1f} GiB are written: enlarge less"
        )
    if suffix == ".mp4" and (height % 2 or width % 2):
        raise MediaError(f"{path}: .mp4 needs even sides, got {width}x{height}; crop, or write .webp or .gif")


def check_place(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that :func:`write` would raise for this place: no such folder, or something in the way."""
    suffix, path = _suffix(path), files.as_path(path)
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
    frames: Frames,
    path: str | Path,
    columns: int | None = None,
    *,
    overwrite: bool = False,
    enlarge: int = 1,
) -> Path:
    """Write all frames side by side into one PNG, in reading order, at full size.

    Args:
        frames: as of :func:`write`.
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
    pictures = to_bytes(frames, enlarge, path)
    f, h, w, _ = pictures.shape
    columns = min(f, math.ceil(math.sqrt(f)) if columns is None else whole_number("columns", columns))
    rows, gap = math.ceil(f / columns), 4
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    with replacing(path, overwrite) as target, _encoding(path):
        files.pillow(path).fromarray(sheet).save(target)
    return Path(path)


def check_sheet(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that :func:`contact_sheet` would raise for this path."""
    if _suffix(path) != ".png":
        raise MediaError(f"{path}: a contact sheet is a .png")
    files.pillow(path)
    check_place(path, overwrite=overwrite)


def to_bytes(frames: Frames, enlarge: int = 1, path: str | Path = "clip") -> Bytes:
    """Round the frames of a clip to bytes [f, H m, W m, 3], every pixel ``enlarge`` = m times each way.

    Errors as of :func:`write` to ``path``.
    """
    m = whole_number("enlarge", enlarge)
    if isinstance(frames, Tensor | np.ndarray):
        if frames.ndim != 4:
            hint = "; write one clip at a time" if frames.ndim == 5 else ""
            raise MediaError(f"frames are {list(frames.shape)}, expected [f, 3, H, W]{hint}")
    elif not isinstance(frames, list | tuple):
        raise MediaError(
            f"frames are a {type(frames).__name__}, expected a tensor, an array or a list of pictures"
        )
    if len(frames) == 0:
        raise MediaError("there are no frames to write")
    clip: Bytes = np.empty(0, np.uint8)
    for i, frame in enumerate(frames):
        try:
            picture = images.pixels(frame)
        except MediaError as error:
            raise type(error)(f"frame {i} of {len(frames)}: {error}") from error
        height, width = picture.shape[0] * m, picture.shape[1] * m
        if i == 0:
            check_size(path, len(frames), height, width)
            clip = np.empty((len(frames), height, width, 3), np.uint8)
        if clip.shape[1:] != (height, width, 3):
            raise MediaError(f"frame {i} is {width}x{height}, frame 0 is {clip.shape[2]}x{clip.shape[1]}")
        clip[i] = repeat(np.rint(picture * 255).astype(np.uint8), "h w c -> (h m) (w n) c", m=m, n=m)
    return clip


def to_pil(frames: Frames) -> list[PILImage]:
    """PIL images of the frames of a clip, in RGB. Errors as of :func:`to_bytes`."""
    return [files.pillow("PIL images").fromarray(picture) for picture in to_bytes(frames)]


def _suffix(path: str | Path) -> str:
    """The suffix of ``path`` in lower case, empty for a folder."""
    return "" if str(path).endswith(("/", os.sep)) else files.as_path(path).suffix.lower()


def _is_frame(file: Path) -> bool:
    return file.suffix == ".png" and file.stem.isdigit()


def _rate(fps: Rate) -> Fraction:
    """Frames per second as the simplest fraction near it (29.97 is 2997/100)."""
    try:
        rate = Fraction(0) if isinstance(fps, bool) else Fraction(fps if isinstance(fps, str) else float(fps))
        rate = Fraction(fps) if isinstance(fps, Fraction) else rate.limit_denominator(1001)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        rate = Fraction(0)
    if rate <= 0:
        raise ConfigError(f"fps must be a positive number, got {fps!r}")
    return rate


def _showing_times(f: int, rate: Fraction, per_second: int) -> list[int]:
    """Ticks that each of ``f`` frames is shown, chosen so that each starts at the tick nearest to its time."""
    starts = [round(i * per_second / rate) for i in range(f + 1)]
    return [end - start for start, end in itertools.pairwise(starts)]


@contextlib.contextmanager
def _encoding(path: str | Path) -> Iterator[None]:
    """Say what an encoder cannot do. Faults of the disk pass: :func:`replacing` knows what to say of them."""
    try:
        yield
    except (VcutError, OSError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(f"{path} cannot be encoded: {files.reason(error)}") from error


def _write_mp4(pictures: Bytes, target: Path, rate: Fraction, crf: int) -> None:
    av = _h264(target)
    # Matrix, primaries and transfer of BT.709 share one number. The range is as H.264 counts it.
    bt709, limited = 1, 1
    # Not a name that FFmpeg could take for an address: 12:30.mp4 would have the protocol 12.
    with av.open(f"file:{target}", "w", format="mp4", options={"movflags": "faststart"}) as container:
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


def _write_gif(pictures: Bytes, target: Path, rate: Fraction) -> None:
    pil = files.pillow(target)
    # One palette from a sample of all frames: a palette per frame would flicker. It first covers the range of
    # colours and is then fitted to the pixels, so that a small bright light keeps its colour.
    cover = pil.Quantize.MAXCOVERAGE
    palette = pil.fromarray(_sample(pictures)[None]).quantize(256, method=cover, kmeans=3)
    first, *rest = [pil.fromarray(picture).quantize(palette=palette) for picture in pictures]
    times = [10 * ticks for ticks in _showing_times(len(pictures), rate, 100)]
    first.save(target, save_all=True, append_images=rest, duration=times, loop=0)


def _sample(pictures: Bytes) -> Bytes:
    """Colours [n, 3]: those of a pixel in 16, and one of each of the 32^3 kinds that occurs anywhere."""
    grid = pictures[:, ::4, ::4].reshape(-1, 3)
    kinds = np.full((1 << 15, 3), -1, np.int16)
    for picture in pictures:
        red, green, blue = (picture[..., c].astype(np.int16) >> 3 for c in range(3))
        kinds[red << 10 | green << 5 | blue] = picture
    return np.concatenate([grid, kinds[kinds[:, 0] >= 0].astype(np.uint8)])


def _write_webp(pictures: Bytes, target: Path, rate: Fraction) -> None:
    pil = files.pillow(target)
    first, *rest = [pil.fromarray(picture) for picture in pictures]
    times = _showing_times(len(pictures), rate, 1000)
    first.save(target, save_all=True, append_images=rest, duration=times, loop=0, quality=90)


def _write_folder(pictures: Bytes, target: Path) -> None:
    pil = files.pillow(target)
    target.mkdir()
    digits = max(3, len(str(len(pictures) - 1)))
    for i, picture in enumerate(pictures):
        pil.fromarray(picture).save(target / f"{i:0{digits}}.png")


def _h264(path: str | Path) -> Any:
    """PyAV, if it can encode H.264; raises :class:`MediaError` if not."""
    av = pyav(path)
    if "libx264" not in av.codecs_available:
        raise MediaError(
            f"{path}: this PyAV was built without libx264, so it cannot write H.264; "
            "reinstall it from PyPI (pip install --force-reinstall av), or write .webp or .gif"
        )
    return av
