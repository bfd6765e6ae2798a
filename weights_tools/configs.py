"""The configuration files that go with the weights: vcut's, as a plain dict, and those of a diffusers checkpoint.

Shapes say almost everything. Numbers of attention heads they do not, nor what the model was trained for: those come
from the configuration that the source carries, or from what all published models have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights_tools.describe import Checkpoint
from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.structure import CLIPStructure, Structure, UNetStructure, VAEStructure

SCALE = 0.18215  # latents are multiplied by it before diffusion
_NAME = re.compile(r"(?:svd|img2vid)(?P<xt>[-_]xt)?(?P<version>[-_]1[-_.]1)?")


@dataclass(frozen=True)
class Hints:
    """What a checkpoint cannot say by itself; used where it carries no configuration."""

    head_dim: int = 64  # channels of a UNet attention head
    clip_head_dim: int = 80
    name: str | None = None


def configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """What ``vcut.config.SVDConfig.from_dict`` reads, for a whole checkpoint.

    A vcut file's own configuration is returned as it is (under ``hints.name`` if given), once it is found to agree
    with the tensors.

    Raises:
        CheckpointError: a network is missing, or the file's configuration and its tensors disagree.
        ConfigError: the heads do not divide the channels.
    """
    hints = hints or Hints()
    if checkpoint.missing_parts:
        raise CheckpointError(
            f"{checkpoint.path} is not a whole model: no {', '.join(checkpoint.missing_parts)}"
        )
    if checkpoint.config is not None:
        config = {**checkpoint.config, **({"name": hints.name} if hints.name else {})}
        _check_agreement(checkpoint, config)
        return config
    unet, vae, clip = (checkpoint.parts[part].structure for part in ("unet", "vae", "clip"))
    assert isinstance(unet, UNetStructure)
    assert isinstance(vae, VAEStructure)
    assert isinstance(clip, CLIPStructure)
    name = hints.name or guess_name(checkpoint)
    return {
        "name": name,
        "unet": _unet(unet, _unet_heads(unet, checkpoint, hints)),
        "vae": {
            "channels": list(vae.channels),
            "layers": vae.layers,
            "latent_channels": vae.latent_channels,
            "norm_groups": 32,
            "temporal": vae.temporal,
            "scale": SCALE,
        },
        "clip": {
            "image_size": clip.image_size,
            "patch_size": clip.patch_size,
            "width": clip.width,
            "layers": clip.layers,
            "heads": _clip_heads(clip, checkpoint, hints),
            "mlp_dim": clip.mlp_dim,
            "embed_dim": clip.embed_dim,
        },
        "frames": checkpoint.configs.get("unet", {}).get("num_frames", 14 if name == "svd" else 25),
        "height": 576,
        "width": 1024,
        "fps": 7,
        "motion_bucket": 127,
    }


def guess_name(checkpoint: Checkpoint) -> str:
    """``svd``, ``svd-xt`` or ``svd-xt-1-1``, by the name of the file or folder or the Hub's cache; else that name."""
    path = Path(checkpoint.path).absolute()
    for name in (path.name, *(part for part in path.parts if part.startswith("models--"))):
        if match := _NAME.search(name.lower()):
            return "svd" + ("-xt" if match["xt"] else "") + ("-1-1" if match["version"] else "")
    return path.stem


def folded_configuration(config: dict[str, Any], tca: Any, sca: Any) -> dict[str, Any]:
    """``config`` with other forms of the cross-attentions."""
    return {**config, "unet": {**config["unet"], "tca": tca, "sca": sca}}


