"""Fidelity of a clip to another of the same picture and seed: what an accelerator has changed.

Shapes: f frames, pictures ``[f, 3, H, W]`` in 0..1, latents ``[f, c, h, w]``. Clips of different shapes raise
:class:`ConfigError`.
"""

from __future__ import annotations

import math

from torch import Tensor

from vcut.errors import ConfigError, VcutError, import_fault

LARGEST = 100.0
"""PSNR in dB of frames that are equal to the bit, or nearly: infinity is no number that a table can average."""


def psnr_curve(frames: Tensor, reference: Tensor) -> list[float]:
    """PSNR of each frame, in dB, at most :data:`LARGEST`."""
    return [_psnr(error) for error in _squared_errors(frames, reference).mean((1, 2, 3)).tolist()]


def psnr(frames: Tensor, reference: Tensor) -> float:
    """PSNR of the clip, in dB: of the mean squared error over all its frames, at most :data:`LARGEST`."""
    return _psnr(_squared_errors(frames, reference).mean().item())


def ssim(frames: Tensor, reference: Tensor) -> float:
    """SSIM of Wang et al. 2004, the mean over the frames: Gaussian window of 11 pixels and deviation 1.5.

    Frames are reflected at their edges, so that there is a window at every pixel.

    Raises:
        ConfigError: frames smaller than the window.
        VcutError: torchmetrics is not installed.
    """
    _check_shapes(frames, reference)
    if min(frames.shape[2:]) < 11:
        raise ConfigError(f"SSIM needs frames of at least 11 x 11 pixels, got {list(frames.shape[2:])}")
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise VcutError(f"SSIM needs torchmetrics: {import_fault(error, 'torchmetrics')}") from error
    value = structural_similarity_index_measure(frames, reference, data_range=1.0)
    assert isinstance(value, Tensor)
    return value.item()


def latent_distance(latents: Tensor, reference: Tensor) -> float:
    """Distance of latents relative to the reference's length, both in the L2 norm: 0 if they are equal."""
    _check_shapes(latents, reference)
    x, y = latents.double(), reference.double()
    return ((x - y).norm() / y.norm().clamp_min(1e-12)).item()


def _squared_errors(frames: Tensor, reference: Tensor) -> Tensor:
    _check_shapes(frames, reference)
    return (frames.double() - reference.double()).square()


def _psnr(error: float) -> float:
    return min(LARGEST, -10 * math.log10(error)) if error else LARGEST


def _check_shapes(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ConfigError(f"fidelity compares clips of one shape, got {list(x.shape)} and {list(y.shape)}")
