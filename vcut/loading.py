"""Loading: a name, a folder or a file becomes a :class:`vcut.pipeline.Pipeline`, or a UNet alone; and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import TypeVar

import torch
from torch import Tensor, nn

from vcut import hub
from vcut.clip import CLIPVisionEncoder
from vcut.config import (
    CONFIGS,
    CLIPConfig,
    Mode,
    Preset,
    PresetName,
    SVDConfig,
    UNetConfig,
    VAEConfig,
    choose_preset,
)
from vcut.errors import CheckpointError, ConfigError, check_type
from vcut.layers import Packing, assembled, check_dtype, device_named, for_inference, is_packed
from vcut.layers import pack as pack_weights
from vcut.pipeline import Pipeline
from vcut.unet import UNet, fold
from vcut.vae import VAE
from weights_tools.checkpoint import Checkpoint, open_checkpoint
from weights_tools.configs import Hints, clip_configuration, configuration, unet_configuration, with_unet
from weights_tools.fold import modes
from weights_tools.structure import PARTS, Part
from weights_tools.tensor_file import save as write_file

N = TypeVar("N", UNet, VAE, CLIPVisionEncoder)

BOXED = Path(__file__).parent / "weights" / "tiny.safetensors"
"""The model that comes with the package; its card is docs/tiny.md."""

NOTE = "tiny is the small model in the box: it knows six moving shapes of 64x64 pixels, and nothing else"


@dataclass(frozen=True)
class Found:
    """A model that was found and opened, none of its tensors read yet.

    ``name`` is what the user called it.
    """

    name: str
    checkpoint: Checkpoint
    config: SVDConfig

    @property
    def note(self) -> str | None:
        """A sentence about the weights that a user should read, if there is one."""
        return NOTE if self.checkpoint.path == BOXED else None


def find(
    model: str | PathLike[str] = "tiny",
    *,
    unet: str | PathLike[str] | None = None,
    config: SVDConfig | None = None,
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_only: bool = False,
    ignore_unknown: bool = False,
) -> Found:
    """Find a model, download it if it has to be, and read its headers and its configuration.

    :func:`load` takes the result: settings can be checked against ``found.config`` before anything large is read.

    Args:
        model: as :func:`load` takes it.
        unet: as :func:`load` takes it.
        config: as :func:`load` takes it.
        variant: as :func:`load` takes it.
        revision: as :func:`load` takes it.
        token: as :func:`load` takes it.
        local_only: as :func:`load` takes it.
        ignore_unknown: as :func:`load` takes it.

    Raises:
        ConfigError: the checkpoint does not say what shapes cannot tell.
        CheckpointError: it is not found, cannot be read, or is not a whole model.
    """
    check_type("config", config, SVDConfig, NoneType)
    if unet is None:
        checkpoint = _open(model, PARTS, variant, revision, token, local_only, ignore_unknown)
    else:
        # the fine-tune first, since it is here; of a model on the Hub its own UNet is then not fetched
        tuned = open_checkpoint(hub.find(Path(unet)), None, ("unet",), ignore_unknown=ignore_unknown)
        parts: Sequence[Part] = ("vae", "clip") if str(model) in hub.REPOSITORIES else PARTS
        base = _open(model, parts, variant, revision, token, local_only, ignore_unknown)
        checkpoint = with_unet(base, tuned)
    if config is None:
        hints = Hints(name=str(model) if str(model) in CONFIGS else None)
        config = SVDConfig.from_dict(configuration(checkpoint, hints))
    return Found(str(model), checkpoint, config)


@torch.inference_mode(False)  # a tensor made in inference mode could never be thawed
def load(
    model: str | PathLike[str] | Found = "tiny",
    *,
    unet: str | PathLike[str] | None = None,
    preset: PresetName | Preset = "vcut",
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    vae_dtype: torch.dtype = torch.float32,
    decode_dtype: torch.dtype | None = None,
    offload: bool = False,
    pack: bool | Packing = False,
    config: SVDConfig | None = None,
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_only: bool = False,
    ignore_unknown: bool = False,
) -> Pipeline:
    """Load a model in the form of a preset, by default the lossy ``vcut``.

    ``vcut`` drops the temporal cross-attention and ends guidance after step 16 of 25. ``lossless`` gives the
    published model's clips with less work, ``baseline`` is the published model itself.

    Where the dtype does not change, tensors on the CPU are the file's own pages, read when first used.

    Args:
        model: ``'tiny'``; ``'svd'``, ``'svd-xt'``, ``'svd-xt-1-1'`` (found or downloaded); a diffusers folder; a
            .safetensors file in any layout; or the result of :func:`find`.
        unet: file or folder with a fine-tuned UNet, in any layout, that takes the place of the model's own. What it
            does not say of itself (its heads, its frames) it has from the model.
        preset: ``'baseline'``, ``'lossless'``, ``'vcut'`` or ``'fast'``, or a preset of your own.
        tca: mode of the temporal cross-attention, by default the preset's.
        sca: mode of the spatial cross-attention, by default the preset's.
        dtype: of the UNet and CLIP, by default float16 on CUDA and float32 elsewhere.
        device: where the model runs, by default CUDA if there is one, else the CPU.
        vae_dtype: of the VAE; float16 overflows with the published weights.
        decode_dtype: of the VAE's decoder, by default ``vae_dtype``; it is the encoder that is known to overflow.
        offload: keep the networks in main memory, and each on ``device`` only while it is at work.
        pack: on the CPU, rearrange the weights of UNet and VAE for speed (:func:`vcut.layers.pack`): equal output,
            but they are then for computing alone. A :class:`vcut.layers.Packing` says in which forms, True takes
            those that this CPU computes fastest. Without effect elsewhere and with ``offload``.
        config: the architecture of a file that does not say it and is not the published one.
        variant: ``'fp16'`` for the half-precision files of a folder or of the Hub.
        revision: commit, tag or branch of a model on the Hub.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.
        ignore_unknown: pass over tensors whose names belong to nothing, instead of refusing the file.

    Raises:
        ConfigError: a name that does not exist, or a form that cannot be made from the stored weights.
        CheckpointError: weights that are not found, damaged or not the model's; every fault is listed.
    """
    chosen = choose_preset(preset, tca, sca)
    check_type("pack", pack, bool, Packing)
    place, dtype = _target(device, dtype)
    check_dtype("vae_dtype", vae_dtype)
    check_dtype("decode_dtype", decode_dtype := decode_dtype or vae_dtype)
    if not isinstance(model, Found):
        found = find(
            model,
            unet=unet,
            config=config,
            variant=variant,
            revision=revision,
            token=token,
            local_only=local_only,
            ignore_unknown=ignore_unknown,
        )
    elif (unet, config, variant, revision, token) == (None,) * 5 and not (local_only or ignore_unknown):
        found = model
    else:
        raise ConfigError(
            "unet, config, variant, revision, token, local_only and ignore_unknown were settled by find: give them "
            "there"
        )
    whole = dataclasses.replace(
        found.config, unet=dataclasses.replace(found.config.unet, tca=chosen.tca, sca=chosen.sca)
    )
    home = torch.device("cpu") if offload else place

    def network(kind: type[N], part: Part, to: torch.dtype) -> N:
        modes = (chosen.tca, chosen.sca) if part == "unet" else (None, None)
        state = found.checkpoint.read(part, dtype=to, tca=modes[0], sca=modes[1])
        return for_inference(_built(kind, getattr(whole, part), state, found.checkpoint, whole.name), home)

    own = network(UNet, "unet", dtype)
    vae = network(VAE, "vae", vae_dtype).decode_in(decode_dtype)
    if pack and not offload:
        pack_weights(own, vae, packing=None if pack is True else pack)
    return Pipeline(
        unet=own,
        vae=vae,
        clip=network(CLIPVisionEncoder, "clip", dtype),
        config=whole,
        preset=chosen,
        note=found.note,
        run_on=place if offload else None,
    )


@torch.inference_mode(False)
def load_unet(
    model: str | PathLike[str] = "tiny",
    *,
    preset: PresetName | Preset | None = None,
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    config: UNetConfig | None = None,
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_only: bool = False,
    ignore_unknown: bool = False,
) -> UNet:
    """Load the UNet alone, its cross-attentions as stored: of a published checkpoint, as trained.

    No tensor of the VAE and of CLIP is read, nor fetched from the Hub. The UNet is frozen and in evaluation mode;
    ``requires_grad_(True)`` thaws it.

    Args:
        model: as :func:`load` takes it; or a file or folder that holds a UNet alone, in any layout, under its own
            names or those of a whole checkpoint.
        preset: the preset whose modes ``tca`` and ``sca`` have, by default as stored.
        tca: mode of the temporal cross-attention, instead of the preset's.
        sca: mode of the spatial cross-attention, instead of the preset's.
        dtype: of the weights, by default float16 on CUDA and float32 elsewhere.
        device: where it runs, by default CUDA if there is one, else the CPU.
        config: the architecture of a file that does not say it. What shapes do not tell is the number of attention
            heads: it comes from a diffusers folder's config.json, else each head has 64 channels.
        variant: ``'fp16'`` for the half-precision files of a folder or of the Hub.
        revision: commit, tag or branch of a model on the Hub.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.
        ignore_unknown: pass over tensors whose names belong to nothing, instead of refusing the file.

    Raises:
        ConfigError: a name that does not exist, a form that cannot be made from the stored weights, or channels that
            do not divide into heads.
        CheckpointError: weights that are not found, damaged or not a UNet's; every fault is listed.
    """
    if preset is not None:
        chosen = choose_preset(preset, tca, sca)
        tca, sca = chosen.tca, chosen.sca
    place, dtype = _target(device, dtype)
    check_type("config", config, UNetConfig, NoneType)
    checkpoint = _open(model, ("unet",), variant, revision, token, local_only, ignore_unknown)
    found = config or UNetConfig.from_dict(unet_configuration(checkpoint))
    tensors = checkpoint.tensors("unet", tca=tca, sca=sca, dtype=dtype)
    stored = modes(tensors)
    found = dataclasses.replace(found, tca=stored[0], sca=stored[1])
    return for_inference(_built(UNet, found, dict(tensors), checkpoint, str(model)), place)


@torch.inference_mode(False)
def load_clip(
    model: str | PathLike[str] = "tiny",
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_only: bool = False,
    ignore_unknown: bool = False,
) -> CLIPVisionEncoder:
    """Load CLIP alone: no tensor of the UNet and of the VAE is read, nor fetched from the Hub.

    Args:
        model: as :func:`load` takes it; or a file or folder that holds CLIP alone.
        dtype: of the weights, by default float16 on CUDA and float32 elsewhere.
        device: where it runs, by default CUDA if there is one, else the CPU.
        variant: ``'fp16'`` for the half-precision files of a folder or of the Hub.
        revision: commit, tag or branch of a model on the Hub.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.
        ignore_unknown: pass over tensors whose names belong to nothing, instead of refusing the file.

    Raises:
        ConfigError: a name that does not exist, or heads that do not divide the width.
        CheckpointError: weights that are not found, damaged or not CLIP's; every fault is listed.
    """
    place, dtype = _target(device, dtype)
    checkpoint = _open(model, ("clip",), variant, revision, token, local_only, ignore_unknown)
    config = CLIPConfig(**clip_configuration(checkpoint))
    state = checkpoint.read("clip", dtype=dtype)
    return for_inference(_built(CLIPVisionEncoder, config, state, checkpoint, str(model)), place)


def random_model(
    config: SVDConfig,
    *,
    preset: PresetName | Preset = "vcut",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Pipeline:
    """A model of any configuration with weights drawn from ``seed``, for tests and measurements.

    Its clips show nothing. The global generator stays as it is. On the CPU; cross-attentions in the preset's form.
    """
    chosen = choose_preset(preset)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
        torch.manual_seed(seed)
        unet = fold(UNet(config.unet), tca=chosen.tca, sca=chosen.sca).to(dtype)
        vae = VAE(config.vae).to(vae_dtype)
        clip = CLIPVisionEncoder(config.clip).to(dtype)
    for network in (unet, vae, clip):
        network.eval().requires_grad_(False)
    return Pipeline(unet, vae, clip, dataclasses.replace(config, unet=unet.config), chosen)


def save(model: Pipeline | UNet, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model, or a UNet alone, to a file in vcut's layout that :func:`load` or :func:`load_unet` reads.

    It has the configuration in its header and every tensor in the dtype that it has now, and appears whole or not at
    all. Cross-attentions are stored in the form that they have: what was folded or dropped stays so.

    Args:
        model: what :func:`load` or :func:`load_unet` gave, or what you made of it.
        path: the .safetensors file to write.
        overwrite: whether to replace an existing file.

    Raises:
        ConfigError: the weights are packed, or on the meta device; or the file is named otherwise.
        OutputExistsError: the file exists and ``overwrite`` is false.
        VcutError: it cannot be written there.
    """
    check_type("model", model, Pipeline, UNet)
    check_type("path", path, str, PathLike)
    if Path(path).suffix.lower() != ".safetensors":
        raise ConfigError(f"the output {path} must end in .safetensors")
    networks: dict[str, nn.Module]
    if isinstance(model, UNet):
        networks, config = {"unet": model}, {"unet": dataclasses.asdict(model.config)}
    else:
        networks = {part: getattr(model, part) for part in PARTS}
        config = dataclasses.replace(model.config, unet=model.unet.config).to_dict()
    if any(is_packed(network) for network in networks.values()):
        raise ConfigError("the weights are packed for this CPU: load the model without pack=True to save it")
    state = {
        f"{part}.{name}": tensor
        for part, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    if any(tensor.is_meta for tensor in state.values()):
        raise ConfigError("the weights are on the meta device: there are none to save")
    write_file(path, state, {"format": "vcut", "config": json.dumps(config)}, overwrite=overwrite)


def default_device() -> str:
    """CUDA if there is one, else the CPU. MPS has to be asked for: it has no fused attention for long sequences."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _open(
    model: str | PathLike[str],
    parts: Sequence[Part],
    variant: str | None,
    revision: str | None,
    token: str | None,
    local_only: bool,
    ignore_unknown: bool,
) -> Checkpoint:
    check_type("model", model, str, PathLike)
    for what, text in (("variant", variant), ("revision", revision), ("token", token)):
        check_type(what, text, str, NoneType)
    name = model if isinstance(model, str) else Path(model)
    if name == "tiny" and revision is None:
        return open_checkpoint(BOXED, variant)
    path = hub.find(name, variant=variant, revision=revision, parts=parts, token=token, local_only=local_only)
    return open_checkpoint(path, variant, parts, ignore_unknown=ignore_unknown)


def _target(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Place and number type, known to work before anything is downloaded or read."""
    place = device_named(default_device() if device is None else device)
    dtype = default_dtype(place) if dtype is None else dtype
    check_dtype("dtype", dtype)
    return place, dtype


def default_dtype(device: torch.device) -> torch.dtype:
    """Number type of the UNet and CLIP where none is asked for: float16 on CUDA, float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def _built(
    kind: type[N],
    config: UNetConfig | VAEConfig | CLIPConfig,
    state: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    name: str,
) -> N:
    try:
        return assembled(kind, config, state)
    except RuntimeError as error:
        detail = str(error).replace("\n\t", "\n  ")
        raise CheckpointError(f"{checkpoint.path} is not of the configuration {name!r}: {detail}") from error
