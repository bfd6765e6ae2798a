"""Given the same weights, picture and noise, every step of the whole pipeline equals diffusers' own pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import peers
import pipeline_golden
import pytest
import torch
from goldens_io import relative_error
from micro import SMALL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vcut.clip import CLIPVisionEncoder
from vcut.config import PRESETS
from vcut.pipeline import Pipeline
from vcut.sampling import Record
from vcut.unet import UNet, fold
from vcut.vae import VAE

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5
"""Relative, float32 throughout: 25 steps add up rounding of two different orders of summation."""


@pytest.fixture(scope="module")
def ours() -> Pipeline:
    config = dataclasses.replace(SMALL, unet=dataclasses.replace(SMALL.unet, diffusers_norm_eps=True))
    return Pipeline(
        unet=peers.seeded(UNet, config.unet, seed=1),
        vae=peers.seeded(VAE, config.vae, seed=2),
        clip=peers.seeded(CLIPVisionEncoder, config.clip, seed=3),
        config=config,
        preset=PRESETS["baseline"],
    )


def picture(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def theirs_step_by_step(
    ours: Pipeline, image: Any, seed: int, **settings: Any
) -> tuple[list[Tensor], Tensor]:
    pipe = peers.pipeline(ours)
    pipe.set_progress_bar_config(disable=True)
    states: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return tensors

    generator = torch.Generator().manual_seed(seed)
    frames = pipe(image, generator=generator, output_type="pt", callback_on_step_end=keep, **settings).frames
    return states, frames[0]


def ours_step_by_step(pipe: Pipeline, image: Any, seed: int, **settings: Any) -> tuple[list[Tensor], Tensor]:
    states: list[Tensor] = []

    def keep(record: Record) -> None:
        states.append(record.latents.clone())

    return states, pipe.generate(image, seed=seed, callback=keep, decode_chunk=None, **settings)


@pytest.mark.parametrize("preset", ["baseline", "lossless"])
def test_every_step_of_the_default_run(ours: Pipeline, preset: str) -> None:
    form = PRESETS[preset]
    pipe = dataclasses.replace(ours, unet=fold(ours.unet, tca=form.tca, sca=form.sca), preset=form)
    got, frames = ours_step_by_step(pipe, picture(5), seed=42)
    expected, their_frames = theirs_step_by_step(ours, picture(5), seed=42, height=64, width=64)
    assert len(got) == len(expected) == 25
    for step, (a, b) in enumerate(zip(got, expected, strict=True), start=1):
        assert relative_error(a, b) < TOLERANCE, f"step {step}"
    assert relative_error(frames, their_frames) < TOLERANCE


def test_other_settings_and_another_shape(ours: Pipeline) -> None:
    """Not square, another frame count, other numbers for every knob."""
    got, frames = ours_step_by_step(
        ours,
        picture(6, 32, 96),
        seed=7,
        height=32,
        width=96,
        frames=5,
        steps=6,
        fps=12,
        motion_bucket=40,
        noise_aug=0.3,
        guidance=(1.5, 2.0),
    )
    expected, their_frames = theirs_step_by_step(
        ours,
        picture(6, 32, 96),
        seed=7,
        height=32,
        width=96,
        num_frames=5,
        num_inference_steps=6,
        fps=12,
        motion_bucket_id=40,
        noise_aug_strength=0.3,
        min_guidance_scale=1.5,
        max_guidance_scale=2.0,
    )
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) < TOLERANCE
    assert relative_error(frames, their_frames) < TOLERANCE


def test_the_cut_differs_from_diffusers_from_the_cut_step_on(ours: Pipeline) -> None:
    """The control: an approximation is seen as one."""
    got, _ = ours_step_by_step(ours, picture(5), seed=42, cut=17)
    expected, _ = theirs_step_by_step(ours, picture(5), seed=42, height=64, width=64)
    for step, (a, b) in enumerate(zip(got, expected, strict=True), start=1):
        assert (relative_error(a, b) < TOLERANCE) == (step < 17), f"step {step}"


def as_pil() -> Image.Image:
    """The stored run's picture. diffusers does not resize a tensor for CLIP."""
    return Image.fromarray((pipeline_golden.picture()[0] * 255).round().byte().permute(1, 2, 0).numpy())


def test_the_stored_run_is_what_diffusers_computes() -> None:
    """``tests/data/pipeline_micro.safetensors``, which the default tests compare with."""
    stored = load_file(pipeline_golden.FILE)
    pipe = pipeline_golden.micro_like_diffusers()
    states, frames = theirs_step_by_step(pipe, as_pil(), pipeline_golden.SEED, height=32, width=32)
    assert relative_error(torch.stack(states), stored["latents"]) < TOLERANCE
    assert relative_error(frames, stored["frames"]) < TOLERANCE