def diffusers_files(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The JSON files of a diffusers checkpoint, by their paths in it, from vcut's configuration.

    Raises:
        ConfigError: a network that diffusers cannot build.
    """
    unet, vae, clip = config["unet"], config["vae"], config["clip"]
    if unet["norm_groups"] != 32 or vae["norm_groups"] != 32:
        raise ConfigError(
            f"diffusers builds its norms with 32 groups; this model has {unet['norm_groups']} in the unet and "
            f"{vae['norm_groups']} in the vae"
        )
    vae_class = "AutoencoderKLTemporalDecoder" if vae["temporal"] else "AutoencoderKL"
    down = ["CrossAttnDown" if level["attention"] else "Down" for level in unet["levels"]]
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    n = len(vae["channels"])
    return {
        "model_index.json": {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", vae_class],
        },
        "unet/config.json": {
            "_class_name": "UNetSpatioTemporalConditionModel",
            "in_channels": unet["in_channels"],
            "out_channels": unet["out_channels"],
            "block_out_channels": [level["channels"] for level in unet["levels"]],
            "num_attention_heads": [level["heads"] for level in unet["levels"]],
            "down_block_types": [f"{kind}BlockSpatioTemporal" for kind in down],
            "up_block_types": [f"{kind}BlockSpatioTemporal" for kind in up],
            "layers_per_block": unet["layers"],
            "transformer_layers_per_block": unet["depth"],
            "cross_attention_dim": unet["context_dim"],
            "addition_time_embed_dim": unet["time_id_dim"],
            "projection_class_embeddings_input_dim": unet["time_ids"] * unet["time_id_dim"],
            "num_frames": config["frames"],
            "sample_size": 96,
        },
        "vae/config.json": {
            "_class_name": vae_class,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": list(vae["channels"]),
            "down_block_types": ["DownEncoderBlock2D"] * n,
            **({} if vae["temporal"] else {"up_block_types": ["UpDecoderBlock2D"] * n}),
            "layers_per_block": vae["layers"],
            "latent_channels": vae["latent_channels"],
            "sample_size": 768,
            "scaling_factor": vae["scale"],
            "force_upcast": True,
        },
        "image_encoder/config.json": {
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
            "hidden_act": "gelu",
            "hidden_size": clip["width"],
            "image_size": clip["image_size"],
            "intermediate_size": clip["mlp_dim"],
            "layer_norm_eps": 1e-05,
            "num_attention_heads": clip["heads"],
            "num_channels": 3,
            "num_hidden_layers": clip["layers"],
            "patch_size": clip["patch_size"],
            "projection_dim": clip["embed_dim"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "sigma_max": 700.0,
            "sigma_min": 0.002,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "timestep_type": "continuous",
            "use_karras_sigmas": True,
        },
        "feature_extractor/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "feature_extractor_type": "CLIPFeatureExtractor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": clip["image_size"]},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": clip["image_size"], "width": clip["image_size"]},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    }


def _unet(s: UNetStructure, heads: list[int]) -> dict[str, Any]:
    return {
        "in_channels": s.in_channels,
        "out_channels": s.out_channels,
        "levels": [
            {"channels": channels, "heads": n, "attention": attention}
            for channels, n, attention in zip(s.channels, heads, s.attention, strict=True)
        ],
        "layers": s.layers,
        "depth": s.depth,
        "context_dim": s.context_dim,
        "time_ids": 3,
        "time_id_dim": s.label_dim // 3,
        "norm_groups": 32,
        "tca": s.tca,
        "sca": s.sca,
        "diffusers_norm_eps": False,
    }


def _unet_heads(s: UNetStructure, checkpoint: Checkpoint, hints: Hints) -> list[int]:
    said = checkpoint.configs.get("unet", {}).get("num_attention_heads")
    if said is not None:
        return [said] * len(s.channels) if isinstance(said, int) else list(said)
    if any(channels % hints.head_dim for channels in s.channels):
        raise ConfigError(
            f"the UNet's channels {list(s.channels)} do not divide into heads of {hints.head_dim}: say the head size "
            "(--head-dim)"
        )
    return [channels // hints.head_dim for channels in s.channels]


def _clip_heads(s: CLIPStructure, checkpoint: Checkpoint, hints: Hints) -> int:
    said = checkpoint.configs.get("clip", {}).get("num_attention_heads")
    if said is not None:
        return int(said)
    if s.width % hints.clip_head_dim:
        raise ConfigError(
            f"CLIP's width {s.width} does not divide into heads of {hints.clip_head_dim}: say the head size "
            "(--clip-head-dim)"
        )
    return s.width // hints.clip_head_dim


def _check_agreement(checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    for part, description in checkpoint.parts.items():
        for field, found in _shape_fields(description.structure).items():
            said = config.get(part, {}).get(field, found)
            if said != found:
                raise CheckpointError(
                    f"{checkpoint.path}: its configuration says {part}.{field} = {said}, its tensors {found}"
                )


def _shape_fields(s: Structure) -> dict[str, Any]:
    """The fields of vcut's configuration of one network that shapes decide."""
    if isinstance(s, UNetStructure):
        full = _unet(s, [0] * len(s.channels))
        return {
            k: full[k]
            for k in ("in_channels", "out_channels", "layers", "depth", "context_dim", "tca", "sca")
        }
    if isinstance(s, VAEStructure):
        return {"channels": list(s.channels), "layers": s.layers, "temporal": s.temporal}
    return {"width": s.width, "layers": s.layers, "mlp_dim": s.mlp_dim, "embed_dim": s.embed_dim}
