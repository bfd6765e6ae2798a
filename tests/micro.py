"""A model of the published architecture so small that a whole run takes a fraction of a second."""

from __future__ import annotations

import dataclasses
from typing import Any

import vcut
from vcut.config import TINY, Level
from vcut.pipeline import Pipeline

MICRO = dataclasses.replace(
    TINY,
    name="micro",
    unet=dataclasses.replace(TINY.unet, levels=(Level(32, 2), Level(32, 2))),
    vae=dataclasses.replace(TINY.vae, channels=(32, 32, 32, 32)),
    frames=3,
    height=32,
    width=32,
)


def micro(preset: str = "vcut", **options: Any) -> Pipeline:
    """Seeded random weights: the same at every call."""
    return vcut.load("tiny", preset=preset, config=MICRO, **options)
