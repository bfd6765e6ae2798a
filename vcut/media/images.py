"""Pictures in: a path, PIL image, array or tensor becomes a tensor [3, H, W] in [-1, 1].

Every form of a picture is first turned into float32 pixels [h, w, 3] in 0..1 (:func:`pixels`), then resized by
torch's antialiased bicubic filter. So a path, a PIL image, an array and a tensor of the same picture condition the
model identically, to the bit. Pillow is needed only to open files and PIL images.

Pictures differ, and these are the rules:

- Transparency is composited on white, before any resizing. Dropping the alpha channel instead would show
  the colours hidden under it, which are often black or garbage.
- The EXIF orientation of files and PIL images is applied. Colour profiles are not.
- An animated file gives its frame 0, an open PIL image its current frame.
- 16-bit greys keep their 16 bits.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vcut.config import Fit
from vcut.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Image: TypeAlias = "str | Path | PILImage | NDArray[Any] | Tensor"
Pixels = NDArray[np.float32]  # [h, w, 3] in 0..1

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm")
"""The files of a folder that count as pictures."""

# Float pictures may leave 0..1 by this much, the rounding of the code that made them.
_SLACK = 1e-3


def to_tensor(image: Image, height: int, width: int, fit: Fit = "crop") -> Tensor:
    """:func:`fitted`, as the networks take it.

    Returns:
        [3, height, width] float32 in [-1, 1], on the CPU.
    """
    return (fitted(image, height, width, fit) * 2 - 1).contiguous()


def fitted(image: Image, height: int, width: int, fit: Fit = "crop") -> Tensor:
    """Read ``image`` and fit it to ``height`` x ``width``. A picture of that size stays as it is, to the bit.

    Args:
        image: the picture: a path; a PIL image of any mode; an array [h, w] or [h, w, c] (uint8, uint16, or float in
            0..1); or a tensor [h, w], [c, h, w] or [1, c, h, w] (the same types), with c = 1, 2 (grey and alpha), 3
            or 4 (colour and alpha).
        height: height in pixels.
        width: width in pixels.
        fit: ``'crop'`` fills the whole area and cuts off what is too much, evenly on both sides; ``'resize'``
            squashes; ``'pad'`` shows the whole picture between black bars.

    Returns:
        [3, height, width] float32 in 0..1, on the CPU.

    Raises:
        MediaError: the picture cannot be read or is not a picture.
        ConfigError: a side is below 1, or ``fit`` is unknown.
    """
    if fit not in get_args(Fit):
        raise ConfigError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
    if height < 1 or width < 1:
        raise ConfigError(f"a picture cannot be {height} pixels high and {width} wide")
    picture = rearrange(torch.from_numpy(pixels(image)), "h w c -> c h w").contiguous()
    return _fit(picture, height, width, fit)


def to_tensors(images: Image | Sequence[Image], height: int, width: int, fit: Fit = "crop") -> Tensor:
    """Read one picture, a list of them, or a stack [b, c, h, w] (array: [b, h, w, c]), as :func:`to_tensor` does.

    Returns:
        [b, 3, height, width] float32 in [-1, 1].
    """
    several = isinstance(images, list | tuple) or (
        isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    )
    each: list[Image] = list(images) if several else [images]  # type: ignore[list-item, arg-type]
    if not each:
        raise MediaError("no pictures were given")
    return torch.stack([to_tensor(image, height, width, fit) for image in each])


def pixels(image: Image) -> Pixels:
    """The picture as float32 [h, w, 3] in 0..1, at its own size. Arguments and errors as :func:`fitted`."""
    if isinstance(image, str | Path):
        return _of_array(_open(Path(image)), f"{image}")
    if isinstance(image, Tensor):
        return _of_tensor(image)
    if isinstance(image, np.ndarray):
        return _of_array(image, "the array")
    # A PIL image can exist only where PIL has been imported.
    if (module := sys.modules.get("PIL.Image")) and isinstance(image, module.Image):
        return _of_array(_decode(image, "the PIL image"), "the PIL image")
    raise MediaError(f"expected a path, PIL image, array or tensor, got {type(image).__name__}")


def _of_tensor(tensor: Tensor) -> Pixels:
    """Pixels of a tensor [c, h, w], [1, c, h, w] or [h, w]."""
    found = f"the tensor has shape {list(tensor.shape)}"
    if tensor.ndim == 4:
        if len(tensor) != 1:
            raise MediaError(f"{found}: {len(tensor)} pictures where one is expected")
        tensor = tensor[0]
    if tensor.ndim not in (2, 3):
        raise MediaError(f"{found}, expected [c, h, w]")
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 2, 3, 4) and tensor.shape[2] in (1, 2, 3, 4):
            raise MediaError(f"{found}: channels come first in a tensor, permute it to [c, h, w]")
        tensor = rearrange(tensor, "c h w -> h w c")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy knows no bfloat16
    return _of_array(tensor.numpy(), "the tensor")


def _of_array(array: NDArray[Any], name: str) -> Pixels:
    """Pixels of an array [h, w] or [h, w, c] of uint8, uint16 or float in 0..1."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        hint = ": channels come last in an array" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise MediaError(f"{name} has shape {list(array.shape)}, expected [h, w, 1 to 4 channels]{hint}")
    if 0 in array.shape:
        raise MediaError(f"{name} has shape {list(array.shape)}: there are no pixels in it")
    values = _unit_range(array, name)
    if values.shape[2] in (2, 4):
        colour, alpha = values[:, :, :-1], values[:, :, -1:]
        values = colour * alpha + (1 - alpha)  # on white
    return values if values.shape[2] == 3 else values.repeat(3, axis=2)


