"""Settings that the stages of the training share: the small autoencoder, the seeds, the machine."""

from __future__ import annotations

import dataclasses

import torch

from vcut.config import TINY

SHALLOW = dataclasses.replace(TINY.vae, layers=0, temporal=False)
"""The autoencoder while it learns pictures. It is five times less work, and grows later without changing a result."""

TRAIN_SEED, HELD_OUT_SEED = 1, 2
"""Seeds of the scenes to learn from, and of those to be judged on."""


def settings() -> None:
    """Choose oneDNN's matrix products, which are faster than MKL's on most CPUs.

    Set MALLOC_MMAP_THRESHOLD_=33554432 and MALLOC_TRIM_THRESHOLD_=1073741824 as well: without them glibc returns
    every large tensor to the system, and the next one has to fault its pages in again.
    """
    torch.set_float32_matmul_precision("medium")
