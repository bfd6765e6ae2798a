"""Pictures in: a path, PIL image, array or tensor becomes a tensor [3, H, W] in [-1, 1].

Every form of a picture is cropped, turned into float32 pixels [h, w, 3] in 0..1 (:func:`pixels`), and resized by
torch's antialiased bicubic filter, a band of rows at a time: a large picture is never whole in floats. So a path, a
PIL image, an array and a tensor of the same picture condition the model identically, to the bit. Pillow is needed to
open files and PIL images alone.

Pictures differ, and these are the rules:

- Transparency is composited on white, before any resizing. Dropping the alpha channel instead would show
  the colours hidden under it, which are often black or garbage.
- The EXIF orientation of files and PIL images is applied. Colour profiles are not.
- An animated file gives its frame 0, an open PIL image its current frame.
- 16-bit greys keep their 16 bits, 16-bit colours the upper 8. Mode ``I`` is read as 16 bits; where it holds no number
  above 255 its white is unknown, and it is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vcut.config import Fit, whole_number
from vcut.errors import ConfigError, MediaError, NotFiniteError
from vcut.media import files

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Image: TypeAlias = "str | Path | PILImage | NDArray[Any] | Tensor"
Pixels = NDArray[np.float32]  # [h, w, 3] in 0..1

# Float pictures may leave 0..1 by this much, the rounding of the code that made them.
_SLACK = 1e-3

# Pixels of a band of rows that is resized at once.
_BAND = 1 << 18


@dataclass(frozen=True)
class _Source:
    """A picture of any form; ``part(top, bottom, left, right)`` gives the pixels of a window."""

    height: int
    width: int
    part: Callable[[int, int, int, int], Pixels]


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
    height, width = whole_number("height", height), whole_number("width", width)
    return _fit(_source(image), height, width, fit)


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
    return _whole(_source(image))


def decoded_pixels(image: PILImage, name: str) -> Pixels:
    """:func:`pixels` of the current frame of a file that is open, and is called ``name`` in errors."""
    return _whole(_of_pil(files.decoded(image), name))


def _whole(source: _Source) -> Pixels:
    pixels = np.empty((source.height, source.width, 3), np.float32)
    # in bands: on the way from bytes and transparency there are several times as many numbers
    step = max(1, _BAND // source.width)
    for top in range(0, source.height, step):
        pixels[top : top + step] = source.part(top, min(top + step, source.height), 0, source.width)
    return pixels


def _source(image: Image) -> _Source:
    if isinstance(image, str | Path):
        return _of_pil(files.load(files.as_path(image)), f"{image}")
    if isinstance(image, Tensor):
        return _of_tensor(image)
    if isinstance(image, np.ndarray):
        return _of_array(image, "the array")
    # A PIL image can exist only where PIL has been imported.
    if (module := sys.modules.get("PIL.Image")) and isinstance(image, module.Image):
        with files.told("the PIL image is cut short or damaged"):
            return _of_pil(files.decoded(image), "the PIL image")
    raise MediaError(f"expected a path, PIL image, array or tensor, got {type(image).__name__}")


def _of_pil(decoded: files.Decoded, name: str) -> _Source:
    """The picture of a PIL image. Pixels of 8 bits are taken from it a part at a time."""
    image, key = decoded.image, decoded.key
    if 0 in image.size:
        raise MediaError(f"{name} is {image.width} x {image.height}: there are no pixels in it")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        array: NDArray[Any] = np.asarray(image)
        if image.mode == "I":
            _check_sixteen_bits(array, name)
        return _of_array(
            array if image.mode == "F" else _with_key(array.astype(np.uint16)[:, :, None], key), name
        )
    if image.mode in ("LA", "La", "1", "L"):
        mode = "L" if image.mode in ("1", "L") else "LA"
    else:
        palette_key = image.mode == "P" and key is not None
        mode = "RGBA" if image.mode in ("PA", "RGBA", "RGBa") or palette_key else "RGB"

    def part(top: int, bottom: int, left: int, right: int) -> Pixels:
        with files.told(f"{name} of mode {image.mode} cannot be shown in colours"):
            whole = (0, 0, image.width, image.height)
            window = (left, top, right, bottom)
            array = np.asarray((image if window == whole else image.crop(window)).convert(mode))
        array = array[:, :, None] if array.ndim == 2 else array
        return _on_white(_with_key(array, key) if image.mode in ("1", "L", "RGB") else array)

    return _Source(image.height, image.width, part)


def _with_key(array: NDArray[Any], key: object) -> NDArray[Any]:
    """Greys or colours [h, w, c], with an alpha channel where ``key`` is a transparent one among them."""
    key = np.atleast_1d(key) if isinstance(key, int | tuple) else np.zeros(0)
    if key.shape != array.shape[2:]:
        return array
    alpha = (array != key).any(2, keepdims=True).astype(array.dtype) * np.iinfo(array.dtype).max
    return np.concatenate([array, alpha], axis=2)


def _check_sixteen_bits(array: NDArray[Any], name: str) -> None:
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise MediaError(f"{name} holds 32-bit integers from {low} to {high}, expected 0..65535")
    if 0 < high <= 255:
        raise MediaError(
            f"{name} holds 32-bit integers from {low} to {high}, and does not say which of them is white: "
            "save it with 8 bits, or scale it to 0..65535"
        )


def _of_tensor(tensor: Tensor) -> _Source:
    """The picture of a tensor [c, h, w], [1, c, h, w] or [h, w]."""
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
    with files.told("the tensor holds no plain numbers"):  # meta, sparse, quantized
        tensor = tensor.detach().cpu()
        array = (
            tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        )  # numpy knows no bfloat16
    return _of_array(array, "the tensor")


def _of_array(array: NDArray[Any], name: str) -> _Source:
    """The picture of an array [h, w] or [h, w, c] of uint8, uint16 or float in 0..1."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        hint = ": channels come last in an array" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise MediaError(f"{name} has shape {list(array.shape)}, expected [h, w, 1 to 4 channels]{hint}")
    if 0 in array.shape:
        raise MediaError(f"{name} has shape {list(array.shape)}: there are no pixels in it")
    _check_range(array, name)
    height, width, _ = array.shape
    return _Source(height, width, lambda top, bottom, left, right: _on_white(array[top:bottom, left:right]))


