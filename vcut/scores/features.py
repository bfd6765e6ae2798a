"""Encoders of frames: the model's own CLIP, and DINO ViT-B/16 and CLIP ViT-B/32 as VBench sees with them.

Shapes: T frames ``[T, 3, H, W]`` in 0..1, pixels as a network takes them, features ``[T, D]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.clip.preprocess import MEAN, STD
from vcut.loading import load_clip
from vcut.scores import vit
from vcut.sweeps.manifest import file_sha256

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's pictures in 0..1, per channel."""

CHUNK = 8
"""Frames that an encoder is given at a time, for memory."""


@dataclass(frozen=True)
class Encoder:
    """A way to turn frames into features; its hash stands for its weights."""

    label: str
    sha256: str
    encode: Callable[[Tensor], Tensor]
    device: torch.device

    def features(self, frames: Tensor) -> Tensor:
        """Features ``[T, D]`` of ``frames``, on the CPU."""
        return torch.cat([self.encode(part.to(self.device)).cpu() for part in torch.split(frames, CHUNK)])


def own_clip(model: str, weights_sha256: str, device: str | None) -> Encoder:
    """The CLIP of a model: the encoder whose embedding conditions it. No other network of the model is read.

    Raises:
        CheckpointError: the model is not found, or its CLIP is not whole.
        ConfigError: what the model says of itself cannot be.
    """
    clip = load_clip(model, dtype=torch.float32, device=device)
    return Encoder(
        "model's CLIP",
        weights_sha256,
        lambda frames: clip.embed(frames * 2 - 1)[:, 0],
        clip.proj.weight.device,
    )


def dino(path: Path, device: str | None) -> tuple[Encoder, Encoder]:
    """DINO from a file: as VBench's subject_consistency takes frames, and as its i2v_subject does.

    Raises:
        CheckpointError: no such file, or another network.
    """
    weights, sha256 = vit.read(path, vit.DINO, device), file_sha256(path)
    place = weights["cls_token"].device

    def encoder(prepare: Callable[[Tensor], Tensor]) -> Encoder:
        return Encoder("DINO", sha256, lambda frames: vit.features(weights, prepare(frames), vit.DINO), place)

    return encoder(dino_pixels), encoder(i2v_pixels)


def clip_b32(path: Path, device: str | None) -> Encoder:
    """OpenAI's CLIP ViT-B/32 from a file, as VBench's background_consistency takes frames.

    Raises:
        CheckpointError: no such file, or another network.
    """
    weights = vit.read(path, vit.CLIP_B32, device)

    def encode(frames: Tensor) -> Tensor:
        return vit.features(weights, clip_pixels(frames), vit.CLIP_B32)

    return Encoder("CLIP B/32", file_sha256(path), encode, weights["cls_token"].device)


def dino_pixels(frames: Tensor) -> Tensor:
    """The shorter side resized to 224, bilinear and not antialiased, nothing cut off; ImageNet's norm."""
    return _normalised(_resized(frames, 224, "bilinear", antialias=False), *IMAGENET)


def i2v_pixels(frames: Tensor) -> Tensor:
    """The shorter side resized to 256, bicubic and antialiased, the middle 224 x 224; ImageNet's norm."""
    return _normalised(_centre(_resized(frames, 256, "bicubic", antialias=True), 224), *IMAGENET)


def clip_pixels(frames: Tensor) -> Tensor:
    """The shorter side resized to 224, bicubic and not antialiased, the middle 224 x 224; CLIP's norm."""
    return _normalised(_centre(_resized(frames, 224, "bicubic", antialias=False), 224), MEAN, STD)


def _resized(frames: Tensor, short: int, mode: str, *, antialias: bool) -> Tensor:
    """Frames whose shorter side has ``short`` pixels; the longer one is rounded down, as torchvision does."""
    height, width = frames.shape[2:]
    long = short * max(height, width) // min(height, width)
    size = (short, long) if height <= width else (long, short)
    return F.interpolate(frames, size, mode=mode, align_corners=False, antialias=antialias)


def _centre(frames: Tensor, side: int) -> Tensor:
    top, left = (round((length - side) / 2) for length in frames.shape[2:])
    return frames[:, :, top : top + side, left : left + side]


def _normalised(frames: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    shift, scale = (torch.tensor(values).view(3, 1, 1).to(frames) for values in (mean, deviation))
    return (frames - shift) / scale