def _unit_range(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Scale the numbers of any accepted type to float32 in 0..1."""
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(65535)
    if array.dtype.kind != "f":
        raise MediaError(f"{name} holds {array.dtype} numbers, expected uint8, uint16 or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise MediaError(f"{name} holds NaN or infinity")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = ""
        if low >= -1 - _SLACK and high <= 1 + _SLACK:
            hint = "; from -1..1 get there by (x + 1) / 2"
        elif low >= 0 and high <= 255:
            hint = "; from 0..255 get there by x / 255"
        raise MediaError(f"{name} runs from {low:.4g} to {high:.4g}, floats must lie in 0..1{hint}")
    return array.astype(np.float32).clip(0, 1)


def _open(path: Path) -> NDArray[Any]:
    """Decode frame 0 of the file at ``path``."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MediaError(f"{path}: reading pictures needs Pillow: pip install pillow") from error
    path = path.expanduser()
    if path.is_dir():
        raise MediaError(f"{path} is a folder, expected a picture")
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    with warnings.catch_warnings():
        # Pillow warns about big pictures, which are fine, and about damage, which we report as an error.
        warnings.simplefilter("ignore")
        return _decode_file(path)


def _decode_file(path: Path) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
    except UnidentifiedImageError as error:
        hint = "; save it as JPEG or PNG" if path.suffix.lower() in (".heic", ".heif", ".svg", ".pdf") else ""
        raise MediaError(f"{path} is not a picture that Pillow can read{hint}") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} unpacks to more pixels than is safe: scale it down first") from error
    except Exception as error:  # a damaged header makes Pillow's readers raise nearly anything
        raise MediaError(f"{path} cannot be read: {_reason(error)}") from error
    with image:
        return _decode(image, str(path))


def _decode(image: PILImage, name: str) -> NDArray[Any]:
    """The current frame of a PIL image, upright, as an array that :func:`_of_array` accepts."""
    from PIL import ImageOps

    if 0 in image.size:
        raise MediaError(f"{name} is {image.width} x {image.height}: there are no pixels in it")
    try:
        image.load()
        # Damaged EXIF data says nothing about the pixels: show them as they are.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        # Grey multiplied by its alpha: Pillow converts it to LA only.
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
        elif image.mode == "1":
            image = image.convert("L")
        elif image.mode not in ("L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        array: NDArray[Any] = np.asarray(image)
    except MemoryError:
        raise
    except Exception as error:  # a cut or damaged file makes Pillow's readers raise nearly anything
        raise MediaError(f"{name} is cut short or damaged: {_reason(error)}") from error
    if image.mode == "I" and (array.min() < 0 or array.max() > 65535):
        raise MediaError(
            f"{name} holds 32-bit integers from {array.min()} to {array.max()}, expected 0..65535"
        )
    return array.astype(np.uint16) if image.mode.startswith("I") else array


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _fit(image: Tensor, height: int, width: int, fit: Fit) -> Tensor:
    """Fit a picture [3, h, w] to [3, height, width]."""
    _, h, w = image.shape
    if fit == "crop":
        # Keep the largest window of the wanted aspect, in the middle.
        scale = min(h / height, w / width)
        window_h, window_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (h - window_h) // 2, (w - window_w) // 2
        image = image[:, top : top + window_h, left : left + window_w]
    if fit != "pad":
        return _resize(image, height, width)
    scale = max(h / height, w / width)
    inner_h, inner_w = (max(1, round(side / scale)) for side in (h, w))
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    bars = (left, width - inner_w - left, top, height - inner_h - top)
    return F.pad(_resize(image, inner_h, inner_w), bars)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    resized = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)
