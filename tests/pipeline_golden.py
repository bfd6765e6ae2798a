"""The run stored in ``data/pipeline_micro.safetensors``: its model, picture and seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from micro import MICRO
from torch import Tensor

from vcut.loading import random_model
from vcut.pipeline import Pipeline

FILE = Path(__file__).parent / "data" / "pipeline_micro.safetensors"
SEED = 42


def micro_like_diffusers() -> Pipeline:
    """The micro model with the norm eps of diffusers, and seeded weights."""
    unet = dataclasses.replace(MICRO.unet, diffusers_norm_eps=True)
    return random_model(dataclasses.replace(MICRO, unet=unet), preset="baseline")


def picture() -> Tensor:
    """``[1, 3, 32, 32]`` in 0..1, smooth and different in each channel; exact in 8 bits."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    channels = [(7 * x + 3 * y) % 256, (2 * x + 5 * y + 60) % 256, 255 - 4 * x - 3 * y]
    return torch.stack(channels).clamp(0, 255).float()[None] / 255
