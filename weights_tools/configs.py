"""The configuration files that go with the weights: vcut's, as a plain dict, and those of a diffusers checkpoint.

Shapes say almost everything, except the numbers of attention heads and what the model was trained for. Those come
from the configuration that the source carries, or from what all published models have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from weights_tools.checkpoint import FOLDERS, SCHEDULER, SETTINGS, Checkpoint
from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.model import CLIPConfig, SVDConfig, UNetConfig
from weights_tools.remap import refuse
from weights_tools.structure import PARTS, CLIPStructure, Part, Structure, UNetStructure, VAEStructure

C = TypeVar("C", SVDConfig, UNetConfig, CLIPConfig)

SCALE = 0.18215  # latents are multiplied by it before diffusion
_NAME = re.compile(r"(?:svd|img2vid)(?P<xt>[-_]xt)?(?P<version>[-_]1[-_.]1)?")

DIFFUSERS_FILES = (
    SETTINGS,
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    SCHEDULER,
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
    """The configuration of a whole checkpoint, as :meth:`weights_tools.model.SVDConfig.to_dict` writes it.

    That of a file that vcut wrote is taken as it is (under ``hints.name`` if given), once it is found to agree with
    the tensors.

    Raises:
        CheckpointError: a network is missing or has faults, or what the checkpoint says of itself is ill-formed,
            disagrees with its tensors, or is of a network that vcut has not.
        ConfigError: the heads do not divide the channels: a hint is needed.
    """
    hints = hints or Hints()
    if checkpoint.missing_parts:
        found = ", ".join(checkpoint.parts)
        base = (
            "; a UNet alone goes over a base, such as --model svd-xt --unet PATH" if found == "unet" else ""
        )
        raise CheckpointError(
            f"{checkpoint.path} is not a whole model: no {', '.join(checkpoint.missing_parts)}, only {found}{base}"
        )
    refuse(checkpoint.faults, f"a complete model in the {checkpoint.layout} layout", checkpoint.path)
    config = checkpoint.config
    if config is not None:
        _check_agreement(checkpoint, config, PARTS)
        config = {"name": guess_name(checkpoint), **config, **({"name": hints.name} if hints.name else {})}
        return _sound(checkpoint, SVDConfig.from_dict, config).to_dict()
    unet, vae, clip = (checkpoint.parts[part].structure for part in PARTS)
    assert isinstance(unet, UNetStructure)
    assert isinstance(vae, VAEStructure)
    assert isinstance(clip, CLIPStructure)
    settings = _settings(checkpoint)
    name = hints.name or settings.pop("name", None) or guess_name(checkpoint)
    said = {
        "name": name,
        "unet": _unet(unet, checkpoint, hints),
        "vae": {
            "channels": vae.channels,
            "layers": vae.layers,
            "latent_channels": vae.latent_channels,
            "temporal": vae.temporal,
            "scale": _scale(checkpoint),
        },
        "clip": _clip(clip, checkpoint, hints),
        "frames": _count(checkpoint, "unet", "num_frames", 14 if name == "svd" else 25),
        **settings,
    }
    made = _sound(checkpoint, SVDConfig.from_dict, said).to_dict()
    for part in PARTS:
        _check_file(checkpoint, part, made[part])
    _check_scheduler(checkpoint)
    return made


def unet_configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """The configuration of the UNet alone, from a whole checkpoint or from one that has no other network.

    Raises:
        CheckpointError: as :func:`configuration`, of the UNet.
        ConfigError: as :func:`configuration`.
    """
    structure = checkpoint.complete("unet").structure
    assert isinstance(structure, UNetStructure)
    if checkpoint.config is not None:
        _check_agreement(checkpoint, checkpoint.config, ["unet"])
        said = checkpoint.config["unet"]
    else:
        said = _unet(structure, checkpoint, hints or Hints())
    made = asdict(_sound(checkpoint, UNetConfig.from_dict, said))
    _check_file(checkpoint, "unet", made)
    return made


def clip_configuration(checkpoint: Checkpoint, hints: Hints | None = None) -> dict[str, Any]:
    """The configuration of CLIP alone, from a whole checkpoint or from one that has no other network.

    Raises:
        CheckpointError: as :func:`configuration`, of CLIP.
        ConfigError: as :func:`configuration`.
    """
    structure = checkpoint.complete("clip").structure
    assert isinstance(structure, CLIPStructure)
    if checkpoint.config is not None:
        _check_agreement(checkpoint, checkpoint.config, ["clip"])
        said = checkpoint.config["clip"]
    else:
        said = _clip(structure, checkpoint, hints or Hints())
    made = asdict(_sound(checkpoint, lambda data: CLIPConfig(**data), said))
    _check_file(checkpoint, "clip", made)
    return made


def with_unet(base: Checkpoint, other: Checkpoint) -> Checkpoint:
    """``base`` with the UNet of ``other`` in the place of its own, if it has one.

    Where ``other`` does not say its heads, a UNet of the base's channels has the base's; where it does not say for
    how many frames it was made, neither do the shapes, and it has the base's as well.

    Raises:
        CheckpointError: ``other`` has no UNet, or one with faults; all are listed.
        ConfigError: as :func:`unet_configuration`.
    """
    network = other.require("unet")
    said = other.configs.get("unet", {})
    if other.config is None and "num_attention_heads" not in said and "unet" in base.parts:
        levels = unet_configuration(base)["levels"]
        if [level["channels"] for level in levels] == _shape_fields(network.structure)["channels"]:
            said = {**said, "num_attention_heads": [level["heads"] for level in levels]}
    unet = unet_configuration(replace(other, configs={"unet": said}))
    frames = {"num_frames": base.configs.get("unet", {}).get("num_frames"), **said}["num_frames"]
    whole = base.config and {**base.config, "unet": unet}
    parts = {**base.parts, "unet": network}
    return replace(
        base,
        parts={part: parts[part] for part in PARTS if part in parts},
        configs={**base.configs, "unet": {**network_file("unet", unet), "num_frames": frames}},
        metadata={**base.metadata, "config": json.dumps(whole)} if whole else base.metadata,
    )


def judge(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences on a checkpoint: why loading and converting would refuse it, and what they would have to be told.

    Of a part of a model only what is there is judged.
    """
    if checkpoint.faults:
        return checkpoint.faults, ()
    judges: dict[Part, Callable[[Checkpoint], object]] = {
        "unet": unet_configuration,
        "clip": clip_configuration,
    }
    try:
        if not checkpoint.missing_parts:
            configuration(checkpoint)
        else:
            for part in checkpoint.parts.keys() - {"vae"}:
                judges[part](checkpoint)
    except ConfigError as error:
        return (), (str(error),)
    except CheckpointError as error:
        return (str(error),), ()
    return (), ()


