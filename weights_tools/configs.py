"""The configuration files that go with the weights: vcut's, as a plain dict, and those of a diffusers checkpoint.

Shapes say almost everything, except the numbers of attention heads and what the model was trained for. Those come
from the configuration that the source carries, or from what all published models have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weights_tools.checkpoint import SETTINGS, Checkpoint
from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.structure import PARTS, CLIPStructure, Part, Structure, UNetStructure, VAEStructure

SCALE = 0.18215  # latents are multiplied by it before diffusion
_NAME = re.compile(r"(?:svd|img2vid)(?P<xt>[-_]xt)?(?P<version>[-_]1[-_.]1)?")

DIFFUSERS_FILES = (
    SETTINGS,
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
)
"""The names of :func:`diffusers_files`."""

_SETTINGS = ("height", "width", "fps", "motion_bucket")


@dataclass(frozen=True)
class Hints:
    """Settings that a checkpoint cannot say by itself; used where it carries no configuration."""

    head_dim: int = 64  # channels of a UNet attention head
    clip_head_dim: int = 80
    name: str | None = None


def configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """The configuration of a whole checkpoint, as ``vcut.config.SVDConfig.from_dict`` reads it.

    The configuration of a file that vcut wrote is returned as it is (under ``hints.name`` if given), once it is found
    to agree with the tensors.

    Raises:
        CheckpointError: a network is missing, or what the checkpoint says of itself is ill-formed or disagrees with
            its tensors.
        ConfigError: the heads do not divide the channels, or the norms have not 32 groups.
    """
    hints = hints or Hints()
    if checkpoint.missing_parts:
        raise CheckpointError(
            f"{checkpoint.path} is not a whole model: no {', '.join(checkpoint.missing_parts)}"
        )
    if checkpoint.config is not None:
        config = {**checkpoint.config, **({"name": hints.name} if hints.name else {})}
        _check_agreement(checkpoint, config, PARTS)
        return config
    unet, vae, clip = (checkpoint.parts[part].structure for part in ("unet", "vae", "clip"))
    assert isinstance(unet, UNetStructure)
    assert isinstance(vae, VAEStructure)
    assert isinstance(clip, CLIPStructure)
    _check_groups(checkpoint, PARTS)
    settings = _settings(checkpoint)
    name = hints.name or settings.pop("name", None) or guess_name(checkpoint)
    return {
        "name": name,
        "unet": _unet(unet, checkpoint, hints),
        "vae": {
            "channels": list(vae.channels),
            "layers": vae.layers,
            "latent_channels": vae.latent_channels,
            "norm_groups": 32,
            "temporal": vae.temporal,
            "scale": _scale(checkpoint),
        },
        "clip": _clip(clip, checkpoint, hints),
        "frames": _count(checkpoint, "unet", "num_frames", 14 if name == "svd" else 25),
        "height": 576,
        "width": 1024,
        "fps": 7,
        "motion_bucket": 127,
        **settings,
    }


def unet_configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """The configuration of the UNet alone, from a whole checkpoint or from one that has no other network.

    Raises:
        CheckpointError: there is no UNet, or what is said of it is ill-formed or disagrees with its tensors.
        ConfigError: the heads do not divide the channels, or the norms have not 32 groups.
    """
    structure = checkpoint.complete("unet").structure
    assert isinstance(structure, UNetStructure)
    if checkpoint.config is not None:
        _check_agreement(checkpoint, checkpoint.config, ["unet"])
        return dict(checkpoint.config["unet"])
    _check_groups(checkpoint, ["unet"])
    return _unet(structure, checkpoint, hints or Hints())


def clip_configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """The configuration of CLIP alone, from a whole checkpoint or from one that has no other network.

    Raises:
        CheckpointError: there is no CLIP, or what is said of it is ill-formed or disagrees with its tensors.
        ConfigError: the heads do not divide the width.
    """
    structure = checkpoint.complete("clip").structure
    assert isinstance(structure, CLIPStructure)
    if checkpoint.config is not None:
        _check_agreement(checkpoint, checkpoint.config, ["clip"])
        return dict(checkpoint.config["clip"])
    return _clip(structure, checkpoint, hints or Hints())


def guess_name(checkpoint: Checkpoint) -> str:
    """The published name in a path or in that of the Hub's cache, such as ``svd-xt``; else the file's own name."""
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

    One of them, :data:`~weights_tools.checkpoint.SETTINGS`, is vcut's own; diffusers does not look at it.

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
        SETTINGS: {key: config[key] for key in ("name", *_SETTINGS)},
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


def _unet(s: UNetStructure, checkpoint: Checkpoint, hints: Hints) -> dict[str, Any]:
    heads = _unet_heads(s, checkpoint, hints)
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
        heads = said if isinstance(said, list) else [said] * len(s.channels)
        if len(heads) != len(s.channels) or not all(_counts(n) for n in heads):
            raise _ill_formed(
                checkpoint, "unet", "num_attention_heads", f"a number or {len(s.channels)} numbers", said
            )
        return heads
    if any(channels % hints.head_dim for channels in s.channels):
        raise ConfigError(
            f"the UNet's channels {list(s.channels)} do not divide into heads of {hints.head_dim}: "
            "say how many channels each head has, with "
            f"{_advice(checkpoint, '--head-dim N')}"
        )
    return [channels // hints.head_dim for channels in s.channels]


def _clip(s: CLIPStructure, checkpoint: Checkpoint, hints: Hints) -> dict[str, Any]:
    return {
        "image_size": s.image_size,
        "patch_size": s.patch_size,
        "width": s.width,
        "layers": s.layers,
        "heads": _clip_heads(s, checkpoint, hints),
        "mlp_dim": s.mlp_dim,
        "embed_dim": s.embed_dim,
    }


def _clip_heads(s: CLIPStructure, checkpoint: Checkpoint, hints: Hints) -> int:
    if said := _count(checkpoint, "clip", "num_attention_heads", 0):
        return said
    if s.width % hints.clip_head_dim:
        raise ConfigError(
            f"CLIP's width {s.width} does not divide into heads of {hints.clip_head_dim}: "
            "say how many channels each head has, with "
            f"{_advice(checkpoint, '--clip-head-dim N')}"
        )
    return s.width // hints.clip_head_dim


def _advice(checkpoint: Checkpoint, option: str) -> str:
    """The way to say a number of heads that nothing else says. Only whole models can be converted."""
    if checkpoint.missing_parts:
        return "load_unet(..., config=UNetConfig(...))"
    return (
        f"`python -m weights_tools convert {checkpoint.path} OUT.safetensors --to vcut {option}`, and use OUT"
    )


def _counts(value: object) -> bool:
    return type(value) is int and value > 0


def _count(checkpoint: Checkpoint, part: Part, field: str, default: int) -> int:
    """A positive number from a config.json, or ``default`` where it is not said."""
    said = checkpoint.configs.get(part, {}).get(field)
    if said is None:
        return default
    if not _counts(said):
        raise _ill_formed(checkpoint, part, field, "a positive number", said)
    return int(said)


def _scale(checkpoint: Checkpoint) -> float:
    said = checkpoint.configs.get("vae", {}).get("scaling_factor")
    if said is None:
        return SCALE
    if not isinstance(said, (int, float)) or isinstance(said, bool) or not 0 < said < float("inf"):
        raise _ill_formed(checkpoint, "vae", "scaling_factor", "a positive number", said)
    return said


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Name, size and rates from the folder's own settings file, so far as it has them."""
    said = {key: value for key, value in checkpoint.settings.items() if key in ("name", *_SETTINGS)}
    for key, value in said.items():
        fits = isinstance(value, str) if key == "name" else type(value) is int and value >= 0
        expected = "a text" if key == "name" else "a whole number of at least 0"
        if not fits:
            raise CheckpointError(f"{checkpoint.path / SETTINGS}: {key} is {value!r}, expected {expected}")
    return said


