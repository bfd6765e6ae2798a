"""A model of the published architecture so small that a whole run takes a fraction of a second."""

from __future__ import annotations

from typing import Any

from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig
from vcut.loading import random_model
from vcut.pipeline import Pipeline

MICRO = SVDConfig(
    "micro",
    unet=UNetConfig(levels=(Level(32, 2), Level(32, 2)), layers=1, context_dim=64, time_id_dim=32),
    vae=VAEConfig(channels=(32, 32, 32, 32)),
    clip=CLIPConfig(image_size=224, patch_size=32, width=64, layers=2, heads=4, mlp_dim=256, embed_dim=64),
    frames=3,
    height=32,
    width=32,
)


def micro(preset: str = "vcut", **options: Any) -> Pipeline:
    """Seeded random weights: the same at every call."""
    return random_model(MICRO, preset=preset, **options)
