"""The configuration that is trained here, and the machine's settings for doing it."""

from __future__ import annotations

import dataclasses

import torch

from vcut.config import TINY

CONFIG = TINY
"""What is trained: the model in the box."""

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
