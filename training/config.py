"""The configuration that is trained here, and the settings of the machine for it."""

from __future__ import annotations

import dataclasses

import torch

from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig

CONFIG = SVDConfig(
    "tiny",
    unet=UNetConfig(
        levels=(Level(64, 4, attention=False), Level(96, 4)),
        layers=1,
        context_dim=64,
        time_id_dim=32,
    ),
    vae=VAEConfig(channels=(64, 64, 64), layers=2),
    clip=CLIPConfig(image_size=224, patch_size=28, width=64, layers=3, heads=4, mlp_dim=256, embed_dim=64),
    frames=14,
    height=64,
    width=64,
    fps=12,
)
"""The model that is trained: 64x64 pixels, 14 frames. It takes the place of ``vcut.config.TINY`` once it is better.

A latent is 4x4 pixels, not 8x8: a shape's place is wanted to a pixel. At 16x16 latents the UNet has resnets alone,
and at 8x8 it has transformers: over the 3,584 latents of a clip they would take two thirds of the time.
"""

SHALLOW = dataclasses.replace(CONFIG.vae, layers=0, temporal=False)
"""The autoencoder while it learns pictures. It is five times less work, and grows later without changing a result."""

TRAIN_SEED, HELD_OUT_SEED = 1, 2
"""Seeds of the scenes to learn from, and of those to be judged on."""


def settings() -> None:
    """Choose oneDNN's matrix products, which are faster than MKL's on most CPUs.

    Set MALLOC_MMAP_THRESHOLD_=33554432 and MALLOC_TRIM_THRESHOLD_=1073741824 as well: without them glibc returns
    every large tensor to the system, and the next one has to fault its pages in again.
    """
    torch.set_float32_matmul_precision("medium")
