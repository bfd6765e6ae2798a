"""The peers on the same weights: diffusers' own pipeline, alone, with DeepCache and with T-GATE.

Both are the code of their authors (DeepCache by Ma et al. 2023, T-GATE by Zhang et al. 2024), with the settings that
they give for Stable Video Diffusion; only the number that trades quality for time is chosen here. Pictures, seeds,
noise levels, guidance and micro-conditioning are those of a run of vcut.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from vcut.errors import VcutError
from vcut.settings import Run

Follow = Callable[[Run, Sequence[Tensor]], Tensor]
"""``follow(run, pictures [3, s, s] each) -> latents [b, f, c, h, w]``: a run of clips that all ask for the same."""

CLIP_SIZE = (224, 224)
"""Pixels that the pipeline brings a picture to before CLIP sees it."""


@dataclass(frozen=True)
class Peer:
    """A run of diffusers' pipeline, with one of the two methods at most.

    Attributes:
        interval: DeepCache computes the deep features at every so many steps; None is without it.
        gate: T-GATE's number of guided steps. Before it spatial and temporal self-attention is used again at most
            steps; after it cross-attention is the mean of both passes that was kept there. None is without it.
    """

    interval: int | None = None
    gate: int | None = None

    def bind(self, folder: Path) -> tuple[nn.Module, Follow]:
        """The UNet of a model in the layout of diffusers, and the function that runs the pipeline around it."""
        pipe = pipeline(folder)
        call: Callable[..., Any] = pipe
        if self.interval is not None:
            call = _deep_cached(pipe, self.interval)
        elif self.gate is not None:
            call = partial(_imported("tgate").TgateSVDLoader(pipe).tgate, gate_step=self.gate)

        def follow(run: Run, pictures: Sequence[Tensor]) -> Tensor:
            seed = run.settings.seed
            seeds = seed if isinstance(seed, tuple) else (seed,)
            latents: Tensor = call(
                torch.stack(list(pictures)),
                height=run.height,
                width=run.width,
                num_frames=run.frames,
                num_inference_steps=len(run.plan),
                min_guidance_scale=run.scales[0],
                max_guidance_scale=run.scales[-1],
                fps=run.fps,
                motion_bucket_id=run.motion_bucket,
                noise_aug_strength=run.settings.noise_aug,
                generator=[Generator().manual_seed(each) for each in seeds],
                output_type="latent",
            ).frames
            return latents

        return pipe.unet, follow


def check() -> None:
    """Import what all peers need.

    Raises:
        VcutError: some of it is not installed.
    """
    for name in ("diffusers", "transformers", "tgate", "DeepCache"):
        _imported(name)


def pipeline(folder: Path) -> Any:
    """The pipeline of a model in the layout of diffusers, which computes what vcut's baseline does.

    Two things are mended. diffusers builds the norms of some resnets with an eps of 1e-6, where the official code and
    the model's training have 1e-5. And it fits pictures to CLIP by itself only if they have 8 bits, which the scenes'
    first frames do not.
    """
    diffusers = _imported("diffusers")
    resize = _imported(diffusers.StableVideoDiffusionPipeline.__module__)._resize_with_antialiasing
    pipe = diffusers.StableVideoDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for block in pipe.unet.modules():
        if type(block).__name__ == "SpatioTemporalResBlock":
            for norm in block.modules():
                if isinstance(norm, nn.GroupNorm):
                    norm.eps = 1e-5
    encode = pipe._encode_image
    pipe._encode_image = lambda images, *more: encode((resize(images * 2 - 1, CLIP_SIZE) + 1) / 2, *more)
    return pipe


def _deep_cached(pipe: Any, interval: int) -> Callable[..., Any]:
    """The pipeline under DeepCache's helper, which each run starts afresh."""
    helper = _imported("DeepCache").DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)

    def call(*args: Any, **settings: Any) -> Any:
        helper.enable()
        try:
            return pipe(*args, **settings)
        finally:
            helper.disable()

    return call


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise VcutError(
            f'the peers need {name} ({error}): pip install "vcut-svd[bench]", or leave them out with --only'
        ) from error
