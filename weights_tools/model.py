"""The configuration of a model, as frozen dataclasses: what its networks are built of and what it was made for.

It lies here because every command judges a checkpoint by it, those that build no network too. ``vcut.config`` has
it beside the published configurations and the presets.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from weights_tools.errors import ConfigError

Mode = bool | Literal["linear_cached"]
"""Mode of a cross-attention: True (softmax, as trained), ``'linear_cached'``, False (absent)."""


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
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or number < least or (most is not None and number > most):
        raise ConfigError(f"{what} must be {wanted}, got {value!r:.300}")
    return number


_LARGEST_FLOAT = sys.float_info.max


def number(what: str, value: Any, least: float = -_LARGEST_FLOAT, most: float = _LARGEST_FLOAT) -> float:
    """``value`` as a float, whatever type of number it has. Infinity is one if it is ``most``.

    Raises:
        ConfigError: it is no number, or outside of ``least`` to ``most``.
    """
    try:
        found = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    if not least <= found <= most:
        bounds = (
            f"a number from {least:g} to {most:g}"
            if most < _LARGEST_FLOAT
            else f"a number of at least {least:g}"
        )
        wanted = "a finite number" if least == -_LARGEST_FLOAT else bounds
        raise ConfigError(f"{what} must be {wanted}, got {value!r:.300}")
    return found


_LARGEST = 1_000_000
"""Bound of every whole number of a configuration, so that a lying one is refused before it is computed with."""


def _check_divides(what: str, sizes: tuple[int, ...], divisor: int, into: str) -> None:
    for size in sizes:
        if size < 1 or size % divisor:
            raise ConfigError(f"{what} {size} do not divide into {divisor} {into}")


def _check_fields(config: object, **least: int) -> None:
    """Raise :class:`ConfigError` unless each field has the type that it is declared with, and a sensible value.

    Whole numbers are at least 1, or what ``least`` says, and are kept as plain ones; other numbers are above 0.
    """
    for each in dataclasses.fields(config):  # type: ignore[arg-type]
        what, value = f"{type(config).__name__}.{each.name}", getattr(config, each.name)
        if each.type == "int":
            object.__setattr__(
                config, each.name, whole_number(what, value, least.get(each.name, 1), _LARGEST)
            )
        elif each.type == "tuple[int, ...]":
            sizes = value if isinstance(value, list | tuple) and value else ("",)
            object.__setattr__(
                config, each.name, tuple(whole_number(what, size, 1, _LARGEST) for size in sizes)
            )
        elif each.type == "bool" and not isinstance(value, bool):
            raise ConfigError(f"{what} must be True or False, got {value!r}")
        elif each.type == "str" and not (isinstance(value, str) and 0 < len(value) <= 255):
            raise ConfigError(f"{what} must be a text of 1 to 255 characters, got {value!r:.300}")
        elif each.type == "float" and not (type(value) in (int, float) and 1e-6 <= value <= _LARGEST):
            raise ConfigError(f"{what} must be a number from 0.000001 to {_LARGEST:,}, got {value!r:.300}")


@dataclass(frozen=True)
class Level:
    """One resolution of the UNet. ``heads`` counts attention heads; the last level's serve the middle too."""

    channels: int
    heads: int
    attention: bool = True

    def __post_init__(self) -> None:
        _check_fields(self)


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
        _check_fields(self)
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
            raise ConfigError(f"not a configuration of a UNet: {error!r}") from error


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
        # with 0 layers the decoder still has one resnet a level
        _check_fields(self, layers=0)
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
        _check_fields(self)
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
        _check_fields(self, motion_bucket=0)
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
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return data

    @staticmethod
    def from_dict(data: dict[str, Any]) -> SVDConfig:
        """Read what :meth:`to_dict` wrote. Unknown or ill-typed fields raise :class:`ConfigError`."""
        try:
            networks = {
                "unet": UNetConfig.from_dict(data["unet"]),
                "vae": VAEConfig(**data["vae"]),
                "clip": CLIPConfig(**data["clip"]),
            }
            return SVDConfig(**{**data, **networks})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a model configuration: {error!r}") from error