def _sound(checkpoint: Checkpoint, read: Callable[[dict[str, Any]], C], said: dict[str, Any]) -> C:
    try:
        return read(said)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its configuration cannot be: {error}") from error


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
    if vae["temporal"] and vae["layers"] != 2:
        raise ConfigError(
            f"diffusers builds the middle of a temporal decoder with as many resnets as a level has layers, which is "
            f"2 in all that vcut can build; this vae has {vae['layers']} layers: keep it in the vcut or sgm layout"
        )
    networks = {f"{FOLDERS[part][0]}/config.json": network_file(part, config[part]) for part in PARTS}
    networks["unet/config.json"]["num_frames"] = config["frames"]
    return {
        SETTINGS: {key: config[key] for key in ("name", *_SETTINGS)},
        "model_index.json": {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", networks["vae/config.json"]["_class_name"]],
        },
        **networks,
        SCHEDULER: {
            **_SAMPLING,
            "_class_name": "EulerDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "steps_offset": 1,
            "timestep_spacing": "leading",
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


def network_file(part: Part, config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of one network."""
    if part == "unet":
        down = ["CrossAttnDown" if level["attention"] else "Down" for level in config["levels"]]
        up = [kind.replace("Down", "Up") for kind in reversed(down)]
        return {
            "_class_name": "UNetSpatioTemporalConditionModel",
            "in_channels": config["in_channels"],
            "out_channels": config["out_channels"],
            "block_out_channels": [level["channels"] for level in config["levels"]],
            "num_attention_heads": [level["heads"] for level in config["levels"]],
            "down_block_types": [f"{kind}BlockSpatioTemporal" for kind in down],
            "up_block_types": [f"{kind}BlockSpatioTemporal" for kind in up],
            "layers_per_block": config["layers"],
            "transformer_layers_per_block": config["depth"],
            "cross_attention_dim": config["context_dim"],
            "addition_time_embed_dim": config["time_id_dim"],
            "projection_class_embeddings_input_dim": config["time_ids"] * config["time_id_dim"],
            "sample_size": 96,
        }
    if part == "vae":
        n = len(config["channels"])
        return {
            "_class_name": "AutoencoderKLTemporalDecoder" if config["temporal"] else "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": list(config["channels"]),
            "down_block_types": ["DownEncoderBlock2D"] * n,
            **({} if config["temporal"] else {"up_block_types": ["UpDecoderBlock2D"] * n}),
            "layers_per_block": config["layers"],
            "latent_channels": config["latent_channels"],
            "sample_size": 768,
            "scaling_factor": config["scale"],
            "force_upcast": True,
        }
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "hidden_size": config["width"],
        "image_size": config["image_size"],
        "intermediate_size": config["mlp_dim"],
        "layer_norm_eps": 1e-05,
        "num_attention_heads": config["heads"],
        "num_channels": 3,
        "num_hidden_layers": config["layers"],
        "patch_size": config["patch_size"],
        "projection_dim": config["embed_dim"],
    }


# What a network's config.json may say besides, and the one value that vcut's networks have.
_FIXED: dict[Part, dict[str, Any]] = {
    "unet": {"norm_num_groups": 32},
    "vae": {
        "norm_num_groups": 32,
        "act_fn": "silu",
        "mid_block_add_attention": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
    },
    "clip": {},
}

# What a scheduler's file says of the network and of its noise levels. The rest does not change levels of this form.
_SAMPLING = {
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}

# What it means if its config.json does not say it: transformers leaves out what has the default of its class. The
# other defaults are what vcut computes with, or are told by the tensors.
_UNSAID: dict[Part, dict[str, Any]] = {"clip": {"hidden_act": "quick_gelu", "num_attention_heads": 12}}

# Of these a config.json may say anything: names, sizes of examples, ways to compute.
_FREE = ("_class_name", "architectures", "model_type", "sample_size", "force_upcast")


def _of_file(checkpoint: Checkpoint, part: Part) -> dict[str, Any]:
    """Fields of a network's config.json, with those that it leaves unsaid; none if there is no such file."""
    said = checkpoint.configs.get(part)
    return {**_UNSAID.get(part, {}), **said} if said else {}


def _check_file(checkpoint: Checkpoint, part: Part, config: dict[str, Any]) -> None:
    """Raise for the first field in a network's config.json by which it would not be the network of ``config``."""
    said = _of_file(checkpoint, part)
    for field, have in {**_FIXED[part], **network_file(part, config)}.items():
        if field in _FREE or field not in said or said[field] == have:
            continue
        # one number stands for the same at every level
        if not (isinstance(have, list) and have == [said[field]] * len(have)):
            raise _ill_formed(
                checkpoint, part, field, f"{have!r}, which is what vcut computes with", said[field]
            )


def _check_scheduler(checkpoint: Checkpoint) -> None:
    """Raise for the first field in the scheduler's file by which diffusers would sample otherwise than vcut."""
    for field, have in _SAMPLING.items():
        said = checkpoint.scheduler.get(field, have)
        if said != have:
            raise CheckpointError(
                f"{checkpoint.path / SCHEDULER} has {field} = {said!r:.200}, expected {have!r}, which vcut samples "
                "with: remove the file to go on with that"
            )


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
        "tca": s.tca,
        "sca": s.sca,
    }


def _unet_heads(s: UNetStructure, checkpoint: Checkpoint, hints: Hints) -> list[int]:
    said = _of_file(checkpoint, "unet").get("num_attention_heads")
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
    said = _of_file(checkpoint, part).get(field)
    if said is None:
        return default
    if not _counts(said):
        raise _ill_formed(checkpoint, part, field, "a positive number", said)
    return int(said)


def _scale(checkpoint: Checkpoint) -> float:
    said = _of_file(checkpoint, "vae").get("scaling_factor")
    if said is None:
        return SCALE
    if type(said) not in (int, float) or not 0 < said < 1e6:
        raise _ill_formed(checkpoint, "vae", "scaling_factor", "a positive number", said)
    return float(said)


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Name, size and rates from the folder's own settings file, so far as it has them."""
    said = {key: value for key, value in checkpoint.settings.items() if key in ("name", *_SETTINGS)}
    for key, value in said.items():
        fits = isinstance(value, str) if key == "name" else type(value) is int and value >= 0
        expected = "a text" if key == "name" else "a whole number of at least 0"
        if not fits:
            raise CheckpointError(
                f"{checkpoint.path / SETTINGS}: {key} is {value!r:.200}, expected {expected}"
            )
    return said


def _ill_formed(
    checkpoint: Checkpoint, part: Part, field: str, expected: str, found: object
) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path}: the {part}'s config.json has {field} = {found!r:.200}, expected {expected}"
    )


def _check_agreement(checkpoint: Checkpoint, config: dict[str, Any], parts: Iterable[Part]) -> None:
    """Raise unless the configuration that a file carries has the numbers that its tensors have."""
    faults = []
    for part in parts:
        said = _said(config.get(part))
        for field, found in _shape_fields(checkpoint.parts[part].structure).items():
            if said.get(field) != found:
                faults.append(f"{part}.{field} = {said.get(field)!s:.200}, its tensors {found}")
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