def _on_white(array: NDArray[Any]) -> Pixels:
    """Pixels of a checked array [h, w, c]: its numbers scaled to 0..1, its transparency laid on white."""
    if array.dtype.kind == "u":
        values: Pixels = np.divide(array, np.float32(np.iinfo(array.dtype).max), dtype=np.float32)
    else:
        values = array.astype(np.float32).clip(0, 1)
    if values.shape[2] in (2, 4):
        colour, alpha = values[:, :, :-1], values[:, :, -1:]
        values = colour * alpha + (1 - alpha)
    return values if values.shape[2] == 3 else values.repeat(3, axis=2)


def _check_range(array: NDArray[Any], name: str) -> None:
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return
    if array.dtype.kind != "f":
        raise MediaError(f"{name} holds {array.dtype} numbers, expected uint8, uint16 or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NotFiniteError(f"{name} holds NaN or infinity")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = ""
        if low >= -1 - _SLACK and high <= 1 + _SLACK:
            hint = "; from -1..1 get there by (x + 1) / 2"
        elif low >= 0 and high <= 255:
            hint = "; from 0..255 get there by x / 255"
        raise MediaError(f"{name} runs from {low:.4g} to {high:.4g}, floats must lie in 0..1{hint}")


def _fit(image: _Source, height: int, width: int, fit: Fit) -> Tensor:
    """Fit a picture to [3, height, width]."""
    h, w = image.height, image.width
    if fit == "crop":
        # Keep the largest window of the wanted aspect, in the middle.
        scale = min(h / height, w / width)
        window_h, window_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (h - window_h) // 2, (w - window_w) // 2
        return _resize(image, (top, left, window_h, window_w), height, width)
    if fit == "resize":
        return _resize(image, (0, 0, h, w), height, width)
    scale = max(h / height, w / width)
    inner_h, inner_w = (max(1, round(side / scale)) for side in (h, w))
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    bars = (left, width - inner_w - left, top, height - inner_h - top)
    return F.pad(_resize(image, (0, 0, h, w), inner_h, inner_w), bars)


def _resize(image: _Source, window: tuple[int, int, int, int], height: int, width: int) -> Tensor:
    """The window (top, left, h, w) of a picture as [3, height, width]: its rows are resized first, in bands."""
    top, left, h, w = window
    rows = torch.empty(3, h, width, device="cpu", dtype=torch.float32)
    step = max(1, _BAND // w)
    for at in range(0, h, step):
        band = image.part(top + at, top + min(at + step, h), left, left + w)
        rows[:, at : at + step] = _interpolate(
            rearrange(torch.from_numpy(band), "h w c -> c h w"), len(band), width
        )
    return _interpolate(rows, height, width).clamp(0, 1)


def _interpolate(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]
