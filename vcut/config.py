"""Configurations of models, as frozen dataclasses; the published configurations; the presets.

Only the three networks and the pipeline read these. Blocks take plain numbers.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass, field
from typing import Any, Literal

from vcut.errors import ConfigError

Mode = bool | Literal["linear_cached"]
"""Mode of a cross-attention: True (softmax, as trained), ``'linear_cached'``, False (absent)."""


Fit = Literal["crop", "resize", "pad"]
"""Way in which a picture of another shape becomes a frame: fill it and cut, squash, or put it between black bars."""

Sampler = Literal["euler", "heun", "dpmpp_2m", "lcm"]
"""Way from one noise level to the next; :func:`vcut.sampling.sample` explains each."""

SigmaName = Literal["karras", "ays"]
"""Name of a schedule of noise levels; :func:`vcut.sampling.named_sigmas` explains each."""


LARGEST = 10_000
"""Largest number of frames, steps, clips or pixels a side that is taken: more is a slip of the hand."""


def check_mode(flag: str, mode: object) -> None:
    """Raise :class:`ConfigError` unless ``mode`` is True, False or ``'linear_cached'``."""
    if not (mode is True or mode is False or mode == "linear_cached"):
        raise ConfigError(f"{flag} must be True, 'linear_cached' or False, got {mode!r}")


def whole_number(what: str, value: object, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int, whatever type of whole number it has (numpy's, a tensor of no axes).

    Raises:
        ConfigError: it is no whole number, or outside of ``least`` to ``most``.
    """
    wanted = (
        f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    )
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if number is None or number < least or (most is not None and number > most):
        raise ConfigError(f"{what} must be {wanted}, got {value!r}")
    return number


def _check_divides(what: str, sizes: tuple[int, ...], divisor: int, into: str) -> None:
    for size in sizes:
        if size < 1 or divisor < 1 or size % divisor:
            raise ConfigError(f"{what} {size} do not divide into {divisor} {into}")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        whole_number(f"{type(config).__name__}.{name}", getattr(config, name))


@dataclass(frozen=True)
class Level:
    """One resolution of the UNet. ``heads`` counts attention heads; the last level's serve the middle too."""

    channels: int
    heads: int
    attention: bool = True


