"""Models of the published architecture so small that a whole run takes a fraction of a second."""

from __future__ import annotations

import dataclasses
from typing import Any

from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig
from vcut.loading import random_model
from vcut.pipeline import Pipeline

SMALL = SVDConfig(
    "small",
    unet=UNetConfig(
        levels=(Level(32, 2), Level(64, 4), Level(64, 4)), layers=1, context_dim=64, time_id_dim=32
    ),
    vae=VAEConfig(channels=(32, 32, 64, 64)),
    clip=CLIPConfig(image_size=224, patch_size=32, width=64, layers=2, heads=4, mlp_dim=256, embed_dim=64),
    frames=8,
    height=64,
    width=64,
)
"""Three levels and as many widths."""

MICRO = dataclasses.replace(
    SMALL,
    name="micro",
    unet=dataclasses.replace(SMALL.unet, levels=(Level(32, 2), Level(32, 2))),
    vae=dataclasses.replace(SMALL.vae, channels=(32, 32, 32, 32)),
    frames=3,
    height=32,
    width=32,
)
"""As small as it gets."""


def micro(preset: str = "vcut", **options: Any) -> Pipeline:
    """Seeded random weights: the same at every call."""
    return random_model(MICRO, preset=preset, **options)
