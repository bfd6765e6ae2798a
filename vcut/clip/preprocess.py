"""Preprocessing of any picture to the square that CLIP sees, as Stable Video Diffusion was trained.

The official resize blurs first and then samples with aligned corners; torch's own antialiased resize is
another function (off by about 1 after normalisation), so the blur is written out here. The aspect ratio is
not kept and nothing is clamped.

Shapes: b pictures, c = 3 channels, H W the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.config import whole_number
from vcut.errors import ConfigError, check_type

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training pictures in 0..1, per channel (Radford et al. 2021)."""


def preprocess(images: Tensor, size: int = 224) -> Tensor:
    """Blur, resize and normalise ``[b, 3, H, W]`` in -1..1 to ``[b, 3, size, size]``, each picture alone.

    Computed and returned in the dtype of ``images``; half precision is raised to float32.

    Raises:
        ConfigError: not that shape, not floating point, or ``size`` below 1.
    """
    check_type("images", images, Tensor)
    size = whole_number("the size that CLIP reads", size)
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise ConfigError(
            "CLIP reads images [b, 3, H, W] of floating point in -1..1, "
            f"got {list(images.shape)} {images.dtype}"
        )
    x = images.to(torch.promote_types(images.dtype, torch.float32))
    x = _blur_width(x, x.shape[3] / size)
    x = _blur_width(x.mT, x.shape[2] / size).mT
    x = F.interpolate(x, (size, size), mode="bicubic", align_corners=True)
    # float32 first, whatever x is, as the official buffers are
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1).to(x) for values in (MEAN, STD)
    )
    return ((x + 1) / 2 - mean) / std


def _blur_width(x: Tensor, factor: float) -> Tensor:
    """Gaussian blur along the last axis against the aliasing of shrinking it ``factor`` times."""
    taps = _gaussian(factor)
    pad = len(taps) // 2
    if not pad:
        return x
    rows = F.pad(x, (pad, pad, 0, 0), mode="reflect")
    rows = F.conv2d(rows.flatten(0, 1)[:, None], taps.to(x).view(1, 1, 1, -1))  # [b*c, 1, h, w]
    return rows[:, 0].unflatten(0, x.shape[:2])


def _gaussian(factor: float) -> Tensor:
    """Odd number of taps of the blur, float64, summing to 1."""
    if factor <= 1:  # the official width is then 0.001 pixels: every tap but the centre underflows to 0
        return torch.ones(1, dtype=torch.float64, device="cpu")
    sigma = max((factor - 1) / 2, 0.001)
    length = int(max(4 * sigma, 3)) | 1  # the next odd number if even
    d = torch.arange(length, dtype=torch.float64, device="cpu") - length // 2
    taps = torch.exp(-(d**2) / (2 * sigma**2))
    return taps / taps.sum()
