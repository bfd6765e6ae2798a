"""The UNet: levels of resnets and transformers going down, a middle, and levels going up with skips.

Shapes: b clips, f frames, h w grid, c channels, e width of the step's embedding, m context tokens, d context width.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from numbers import Real
from types import NoneType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.config import Level, Mode, UNetConfig, whole_number
from vcut.errors import ConfigError, check_type
from vcut.layers import Conv, FrameNorm, Modules, UpsamplingConv, is_packed
from vcut.unet.attention import CrossAttention
from vcut.unet.embedding import EmbeddingMLP, sinusoid
from vcut.unet.resnet import SpatioTemporalResnet
from vcut.unet.transformer import Block, BlockContext, Transformer, TransformerContext

LevelContext = tuple[TransformerContext | None, ...]
"""The part of a context that one level keeps: one item per layer, None where the layer has no transformer."""


class Context(NamedTuple):
    """Values that one UNet computes once per clip, nested as the UNet is, and valid for its present weights.

    It holds what the cross-attentions compute from the embedding, and the embedded positions of the frames.
    ``batch`` is the number of clips and ``frames`` that of their frames; ``widths`` are the channels of the levels,
    ``tca`` and ``sca`` the forms that it was made for.
    """

    down: tuple[LevelContext, ...]
    mid: TransformerContext
    up: tuple[LevelContext, ...]
    batch: int
    frames: int
    widths: tuple[int, ...]
    tca: Mode
    sca: Mode

    @property
    def transformers(self) -> tuple[TransformerContext, ...]:
        """The transformers' contexts in order of execution (16 in SVD)."""
        down, up = (
            [each for level in half for each in level if each is not None] for half in (self.down, self.up)
        )
        return (*down, self.mid, *up)

    @property
    def blocks(self) -> tuple[BlockContext, ...]:
        """The blocks' contexts in order of execution."""
        return tuple(block for transformer in self.transformers for block in transformer.blocks)


class Layer(nn.Module):
    """A resnet and the transformer behind it, if there is one. Its level runs both.

    A ``forward`` here would keep the resnet's input while the transformer runs: 30 % more memory at the peak.
    """

    def __init__(
        self, config: UNetConfig, in_channels: int, level: Level, *, emb_dim: int, eps: float
    ) -> None:
        super().__init__()
        self.resnet = SpatioTemporalResnet(
            in_channels, level.channels, emb_dim=emb_dim, eps=eps, groups=config.norm_groups
        )
        self.transformer = _transformer(config, level) if level.attention else None

    def cache_context(self, embedding: Tensor, frames: int) -> TransformerContext | None:
        """See :meth:`UNet.cache_context`."""
        return None if self.transformer is None else self.transformer.cache_context(embedding, frames)


class DownLevel(nn.Module):
    """Layers of one resolution, then a stride-2 convolution on all levels but the last."""

    def __init__(self, layers: list[Layer], downsample: Conv | None) -> None:
        super().__init__()
        self.layers = Modules[Layer](layers)
        self.downsample = downsample

    def cache_context(self, embedding: Tensor, frames: int) -> LevelContext:
        """See :meth:`UNet.cache_context`."""
        return tuple(layer.cache_context(embedding, frames) for layer in self.layers)

    def forward(self, x: Tensor, emb: Tensor, context: LevelContext, skips: list[Tensor]) -> Tensor:
        """Transform ``x [b, f, h, w, c]`` with ``emb [b, e]``; every result on the way is added to ``skips``."""
        for layer, cached in zip(self.layers, context, strict=True):
            x = layer.resnet(x, emb)
            if layer.transformer is not None:
                x = layer.transformer(x, cached)
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x


