"""Configurations of models (:mod:`weights_tools.model`); the published ones; the presets.

Only the three networks and the pipeline read these. Blocks take plain numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from vcut.errors import ConfigError
from weights_tools.model import (
    CLIPConfig,
    Level,
    Mode,
    SVDConfig,
    UNetConfig,
    VAEConfig,
    check_mode,
    number,
    whole_number,
)

__all__ = [
    "CONFIGS",
    "LARGEST",
    "PRESETS",
    "SVD",
    "SVD_XT",
    "SVD_XT_1_1",
    "TINY",
    "CLIPConfig",
    "Defaults",
    "Fit",
    "Level",
    "Mode",
    "Preset",
    "SVDConfig",
    "Sampler",
    "SigmaName",
    "UNetConfig",
    "VAEConfig",
    "check_mode",
    "choose_preset",
    "number",
    "whole_number",
]

Fit = Literal["crop", "resize", "pad"]
"""Way in which a picture of another shape becomes a frame: fill it and cut, squash, or put it between black bars."""

Sampler = Literal["euler", "heun", "dpmpp_2m", "lcm"]
"""Way from one noise level to the next; :func:`vcut.sampling.sample` explains each."""

SigmaName = Literal["karras", "ays"]
"""Name of a schedule of noise levels; :func:`vcut.sampling.named_sigmas` explains each."""

Defaults = Literal["paper", "official", "fast"]
"""Name of the settings that a run starts from; :func:`vcut.settings.defaults` explains each."""

LARGEST = 10_000
"""Largest number of frames, steps, clips or pixels a side that is taken: more is a slip of the hand."""

SVD = SVDConfig("svd", frames=14)
SVD_XT = SVDConfig("svd-xt", frames=25)
SVD_XT_1_1 = SVDConfig("svd-xt-1-1", frames=25)
TINY = SVDConfig(
    "tiny",
    unet=UNetConfig(
        levels=(Level(64, 4, attention=False), Level(96, 4)),
        layers=1,
        context_dim=64,
        time_id_dim=32,
    ),
    vae=VAEConfig(channels=(64, 64, 64), layers=2, scale=0.50851),
    clip=CLIPConfig(image_size=224, patch_size=28, width=64, layers=3, heads=4, mlp_dim=256, embed_dim=64),
    frames=14,
    height=64,
    width=64,
    fps=12,
)
"""The trained model in the box (docs/tiny.md): the same architecture at a size that runs anywhere in seconds.

Widths: 32 groups, which the published models have and diffusers insists on, need at least 64 channels. With one
channel in a group, a norm takes every channel's mean away: pictures of one flat colour all decode to the same. Two
layers in the VAE and 224 pixels for CLIP are also what diffusers insists on.

A latent is 4x4 pixels, not 8x8: a shape's place is wanted to a pixel. At 16x16 latents the UNet has resnets alone,
and at 8x8 it has transformers: over the 3,584 latents of a clip they would take two thirds of the time.
"""

CONFIGS = {config.name: config for config in (TINY, SVD, SVD_XT, SVD_XT_1_1)}


PresetName = Literal["baseline", "lossless", "vcut", "fast"]


@dataclass(frozen=True)
class Preset:
    """A form of the cross-attentions, where guidance stops, and the settings that a run starts from."""

    name: str
    tca: Mode
    sca: Mode
    guided_fraction: float = 1.0  # of the steps, before the cut
    defaults: Defaults = "paper"  # by name: vcut.settings.defaults

    @property
    def lossy(self) -> bool:
        """Whether the form leaves out a cross-attention that the published model has."""
        return self.tca is False or self.sca is False

    @property
    def form(self) -> str:
        """The cross-attentions in words."""
        parts = {"temporal": self.tca, "spatial": self.sca}
        dropped = " and ".join(name for name, mode in parts.items() if mode is False)
        if dropped:
            return f"{dropped} cross-attention dropped"
        return "as published" if self.tca is self.sca is True else "cross-attentions cached"

    def cut_step(self, steps: int) -> int:
        """The first step without guidance, counted from 1; ``steps + 1`` when there is none."""
        return round(steps * self.guided_fraction) + 1


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("baseline", tca=True, sca=True),
        Preset("lossless", tca="linear_cached", sca="linear_cached"),
        Preset("vcut", tca=False, sca="linear_cached", guided_fraction=16 / 25),
        Preset("fast", tca="linear_cached", sca="linear_cached", defaults="fast"),
    )
}
"""The presets by name."""


def choose_preset(preset: str | Preset, tca: Mode | None = None, sca: Mode | None = None) -> Preset:
    """Find the preset, with other modes of its cross-attentions where ``tca`` or ``sca`` are given.

    A preset whose modes were replaced has a star behind its name.

    Raises:
        ConfigError: there is no such preset, or no such mode.
    """
    if not isinstance(preset, Preset):
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    tca = preset.tca if tca is None else tca
    sca = preset.sca if sca is None else sca
    check_mode("tca", tca)
    check_mode("sca", sca)
    if (tca, sca) == (preset.tca, preset.sca):
        return preset
    return dataclasses.replace(preset, name=f"{preset.name}*", tca=tca, sca=sca)