@dataclass(frozen=True)
class UNetConfig:
    """The spatio-temporal UNet. The defaults are SVD's, SVD-XT's and SVD-XT-1.1's alike."""

    in_channels: int = 8  # 4 noisy latents + 4 of the conditioning image
    out_channels: int = 4
    levels: tuple[Level, ...] = (
        Level(320, 5),
        Level(640, 10),
        Level(1280, 20),
        Level(1280, 20, attention=False),
    )
    layers: int = 2  # resnets per level going down; one more going up
    depth: int = 1  # transformer blocks per transformer
    context_dim: int = 1024  # d, the CLIP embedding
    time_ids: int = 3  # fps - 1, motion bucket, noise augmentation
    time_id_dim: int = 256  # sinusoid width of each
    norm_groups: int = 32
    tca: Mode = True
    sca: Mode = True
    diffusers_norm_eps: bool = False  # True: resnet eps as diffusers builds them, see docs of UNet

    def __post_init__(self) -> None:
        check_mode("tca", self.tca)
        check_mode("sca", self.sca)
        if not self.levels or not all(isinstance(level, Level) for level in self.levels):
            raise ConfigError(f"levels must be at least one vcut.config.Level, got {self.levels!r}")
        _check_positive(self, "in_channels", "out_channels", "layers", "depth", "context_dim", "time_ids")
        _check_divides("the width of a time id's sinusoid", (self.time_id_dim,), 2, "cosines and sines")
        for level in self.levels:
            _check_divides("UNet channels", (level.channels,), self.norm_groups, "norm groups")
            _check_divides("UNet channels", (level.channels,), level.heads, "heads")

    @property
    def stride(self) -> int:
        """Latent height and width must be multiples of this."""
        return 1 << (len(self.levels) - 1)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> UNetConfig:
        """Read the fields as plain JSON values. Unknown or ill-typed ones raise :class:`ConfigError`."""
        try:
            return UNetConfig(**{**data, "levels": tuple(Level(**level) for level in data["levels"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a configuration of a UNet: {error}") from error


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder: an image encoder and a decoder with (``temporal``) or without temporal layers."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2  # resnets per level in the encoder; one more in the decoder
    latent_channels: int = 4
    norm_groups: int = 32
    temporal: bool = True
    scale: float = 0.18215  # latents are multiplied by it before diffusion, divided before decoding

    def __post_init__(self) -> None:
        _check_positive(self, "latent_channels")
        # at 0 the decoder still has one resnet a level
        whole_number("VAEConfig.layers", self.layers, least=0)
        if isinstance(self.scale, bool) or not isinstance(self.scale, float | int) or not self.scale > 0:
            raise ConfigError(f"VAEConfig.scale must be a number above 0, got {self.scale!r}")
        _check_divides("VAE channels", self.channels, self.norm_groups, "norm groups")

    @property
    def stride(self) -> int:
        """Pixels per latent, along each side."""
        return 1 << (len(self.channels) - 1)


@dataclass(frozen=True)
class CLIPConfig:
    """The CLIP vision tower with its projection. The defaults are OpenCLIP ViT-H/14's."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp_dim: int = 5120
    embed_dim: int = 1024

    def __post_init__(self) -> None:
        _check_positive(self, "layers", "mlp_dim", "embed_dim")
        _check_divides("CLIP's width", (self.width,), self.heads, "heads")
        _check_divides("CLIP's image size", (self.image_size,), self.patch_size, "pixels of a patch")


@dataclass(frozen=True)
class SVDConfig:
    """A whole model: three networks and the settings it was made for."""

    name: str = "svd-xt"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    clip: CLIPConfig = field(default_factory=CLIPConfig)
    frames: int = 25
    height: int = 576
    width: int = 1024
    fps: int = 7  # as the user says it; the network is given fps - 1
    motion_bucket: int = 127

    def __post_init__(self) -> None:
        _check_positive(self, "frames", "height", "width", "fps")
        if self.unet.context_dim != self.clip.embed_dim:
            raise ConfigError(
                f"the UNet's context_dim {self.unet.context_dim} is not "
                f"CLIP's embed_dim {self.clip.embed_dim}"
            )

    @property
    def stride(self) -> int:
        """Picture height and width must be multiples of this (64 for the published models)."""
        return self.vae.stride * self.unet.stride

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values; :meth:`from_dict` reads them back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> SVDConfig:
        """Read what :meth:`to_dict` wrote. Unknown or ill-typed fields raise :class:`ConfigError`."""
        try:
            vae = dict(data["vae"])
            vae["channels"] = tuple(vae["channels"])
            rest = {k: v for k, v in data.items() if k not in ("unet", "vae", "clip")}
            return SVDConfig(
                unet=UNetConfig.from_dict(data["unet"]),
                vae=VAEConfig(**vae),
                clip=CLIPConfig(**data["clip"]),
                **rest,
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a model configuration: {error}") from error


SVD = SVDConfig("svd", frames=14)
SVD_XT = SVDConfig("svd-xt", frames=25)
SVD_XT_1_1 = SVDConfig("svd-xt-1-1", frames=25)
TINY = SVDConfig(
    "tiny",
    unet=UNetConfig(
        in_channels=16,
        out_channels=8,
        levels=(Level(64, 4), Level(64, 4)),
        layers=1,
        context_dim=64,
        time_id_dim=32,
    ),
    vae=VAEConfig(channels=(64, 64, 64, 64), layers=2, latent_channels=8, scale=0.76546),
    clip=CLIPConfig(image_size=224, patch_size=28, width=48, layers=2, heads=4, mlp_dim=192, embed_dim=64),
    frames=8,
    height=32,
    width=32,
)
"""The trained model in the box (docs/tiny.md): the same architecture at a size that runs anywhere in seconds.

Widths: 32 groups, which the published models have and diffusers insists on, need at least 64 channels. With one
channel in a group, a norm takes every channel's mean away: pictures of one flat colour all decode to the same. Two
layers in the VAE and 224 pixels for CLIP are also what diffusers insists on.
"""

CONFIGS = {config.name: config for config in (TINY, SVD, SVD_XT, SVD_XT_1_1)}


@dataclass(frozen=True)
class Preset:
    """A form of the cross-attentions and where guidance stops."""

    name: str
    tca: Mode
    sca: Mode
    guided_fraction: float = 1.0  # of the steps, before the cut

    @property
    def lossy(self) -> bool:
        """Whether the form leaves out a cross-attention that the published model has."""
        return self.tca is False or self.sca is False

    @property
    def form(self) -> str:
        """The cross-attentions in words."""
        parts = {"temporal": self.tca, "spatial": self.sca}
        dropped = " and ".join(name for name, mode in parts.items() if mode is False)
        if dropped:
            return f"{dropped} cross-attention dropped"
        return "as published" if self.tca is self.sca is True else "cross-attentions cached"

    def cut_step(self, steps: int) -> int:
        """The first step without guidance, counted from 1; ``steps + 1`` when there is none."""
        return round(steps * self.guided_fraction) + 1


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("baseline", tca=True, sca=True),
        Preset("lossless", tca="linear_cached", sca="linear_cached"),
        Preset("vcut", tca=False, sca="linear_cached", guided_fraction=16 / 25),
    )
}
"""The presets by name."""


def choose_preset(preset: str | Preset, tca: Mode | None = None, sca: Mode | None = None) -> Preset:
    """Find the preset, with other modes of its cross-attentions where ``tca`` or ``sca`` are given.

    A preset whose modes were replaced has a star behind its name.

    Raises:
        ConfigError: there is no such preset, or no such mode.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ConfigError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    tca = preset.tca if tca is None else tca
    sca = preset.sca if sca is None else sca
    check_mode("tca", tca)
    check_mode("sca", sca)
    if (tca, sca) == (preset.tca, preset.sca):
        return preset
    return dataclasses.replace(preset, name=f"{preset.name}*", tca=tca, sca=sca)