class Middle(nn.Module):
    """A resnet, a transformer and a resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig, *, emb_dim: int) -> None:
        super().__init__()
        level = config.levels[-1]
        channels, groups = level.channels, config.norm_groups
        self.resnet_1 = SpatioTemporalResnet(channels, channels, emb_dim=emb_dim, eps=1e-5, groups=groups)
        self.transformer = _transformer(config, level)
        self.resnet_2 = SpatioTemporalResnet(channels, channels, emb_dim=emb_dim, eps=1e-5, groups=groups)

    def forward(self, x: Tensor, emb: Tensor, context: TransformerContext) -> Tensor:
        """Transform ``x [b, f, h, w, c]`` with ``emb [b, e]``."""
        x = self.resnet_1(x, emb)
        x = self.transformer(x, context)
        return self.resnet_2(x, emb)


class UpLevel(nn.Module):
    """Upsampling with a convolution on all levels but the first, then layers of one resolution, each fed a skip."""

    def __init__(self, layers: list[Layer], upsample: UpsamplingConv | None) -> None:
        super().__init__()
        self.upsample = upsample
        self.layers = Modules[Layer](layers)

    def cache_context(self, embedding: Tensor, frames: int) -> LevelContext:
        """See :meth:`UNet.cache_context`."""
        return tuple(layer.cache_context(embedding, frames) for layer in self.layers)

    def forward(self, x: Tensor, emb: Tensor, context: LevelContext, skips: list[Tensor]) -> Tensor:
        """Transform ``x [b, f, h, w, c]`` with ``emb [b, e]``; every layer takes the last of ``skips``.

        Upsampling comes first, since the caller keeps ``x`` until this returns: here the small map, a quarter.
        """
        if self.upsample is not None:
            x = self.upsample(x)
        for layer, cached in zip(self.layers, context, strict=True):
            x = torch.cat([x, skips.pop()], dim=-1)
            x = layer.resnet(x, emb)
            if layer.transformer is not None:
                x = layer.transformer(x, cached)
        return x


class UNet(nn.Module):
    """F(x, c_noise; context, time_ids): the network of Stable Video Diffusion.

    Resnet norms run at eps 1e-5 as in the official code; ``config.diffusers_norm_eps`` sets the 1e-6 that
    diffusers ends up with in the down levels with attention and in all up levels.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        check_type("config", config, UNetConfig, NoneType)
        config = config or UNetConfig()
        self.config = config
        widths = [level.channels for level in config.levels]
        emb_dim = 4 * widths[0]
        last = len(widths) - 1

        self.time_embed = EmbeddingMLP(widths[0], emb_dim, emb_dim)
        self.vector_embed = EmbeddingMLP(config.time_ids * config.time_id_dim, emb_dim, emb_dim)
        self.conv_in = Conv(config.in_channels, widths[0], 3, padding=1)

        self.down = Modules[DownLevel]()
        channels, skips = widths[0], [widths[0]]
        for i, level in enumerate(config.levels):
            eps = 1e-6 if config.diffusers_norm_eps and level.attention else 1e-5
            layers = []
            for _ in range(config.layers):
                layers.append(Layer(config, channels, level, emb_dim=emb_dim, eps=eps))
                channels = level.channels
                skips.append(channels)
            downsample = None
            if i < last:
                downsample = Conv(channels, channels, 3, stride=2, padding=1)
                skips.append(channels)
            self.down.append(DownLevel(layers, downsample))

        self.mid = Middle(config, emb_dim=emb_dim)

        self.up = Modules[UpLevel]()
        eps = 1e-6 if config.diffusers_norm_eps else 1e-5
        for i, level in enumerate(reversed(config.levels)):
            upsample = UpsamplingConv(channels, channels) if i else None
            layers = []
            for _ in range(config.layers + 1):
                layers.append(Layer(config, channels + skips.pop(), level, emb_dim=emb_dim, eps=eps))
                channels = level.channels
            self.up.append(UpLevel(layers, upsample))

        self.norm_out = FrameNorm(config.norm_groups, channels, eps=1e-5)
        self.conv_out = Conv(channels, config.out_channels, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype; inputs are cast to it."""
        return self.conv_in.weight.dtype

    def transformers(self) -> Iterator[Transformer]:
        """The transformers in order of execution."""
        for level in self.down:
            yield from (layer.transformer for layer in level.layers if layer.transformer is not None)
        yield self.mid.transformer
        for up in self.up:
            yield from (layer.transformer for layer in up.layers if layer.transformer is not None)

    def cache_context(self, embedding: Tensor, frames: int) -> Context:
        """Do once, for a whole clip, what depends on the context and on the number of frames alone.

        The result is a plain value: differentiable, valid for this UNet's present weights.

        Args:
            embedding: ``[b, m, d]`` (m = 1 token in SVD; more need tca and sca to be softmax or absent), or
                ``[b, f, m, d]`` with one context per frame: spatial cross-attention then uses each frame's, temporal
                the first frame's.
            frames: f, the number of frames of every clip.

        Raises:
            ConfigError: the embedding has another shape, or its number of tokens or frames does not fit.
        """
        check_type("a context", embedding, Tensor)
        d = self.config.context_dim
        if not torch.compiler.is_compiling():  # a compiler's number may be a symbol, and comes from latents
            frames = whole_number("frames", frames)
        if embedding.ndim not in (3, 4) or embedding.shape[-1] != d or not embedding.is_floating_point():
            raise ConfigError(
                f"a context is [b, tokens, {d}] or [b, frames, tokens, {d}] of floating point, got "
                f"{list(embedding.shape)} of {embedding.dtype}"
            )
        if embedding.ndim == 4 and embedding.shape[1] != frames:
            raise ConfigError(
                f"the context has one embedding for each of {embedding.shape[1]} frames, "
                f"the clips have {frames}: give as many, or one per clip as [b, tokens, {d}]"
            )
        embedding = embedding.to(self.dtype)
        if embedding.ndim == 3:
            embedding = embedding[:, None]  # [b, 1, m, d]
        return Context(
            down=tuple(level.cache_context(embedding, frames) for level in self.down),
            mid=self.mid.transformer.cache_context(embedding, frames),
            up=tuple(level.cache_context(embedding, frames) for level in self.up),
            batch=embedding.shape[0],
            frames=frames,
            widths=self._widths(),
            tca=self.config.tca,
            sca=self.config.sca,
        )

    def forward(
        self, x: Tensor, c_noise: Tensor | float, context: Tensor | Context, time_ids: Tensor
    ) -> Tensor:
        """One pass of the network.

        Args:
            x: ``[b, f, in_channels, h, w]``: c_in times the noisy latents, then the image's latents.
            c_noise: ln(sigma) / 4, one number or ``[b]``.
            context: an embedding as :meth:`cache_context` takes it, or what it returned.
            time_ids: ``[b, 3]``: fps - 1, motion bucket, noise augmentation strength.

        Returns:
            ``[b, f, out_channels, h, w]`` in the parameters' dtype.

        Raises:
            ConfigError: a type or a shape does not fit; the message names the expected and the found.
        """
        check_type("x", x, Tensor)
        check_type("c_noise", c_noise, Tensor, Real)
        check_type("context", context, Tensor, Context)
        check_type("time_ids", time_ids, Tensor)
        if not isinstance(c_noise, Tensor):
            c_noise = torch.full((1,), float(c_noise), dtype=torch.float32, device=x.device)
        self._check(x, c_noise, time_ids)
        if isinstance(context, Tensor):
            context = self.cache_context(context, frames=x.shape[1])
        self._check_context(context, x)
        emb = self._embed(c_noise.expand(x.shape[0]), time_ids)

        x = x.to(self.dtype).movedim(2, -1).contiguous()  # [b, f, h, w, c]
        x = self.conv_in(x)
        skips = [x]
        for down, cached in zip(self.down, context.down, strict=True):
            x = down(x, emb, cached, skips)
        x = self.mid(x, emb, context.mid)
        for up, cached in zip(self.up, context.up, strict=True):
            x = up(x, emb, cached, skips)
        x = self.conv_out(F.silu(self.norm_out(x), inplace=True))
        return x.movedim(-1, 2)

    def _embed(self, c_noise: Tensor, time_ids: Tensor) -> Tensor:
        """The embedding ``[b, e]`` that all resnets receive, of the noise level ``[b]`` and ``time_ids [b, 3]``."""
        noise = sinusoid(c_noise, self.config.levels[0].channels)
        numbers = sinusoid(time_ids, self.config.time_id_dim).flatten(1)
        return self.time_embed(noise) + self.vector_embed(numbers)

    def _widths(self) -> tuple[int, ...]:
        return tuple(level.channels for level in self.config.levels)

    def _check(self, x: Tensor, c_noise: Tensor, time_ids: Tensor) -> None:
        c = self.config
        if x.ndim != 5 or x.shape[2] != c.in_channels or 0 in x.shape:
            raise ConfigError(f"latents are [b, f, {c.in_channels}, h, w], got {list(x.shape)}")
        h, w = x.shape[3:]
        if h % c.stride or w % c.stride:
            raise ConfigError(f"latent height and width must be multiples of {c.stride}, got {h}x{w}")
        if tuple(time_ids.shape) != (x.shape[0], c.time_ids):
            raise ConfigError(f"time_ids are [{x.shape[0]}, {c.time_ids}], got {list(time_ids.shape)}")
        if c_noise.numel() not in (1, x.shape[0]) or c_noise.ndim > 1:
            raise ConfigError(f"c_noise is a number or [{x.shape[0]}], got {list(c_noise.shape)}")

    def _check_context(self, context: Context, x: Tensor) -> None:
        if (context.tca, context.sca) != (self.config.tca, self.config.sca):
            raise ConfigError(
                f"the context was cached by a UNet with tca={context.tca!r}, sca={context.sca!r}, "
                f"this one has tca={self.config.tca!r}, sca={self.config.sca!r}: cache it again"
            )
        if context.widths != self._widths():
            raise ConfigError(
                f"the context was cached by a UNet of {list(context.widths)} channels, this one has "
                f"{list(self._widths())}: cache it again"
            )
        if (context.batch, context.frames) != tuple(x.shape[:2]):
            raise ConfigError(
                f"the context is for {context.batch} clips of {context.frames} frames, "
                f"the latents are {x.shape[0]} clips of {x.shape[1]} frames"
            )


def fold(unet: UNet, *, tca: Mode, sca: Mode) -> UNet:
    """A UNet whose cross-attentions have the modes ``tca`` and ``sca``, made from a trained one.

    Softmax attention folds into ``'linear_cached'`` (exact for one context token, :meth:`CrossAttention.fold`) or is
    dropped (False: another function, unless what it added was zero). All other tensors are shared with ``unet``:
    training one trains the other. ``copy.deepcopy`` the result to part them.

    Raises:
        ConfigError: for a way back, from ``'linear_cached'`` to True or from False to anything: the weights are
            gone. Or the weights are packed (:func:`vcut.layers.pack`).
    """
    check_type("unet", unet, UNet)
    if is_packed(unet):
        raise ConfigError("the weights are packed for this CPU: fold first, then pack")
    config = dataclasses.replace(unet.config, tca=tca, sca=sca)
    _refuse_way_back("tca", unet.config.tca, tca)
    _refuse_way_back("sca", unet.config.sca, sca)
    # Modules are copied, tensors are not: each parameter is replaced by another one around the same memory.
    same = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in unet.parameters()}
    folded = copy.deepcopy(unet, same)
    folded.config = config
    for transformer in folded.transformers():
        for block in transformer.spatial:
            _fold(block, sca)
        for block in transformer.temporal:
            _fold(block, tca)
    return folded


def _fold(block: Block, mode: Mode) -> None:
    if mode is False:
        block.cross = None
    elif mode == "linear_cached" and isinstance(block.cross, CrossAttention):
        block.cross = block.cross.fold()


def _refuse_way_back(flag: str, have: Mode, want: Mode) -> None:
    if have is False and want is not False:
        raise ConfigError(
            f"{flag}=False cannot become {flag}={want!r}: the weights of these cross-attentions were dropped; "
            "start from the original checkpoint"
        )
    if have == "linear_cached" and want is True:
        raise ConfigError(
            f"{flag}='linear_cached' cannot become {flag}=True: the product of to_out and to_v does not contain "
            "to_q, to_k and the norm; start from the original checkpoint"
        )


def _transformer(config: UNetConfig, level: Level) -> Transformer:
    return Transformer(
        level.channels,
        level.heads,
        context_dim=config.context_dim,
        depth=config.depth,
        tca=config.tca,
        sca=config.sca,
        groups=config.norm_groups,
    )
