"""The diffusers and transformers modules of a vcut configuration, holding the same weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from vcut.config import SVDConfig
from vcut.pipeline import Pipeline
from weights_tools.remap import to_layout
from weights_tools.structure import Part


def unet(config: SVDConfig) -> UNetSpatioTemporalConditionModel:
    levels = config.unet.levels
    kinds = ["CrossAttn" if level.attention else "" for level in levels]
    return UNetSpatioTemporalConditionModel(
        sample_size=None,
        in_channels=config.unet.in_channels,
        out_channels=config.unet.out_channels,
        down_block_types=[f"{kind}DownBlockSpatioTemporal" for kind in kinds],
        up_block_types=[f"{kind}UpBlockSpatioTemporal" for kind in reversed(kinds)],
        block_out_channels=[level.channels for level in levels],
        num_attention_heads=[level.heads for level in levels],
        addition_time_embed_dim=config.unet.time_id_dim,
        projection_class_embeddings_input_dim=config.unet.time_ids * config.unet.time_id_dim,
        layers_per_block=config.unet.layers,
        cross_attention_dim=config.unet.context_dim,
        num_frames=config.frames,
    )


def vae(config: SVDConfig) -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        down_block_types=["DownEncoderBlock2D"] * len(config.vae.channels),
        block_out_channels=list(config.vae.channels),
        layers_per_block=config.vae.layers,
        latent_channels=config.vae.latent_channels,
        scaling_factor=config.vae.scale,
    )


def clip(config: SVDConfig) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=config.clip.width,
            intermediate_size=config.clip.mlp_dim,
            projection_dim=config.clip.embed_dim,
            num_hidden_layers=config.clip.layers,
            num_attention_heads=config.clip.heads,
            image_size=config.clip.image_size,
            patch_size=config.clip.patch_size,
            hidden_act="gelu",
        )
    )


def with_weights_of(peer: Any, ours: nn.Module, part: Part) -> Any:
    """``peer`` holding ``ours``'s weights, every one of them."""
    state = to_layout(ours.state_dict(), part, "diffusers")
    buffers = {name for name, _ in peer.named_buffers()}
    assert state.keys() == peer.state_dict().keys() - buffers
    peer.load_state_dict(state, strict=False)
    return peer.to(next(ours.parameters()).dtype).eval()


def pipeline(ours: Pipeline) -> StableVideoDiffusionPipeline:
    config = ours.config
    return StableVideoDiffusionPipeline(
        vae=with_weights_of(vae(config), ours.vae, "vae"),
        image_encoder=with_weights_of(clip(config), ours.clip, "clip"),
        unet=with_weights_of(unet(config), ours.unet, "unet"),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            interpolation_type="linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(
            crop_size={"height": config.clip.image_size, "width": config.clip.image_size},
            size={"shortest_edge": config.clip.image_size},
            resample=3,
        ),
    )


def seeded(module: type[nn.Module], config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return module(config).eval()
