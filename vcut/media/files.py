"""Picture files: which are taken, and how one is opened that nobody vouches for.

A file is opened by its content, whatever its name, and only as one of :data:`FORMATS`. Pillow knows forty more, and
starts another program for some. What no pixel needs does not count: a JPEG without its end mark is opened, and a PNG
with damaged or very long texts.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vcut.errors import MediaError, VcutError, import_fault, is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    "TGA": (".tga",),
}
"""Pillow's names of the formats that are opened, and the suffixes of their files."""

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

OTHERS = (".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2")
"""Suffixes of pictures that are not taken."""

LARGEST = 3 << 29
"""Bytes of memory that a picture of a file may take while it is decoded and turned upright."""

LONGEST = 65535
"""Pixels of a side, as of a JPEG."""

# Bytes of a pixel in Pillow's memory, if not 4; and how often a decoder holds a picture, if not twice.
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I": 6, "F": 6}
_COPIES = {"WEBP": 5, "AVIF": 4, "JPEG2000": 7}

# Pillow's names of stored numbers whose white it forgets, and of those to which a key has to be fitted. A key of one
# bit needs nothing: white is shown as white either way.
_WHITES = {"I;12": 4095, "I;16S": 32767}
_KEYS: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda key: 85 * key,
    "L;4": lambda key: 17 * key,
    "RGB;16B": lambda key: tuple(number >> 8 for number in key),
}
_PHOTOMETRIC, _ORIENTATION = 262, 274  # tags of TIFF and EXIF

# Bytes of a file, and pixels of a picture, that are worth a second try.
_SMALL = 1 << 26
_NOISES = (b"", b"\x5a", b"\xa5")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


@dataclass(frozen=True)
class Decoded:
    """A picture at its own size and depth, upright."""

    image: PILImage
    # what counts as transparent in a picture without alpha: a value, one for each channel, or as Pillow's palettes do
    key: Any


