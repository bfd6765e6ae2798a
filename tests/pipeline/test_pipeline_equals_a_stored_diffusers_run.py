"""All 25 steps and the frames equal numbers that diffusers' pipeline computed on the same weights.

What reaches CLIP, the VAE and the UNet, and in which scale, is decided in a few lines of the pipeline; each fault in
them shows here.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens_io import relative_error
from pipeline_golden import FILE, SEED, micro_like_diffusers, picture
from safetensors.torch import load_file
from torch import Tensor

from vcut.config import PRESETS
from vcut.sampling import Record
from vcut.unet import fold

TOLERANCE = 2e-5
"""Relative, float32 throughout: 25 steps add up rounding of two different orders of summation."""


@pytest.mark.parametrize("preset", ["baseline", "lossless"])
def test_every_step(preset: str) -> None:
    stored = load_file(FILE)
    form = PRESETS[preset]
    pipe = micro_like_diffusers()
    pipe = dataclasses.replace(pipe, unet=fold(pipe.unet, tca=form.tca, sca=form.sca), preset=form)
    states: list[Tensor] = []

    def keep(record: Record) -> None:
        states.append(record.latents.clone())

    frames = pipe.generate(picture(), seed=SEED, callback=keep, decode_chunk=None)
    assert len(states) == len(stored["latents"]) == 25
    for step, (state, expected) in enumerate(zip(states, stored["latents"], strict=True), start=1):
        assert relative_error(state, expected) < TOLERANCE, f"step {step}"
    assert relative_error(frames, stored["frames"]) < TOLERANCE
    assert torch.isfinite(frames).all()
