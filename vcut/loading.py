"""From a name, a folder or a file to a :class:`vcut.pipeline.Pipeline`."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch

from vcut import hub
from vcut.clip import CLIPVisionEncoder
from vcut.config import CONFIGS, PRESETS, Mode, SVDConfig
from vcut.errors import CheckpointError, ConfigError
from vcut.layers import pack as pack_weights
from vcut.pipeline import Pipeline, for_inference
from vcut.unet import UNet, fold
from vcut.vae import VAE
from weights_tools import files
from weights_tools.configs import Hints, configuration
from weights_tools.describe import describe
from weights_tools.structure import Part

N = TypeVar("N", UNet, VAE, CLIPVisionEncoder)

BOXED = Path(__file__).parent / "weights" / "tiny.safetensors"
"""The model that comes with the package; its card is docs/tiny.md."""

NOTE = "tiny is the small model in the box: it knows six moving shapes of 32x32 pixels, and nothing else"


def load(
    model: str | PathLike[str] = "tiny",
    *,
    preset: str = "vcut",
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    vae_dtype: torch.dtype = torch.float32,
    decode_dtype: torch.dtype | None = None,
    offload: bool = False,
    pack: bool = False,
    config: SVDConfig | None = None,
    variant: str | None = None,
    token: str | None = None,
    local_only: bool = False,
) -> Pipeline:
    """Load a model, its cross-attentions folded to the preset's form.

    Without a change of dtype, tensors on the CPU are the file's own pages, read when first used.

    Args:
        model: ``'tiny'``; ``'svd'``, ``'svd-xt'``, ``'svd-xt-1-1'`` (found or downloaded); a diffusers folder; or a
            .safetensors file in any layout.
        preset: ``'baseline'``, ``'lossless'`` or ``'vcut'``.
        tca: temporal cross-attention, instead of the preset's.
        sca: spatial cross-attention, instead of the preset's.
        dtype: of the UNet and CLIP; by default float16 on CUDA and float32 elsewhere.
        device: by default CUDA if there is one, else the CPU.
        vae_dtype: of the VAE; float16 overflows with the published weights.
        decode_dtype: of the VAE's decoder, if another; it is the encoder that is known to overflow.
        offload: keep the networks in main memory, and each on ``device`` only while it is at work.
        pack: on the CPU, rearrange the weights of UNet and VAE for speed (:func:`vcut.layers.pack`): equal output,
            but they are then for computing alone. Without effect elsewhere and with ``offload``.
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
    home = torch.device("cpu") if offload else place

    path = BOXED
    if str(model) != "tiny":
        name = model if isinstance(model, str) else Path(model)
        path = hub.find(name, variant=variant, token=token, local_only=local_only)
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
        return for_inference(empty, home)

    unet = network(UNet, "unet", dtype)
    vae = network(VAE, "vae", vae_dtype).decode_in(decode_dtype or vae_dtype)
    if pack and not offload:
        pack_weights(unet, vae)
    return Pipeline(
        unet=unet,
        vae=vae,
        clip=network(CLIPVisionEncoder, "clip", dtype),
        config=found,
        preset=chosen,
        note=NOTE if path == BOXED else None,
        run_on=place if offload else None,
    )


def random_model(
    config: SVDConfig,
    *,
    preset: str = "vcut",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Pipeline:
    """A model of any configuration with weights drawn from ``seed``, for tests and measurements.

    Its clips show nothing. The global generator stays as it is. On the CPU; cross-attentions in the preset's form.
    """
    chosen = PRESETS[preset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = fold(UNet(config.unet), tca=chosen.tca, sca=chosen.sca).to(dtype)
        vae = VAE(config.vae).to(vae_dtype)
        clip = CLIPVisionEncoder(config.clip).to(dtype)
    for network in (unet, vae, clip):
        network.eval().requires_grad_(False)
    return Pipeline(unet, vae, clip, dataclasses.replace(config, unet=unet.config), chosen)


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
