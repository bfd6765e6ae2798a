"""The few numbers per network that distinguish one checkpoint's tensors from another's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weights_tools.model import Mode

Part = Literal["unet", "vae", "clip"]
Layout = Literal["vcut", "sgm", "diffusers"]

PARTS: tuple[Part, ...] = ("unet", "vae", "clip")
LAYOUTS: tuple[Layout, ...] = ("vcut", "sgm", "diffusers")


@dataclass(frozen=True)
class UNetStructure:
    """The UNet. One entry of ``channels`` and ``attention`` per level, from the highest resolution down."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    layers: int = 2  # per level going down; one more going up
    depth: int = 1  # blocks per transformer
    in_channels: int = 8
    out_channels: int = 4
    context_dim: int = 1024
    label_dim: int = 768  # 3 numbers, 256 sinusoids each
    tca: Mode = True
    sca: Mode = True


@dataclass(frozen=True)
class VAEStructure:
    """The autoencoder; ``temporal`` is false for the image decoder."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2  # per level in the encoder; one more in the decoder
    latent_channels: int = 4
    temporal: bool = True


@dataclass(frozen=True)
class CLIPStructure:
    """The CLIP vision tower; ``tokens`` is 1 (the class) plus the number of patches."""

    width: int = 1280
    layers: int = 32
    mlp_dim: int = 5120
    embed_dim: int = 1024
    patch_size: int = 14
    tokens: int = 257

    @property
    def image_size(self) -> int:
        """Pixels along a side."""
        return self.patch_size * round((self.tokens - 1) ** 0.5)


Structure = UNetStructure | VAEStructure | CLIPStructure

PUBLISHED: dict[Part, Structure] = {"unet": UNetStructure(), "vae": VAEStructure(), "clip": CLIPStructure()}
"""Structures of every published checkpoint, except those with an image decoder."""


def reformed(structure: Structure, tca: Mode | None, sca: Mode | None) -> Structure:
    """The same structure with other modes of a UNet's cross-attentions, where they are given."""
    if not isinstance(structure, UNetStructure):
        return structure
    tca, sca = structure.tca if tca is None else tca, structure.sca if sca is None else sca
    return replace(structure, tca=tca, sca=sca)
