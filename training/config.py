"""The configuration that is trained here, and the machine's settings for doing it."""

from __future__ import annotations

import dataclasses

import torch

from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig

CONFIG = SVDConfig(
    "tiny",
    unet=UNetConfig(
        in_channels=16,
        out_channels=8,
        levels=(Level(64, 4), Level(64, 4)),
        layers=1,
        context_dim=64,
        time_id_dim=32,
    ),
    vae=VAEConfig(channels=(64, 64, 64, 64), layers=2, latent_channels=8),
    clip=CLIPConfig(image_size=224, patch_size=28, width=48, layers=2, heads=4, mlp_dim=192, embed_dim=64),
    frames=8,
    height=32,
    width=32,
)
"""Widths: 32 groups, which the published models have and diffusers insists on, need at least 64 channels. With one
channel in a group, a norm takes every channel's mean away: pictures of one flat colour all decode to the same.
Two layers in the VAE and 224 pixels for CLIP are also what diffusers insists on."""

SHALLOW = dataclasses.replace(CONFIG.vae, layers=0, temporal=False)
"""The autoencoder while it learns pictures: five times less work, and then grown without changing a result."""

TRAIN_SEED, HELD_OUT_SEED = 1, 2
"""Of the scenes to learn from, and of those to be judged on."""


def settings() -> None:
    """What training is run with: oneDNN's matrix products, faster than MKL's on most CPUs.

    Set MALLOC_MMAP_THRESHOLD_=33554432 and MALLOC_TRIM_THRESHOLD_=1073741824 as well: without them glibc gives
    every large tensor back to the system and faults its pages in again.
    """
    torch.set_float32_matmul_precision("medium")
