"""Modules of diffusers, holding weights that are mapped from their file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vcut.config import SVDConfig
from weights_tools.configs import diffusers_files


def unet(path: Path) -> Any:
    """The UNet of the folder ``path``."""
    return _mapped("UNetSpatioTemporalConditionModel", path)


def vae(path: Path) -> Any:
    """The VAE of the folder ``path``."""
    return _mapped("AutoencoderKLTemporalDecoder", path)


def pipeline(config: SVDConfig, unet: Any, vae_path: Path, clip_path: Path) -> Any:
    """The pipeline around ``unet``, with the published model's scheduler."""
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")
    files = diffusers_files(config.to_dict())
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=vae(vae_path),
        image_encoder=transformers.CLIPVisionModelWithProjection.from_pretrained(clip_path, dtype=unet.dtype),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(files["scheduler/scheduler_config.json"]),
        feature_extractor=transformers.CLIPImageProcessor(
            **files["feature_extractor/preprocessor_config.json"]
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _mapped(name: str, path: Path) -> Any:
    kind = getattr(importlib.import_module("diffusers"), name)
    with torch.device("meta"):
        module = kind.from_config(kind.load_config(path))
    weights = load_file(path / "diffusion_pytorch_model.safetensors")
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval().requires_grad_(False)