def in_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder in the order of the numbers in their names, and those of formats that are not taken.

    Files are told by their suffixes. Hidden ones are left out: systems put a ``._a.png`` beside an ``a.png``.
    """
    try:
        names = [path for path in folder.iterdir() if not (path.name.startswith(".") or path.is_dir())]
    except OSError as error:
        raise MediaError(f"{folder} cannot be read: {error.strerror}") from error
    names.sort(key=lambda path: ([_part(part) for part in re.split(r"([0-9]+)", path.name)], path.name))
    taken, others = ([path for path in names if path.suffix.lower() in kind] for kind in (SUFFIXES, OTHERS))
    return taken, others


def _part(part: str) -> str | int:
    return int(part) if part.isdecimal() and part.isascii() else part


def as_path(path: str | os.PathLike[str]) -> Path:
    """``path`` as such; raises :class:`MediaError` if it cannot be one."""
    try:
        found = Path(path)
        with contextlib.suppress(RuntimeError):  # ~a.png is a file, not a user's home
            found = found.expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
    except (TypeError, ValueError, OSError) as error:
        raise MediaError(f"{path!r} is not the path of a file: {reason(error)}") from error
    return found


def check(path: Path) -> None:
    """Raise :class:`MediaError` unless there is a file that can be read to its end; a pipe may never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        hint = ", and addresses are not followed: download it first" if ":/" in str(path) else ""
        raise MediaError(f"{path}: no such file{hint}") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{path!s} cannot be read: {reason(error)}") from error
    if stat.S_ISDIR(mode):
        raise MediaError(f"{path} is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise MediaError(f"{path} is a pipe, a socket or a device, expected a file")


def load(path: Path) -> Decoded:
    """Open the file at ``path`` and decode its frame 0."""
    pillow(path)
    check(path)
    with warnings.catch_warnings():
        # Pillow warns about big pictures, which are fine, and about damage, which we report as an error.
        warnings.simplefilter("ignore")
        try:
            return _load(path, path)
        except MediaError:
            raise
        except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
            if found := _without_what_no_pixel_needs(path):
                return found
            raise MediaError(_says(path, error)) from error


def opened(file: Path | IO[bytes], path: Path, formats: Sequence[str] = tuple(FORMATS)) -> PILImage:
    """Pillow's image of a file that is named ``path``, not decoded yet."""
    image_module = pillow(path)
    image_module.init()
    # Nothing in a TGA says that it is one, but its name.
    there = [f for f in formats if f in image_module.OPEN and (f != "TGA" or path.suffix.lower() == ".tga")]
    image: PILImage = image_module.open(file, formats=there)
    needs = image.width * image.height * _PIXEL.get(image.mode, 4) * _COPIES.get(image.format or "", 2)
    if needs > LARGEST or max(image.size) > LONGEST:
        raise MediaError(
            f"{path} is {image.width} x {image.height}: it would take {needs / 2**30:.1f} GiB to open, and at most "
            f"{LARGEST / 2**30:.1f} GiB and {LONGEST} pixels a side are safe: scale it down first"
        )
    return image


def decoded(image: PILImage) -> Decoded:
    """Decode the current frame of an image that may not be read yet."""
    from PIL import ImageOps

    tiles = getattr(image, "tile", None)
    stored: Any = tiles[0][3] if tiles else ""
    stored = stored[0] if isinstance(stored, tuple) and stored else stored
    negative = stored in ("I;16", "I;16B") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    image.load()
    key = image.info.get("transparency")
    if stored in _KEYS and key is not None:
        key = _KEYS[stored](key)
    known = image.mode == "I" and image.format in ("PNG", "PPM")  # greys of 16 bits
    if stored in _WHITES or negative or known:
        image = _sixteen_bits(image, _WHITES.get(stored, 65535), negative)
    # Damaged EXIF data says nothing about the pixels: show them as they are.
    with contextlib.suppress(Exception):
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return Decoded(image, key)


def _sixteen_bits(image: PILImage, white: int, negative: bool) -> PILImage:
    """The picture with numbers from 0, black, to 65535."""
    from PIL import Image

    numbers = np.asarray(image)
    if numbers.min() < 0:
        raise ValueError("there are numbers below 0 in it")
    if white != 65535:
        numbers = numbers.astype(np.uint32) * 65535 // white
    numbers = numbers.astype(np.uint16)
    return Image.fromarray(~numbers if negative else numbers)


def _load(file: Path | IO[bytes], path: Path) -> Decoded:
    with opened(file, path) as image:
        return decoded(image)


def _without_what_no_pixel_needs(path: Path) -> Decoded | None:
    """The picture of a damaged file, if the damage is to nothing that a pixel needs."""
    try:
        if path.stat().st_size > _SMALL:
            return None
        content = path.read_bytes()
        if content.startswith(b"\x89PNG"):
            return _load(io.BytesIO(_without_texts(content)), path)
        if content.startswith(b"\xff\xd8"):
            # Where pixels are missing the decoder takes for them what follows, here nothing or noise of two kinds.
            kept = content.rstrip(b"\xff")
            tries = (_load(io.BytesIO(kept + 64 * noise + b"\xff\xd9"), path) for noise in _NOISES)
            found = next(tries)
            if found.image.width * found.image.height <= _SMALL:
                pixels = found.image.tobytes()
                return found if all(other.image.tobytes() == pixels for other in tries) else None
    except Exception:  # as before: the first fault is told
        return None
    return None


def _without_texts(content: bytes) -> bytes:
    """A PNG without its texts and colour profile."""
    kept, at = [content[:8]], 8
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in _TEXTS:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _says(path: Path, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        hint = "; save it as JPEG or PNG" if path.suffix.lower() in (*OTHERS, ".pdf", ".eps") else ""
        return f"{path} is not a picture that can be read{hint}"
    if kind == "DecompressionBombError":
        return f"{path} unpacks to more pixels than is safe: scale it down first"
    if is_out_of_memory(error):
        return f"{path} does not fit into the memory that is left: scale it down first"
    return f"{path} is cut short or damaged: {reason(error)}"


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what another library raises in the block into a :class:`MediaError`: ``what``, and its first line.

    That memory is full says nothing of the file, and passes.
    """
    try:
        yield
    except VcutError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise MediaError(f"{what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The first line of an error of another library."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def pillow(path: str | Path) -> ModuleType:
    """The module ``PIL.Image``; raises :class:`MediaError` if there is none."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MediaError(f"{path}: this needs Pillow: {import_fault(error, 'pillow')}") from error
    return Image
