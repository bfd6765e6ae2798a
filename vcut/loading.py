"""From a name, a folder or a file to a :class:`vcut.pipeline.Pipeline`."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch

from vcut import hub
from vcut.clip import CLIPVisionEncoder
from vcut.config import CONFIGS, PRESETS, TINY, Mode, Preset, SVDConfig
from vcut.errors import CheckpointError, ConfigError
from vcut.pipeline import Pipeline
from vcut.unet import UNet, fold
from vcut.vae import VAE
from weights_tools import files
from weights_tools.configs import Hints, configuration
from weights_tools.describe import describe
from weights_tools.structure import Part

N = TypeVar("N", UNet, VAE, CLIPVisionEncoder)


def load(
    model: str | PathLike[str] = "tiny",
    *,
    preset: str = "vcut",
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    vae_dtype: torch.dtype = torch.float32,
    config: SVDConfig | None = None,
    variant: str | None = None,
    token: str | None = None,
    local_only: bool = False,
) -> Pipeline:
    """Load a model, its cross-attentions folded to the preset's form.

    Args:
        model: ``'tiny'``; ``'svd'``, ``'svd-xt'``, ``'svd-xt-1-1'`` (found or downloaded); a diffusers folder; or a
            .safetensors file in any layout.
        preset: ``'baseline'``, ``'lossless'`` or ``'vcut'``.
        tca: temporal cross-attention, instead of the preset's.
        sca: spatial cross-attention, instead of the preset's.
        dtype: of the UNet and CLIP; by default float16 on CUDA and float32 elsewhere.
        device: by default CUDA if there is one, else the CPU.
        vae_dtype: of the VAE; float16 overflows with the published weights.
        config: the architecture of a file that does not say it and is not the published one.
        variant: ``'fp16'`` for the half-precision files of a folder or of the Hub.
        token: access token of the Hub, by default the one that ``hf auth login`` stored.
        local_only: never use the network.

    Raises:
        ConfigError: a name that does not exist, or a form that cannot be made from the stored weights.
        CheckpointError: weights that are not found, damaged or not the model's; every fault is listed.
    """
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}, only {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    chosen = dataclasses.replace(
        chosen, tca=chosen.tca if tca is None else tca, sca=chosen.sca if sca is None else sca
    )
    try:
        place = torch.device(default_device() if device is None else device)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {device!r}; use 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    if dtype is None:
        dtype = torch.float16 if place.type == "cuda" else torch.float32
    if str(model) == "tiny":
        return _random(config or TINY, chosen, dtype, vae_dtype).to(place)

    path = hub.find(
        model if isinstance(model, str) else Path(model), variant=variant, token=token, local_only=local_only
    )
    found = config or config_of(path, str(model), variant)
    found = dataclasses.replace(found, unet=dataclasses.replace(found.unet, tca=chosen.tca, sca=chosen.sca))

    def network(kind: type[N], part: Part, to: torch.dtype) -> N:
        modes = (chosen.tca, chosen.sca) if part == "unet" else (None, None)
        state = files.read(path, part, dtype=to, variant=variant, tca=modes[0], sca=modes[1])
        with torch.device("meta"):
            empty = kind(getattr(found, part))
        try:
            empty.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            detail = str(error).replace("\n\t", "\n  ")
            raise CheckpointError(f"{path} is not of the configuration {found.name!r}: {detail}") from error
        empty.eval().requires_grad_(False).to(place)
        if place.type == "cuda":  # the activations' layout, for cuDNN; CPU weights stay views of the file
            empty.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return empty

    return Pipeline(
        unet=network(UNet, "unet", dtype),
        vae=network(VAE, "vae", vae_dtype),
        clip=network(CLIPVisionEncoder, "clip", dtype),
        config=found,
        preset=chosen,
    )


def config_of(path: Path, model: str, variant: str | None = None) -> SVDConfig:
    """The configuration of the checkpoint at ``path``, by its headers alone; ``model`` is what the user called it.

    Raises:
        CheckpointError: it cannot be read, or is not a whole model.
        ConfigError: it does not say what shapes cannot tell.
    """
    hints = Hints(name=model if model in CONFIGS else None)
    return SVDConfig.from_dict(configuration(describe(path, variant), hints))


def default_device() -> str:
    """CUDA if there is one, else the CPU. MPS has to be asked for: it has no fused attention for long sequences."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _random(
    config: SVDConfig, preset: Preset, dtype: torch.dtype, vae_dtype: torch.dtype, seed: int = 0
) -> Pipeline:
    """A model with weights drawn from ``seed``, whatever the global generator's state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = fold(UNet(config.unet), tca=preset.tca, sca=preset.sca).to(dtype)
        vae = VAE(config.vae).to(vae_dtype)
        clip = CLIPVisionEncoder(config.clip).to(dtype)
    for network in (unet, vae, clip):
        network.eval().requires_grad_(False)
    note = "tiny has random weights: it shows that everything runs, its clips show nothing"
    return Pipeline(unet, vae, clip, dataclasses.replace(config, unet=unet.config), preset, note)