def _check_groups(checkpoint: Checkpoint, parts: Iterable[Part]) -> None:
    """Raise unless the norms have 32 groups: tensors do not show it, and others give wrong pictures silently."""
    for part in parts:
        if (said := checkpoint.configs.get(part, {}).get("norm_num_groups", 32)) != 32:
            raise ConfigError(
                f"{checkpoint.path}: the {part}'s config.json has norm_num_groups = {said!r}, expected 32, as "
                "Stable Video Diffusion has"
            )


def _ill_formed(
    checkpoint: Checkpoint, part: Part, field: str, expected: str, found: object
) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path}: the {part}'s config.json has {field} = {found!r}, expected {expected}"
    )


def _check_agreement(checkpoint: Checkpoint, config: dict[str, Any], parts: Iterable[Part]) -> None:
    """Raise unless the configuration that a file carries has the numbers that its tensors have."""
    faults = []
    for part in parts:
        said = _said(config.get(part))
        for field, found in _shape_fields(checkpoint.parts[part].structure).items():
            if said.get(field) != found:
                faults.append(f"{part}.{field} = {said.get(field)}, its tensors {found}")
    if faults:
        raise CheckpointError(f"{checkpoint.path}: its configuration says {'; '.join(faults)}")


def _said(part: object) -> dict[str, Any]:
    """The fields of :func:`_shape_fields` in one network's configuration; None for those that cannot be read."""
    if not isinstance(part, dict):
        return {}
    said = dict(part)
    if "levels" in said:
        levels = said["levels"] if isinstance(said["levels"], list) else []
        levels = [level if isinstance(level, dict) else {} for level in levels]
        said["channels"] = [level.get("channels") for level in levels]
        said["attention"] = [level.get("attention", True) for level in levels]
        ids, width = said.get("time_ids"), said.get("time_id_dim")
        if isinstance(ids, int) and isinstance(width, int):
            said["time_ids * time_id_dim"] = ids * width
    return said


def _shape_fields(s: Structure) -> dict[str, Any]:
    """The fields of vcut's configuration of one network that shapes decide."""
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(s).items()}
    if isinstance(s, UNetStructure):
        fields["time_ids * time_id_dim"] = fields.pop("label_dim")
    if isinstance(s, CLIPStructure):
        fields["image_size"] = s.image_size
        del fields["tokens"]
    return fields
