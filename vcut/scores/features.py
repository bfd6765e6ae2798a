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


@dataclass(frozen=True)
class Look:
    """Way from frames to a network's pixels: resized, if asked for cut to the middle 224 x 224, and normed."""

    # pixels of the shorter side; the longer one is rounded down, as torchvision does
    short: int
    mode: str
    antialias: bool
    crop: bool
    # of a channel in 0..1
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)

    def pixels(self, frames: Tensor) -> Tensor:
        """Pixels of ``frames``."""
        height, width = frames.shape[2:]
        long = self.short * max(height, width) // min(height, width)
        size = (self.short, long) if height <= width else (long, self.short)
        x = F.interpolate(frames, size, mode=self.mode, align_corners=False, antialias=self.antialias)
        if self.crop:
            top, left = (round((length - vit.SIDE) / 2) for length in size)
            x = x[:, :, top : top + vit.SIDE, left : left + vit.SIDE]
        mean, deviation = (x.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.deviation))
        return (x - mean) / deviation


SUBJECT = Look(224, "bilinear", antialias=False, crop=False)
"""Frames as VBench's subject_consistency shows them to DINO, with the norm of ImageNet."""

I2V = Look(256, "bicubic", antialias=True, crop=True)
"""Frames as VBench's i2v_subject shows them to DINO."""

BACKGROUND = Look(224, "bicubic", antialias=False, crop=True, mean=MEAN, deviation=STD)
"""Frames as VBench's background_consistency shows them to CLIP ViT-B/32."""


def own_clip(model: str, weights_sha256: str, device: str | None) -> Encoder:
    """The CLIP of a model: the encoder whose embedding conditions it. No other network of the model is read.

    Raises:
        CheckpointError: the model is not found, or its CLIP is not whole.
        ConfigError: what the model says of itself cannot be.
    """
    clip = load_clip(model, dtype=torch.float32, device=device)
    place = clip.proj.weight.device
    return Encoder("model's CLIP", weights_sha256, lambda frames: clip.embed(frames * 2 - 1)[:, 0], place)


def from_file(
    path: Path, network: vit.Architecture, looks: tuple[Look, ...], device: str | None
) -> list[Encoder]:
    """Encoders with the weights of a file, one for each way to show frames to the network.

    Raises:
        CheckpointError: no such file, or another network.
    """
    weights, sha256 = vit.read(path, network, device), file_sha256(path)

    def encoder(look: Look) -> Encoder:
        def encode(frames: Tensor) -> Tensor:
            return vit.features(weights, look.pixels(frames), network)

        return Encoder(network.label, sha256, encode, weights["cls_token"].device)

    return [encoder(look) for look in looks]
