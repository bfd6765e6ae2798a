"""The UNet: levels of resnets and transformers going down, a middle, and levels going up with skips."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import weights_tools.fold
from vcut.config import Level, Mode, UNetConfig
from vcut.errors import ConfigError
from vcut.layers import Conv, FrameNorm, Modules, UpsamplingConv, is_packed
from vcut.unet.attention import Context, TransformerContext
from vcut.unet.embedding import EmbeddingMLP, sinusoid
from vcut.unet.resnet import SpatioTemporalResnet
from vcut.unet.transformer import Transformer


class Layer(nn.Module):
    """A resnet, and a transformer behind it where the level has attention."""

    def __init__(
        self, config: UNetConfig, in_channels: int, level: Level, *, emb_dim: int, eps: float
    ) -> None:
        super().__init__()
        self.resnet = SpatioTemporalResnet(
            in_channels, level.channels, emb_dim=emb_dim, eps=eps, groups=config.norm_groups
        )
        self.transformer = _transformer(config, level) if level.attention else None


class DownLevel(nn.Module):
    """Layers of one resolution, then a stride-2 convolution on all levels but the last."""

    def __init__(self, layers: list[Layer], downsample: Conv | None) -> None:
        super().__init__()
        self.layers = Modules[Layer](layers)
        self.downsample = downsample


class Middle(nn.Module):
    """resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig, *, emb_dim: int) -> None:
        super().__init__()
        level = config.levels[-1]
        channels = level.channels

        def resnet() -> SpatioTemporalResnet:
            return SpatioTemporalResnet(
                channels, channels, emb_dim=emb_dim, eps=1e-5, groups=config.norm_groups
            )

        self.resnet_1 = resnet()
        self.transformer = _transformer(config, level)
        self.resnet_2 = resnet()


class UpLevel(nn.Module):
    """Layers of one resolution, each fed a skip, then upsampling with a convolution on all but the last."""

    def __init__(self, layers: list[Layer], upsample: UpsamplingConv | None) -> None:
        super().__init__()
        self.layers = Modules[Layer](layers)
        self.upsample = upsample


class UNet(nn.Module):
    """F(x, c_noise; context, time_ids): the network of Stable Video Diffusion.

    Resnet norms run at eps 1e-5 as in the official code; ``config.diffusers_norm_eps`` sets the 1e-6 that
    diffusers ends up with in the down levels with attention and in all up levels.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
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
            layers = []
            for _ in range(config.layers + 1):
                layers.append(Layer(config, channels + skips.pop(), level, emb_dim=emb_dim, eps=eps))
                channels = level.channels
            upsample = UpsamplingConv(channels, channels) if i < last else None
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

    def cache_context(self, embedding: Tensor, frames: int | None = None) -> Context:
        """Do once, for a whole clip, what the cross-attentions compute from the context alone.

        ``embedding`` is ``[b, m, d]`` (m = 1 token in SVD; more need tca and sca to be softmax or absent), or
        ``[b, f, m, d]`` with one context per frame: spatial cross-attention then uses each frame's, temporal
        the first frame's. With ``frames``, their number, their positions are embedded once too. The result is a
        plain value: differentiable, valid for this UNet's present weights.
        """
        d = self.config.context_dim
        if embedding.ndim not in (3, 4) or embedding.shape[-1] != d:
            raise ConfigError(
                f"a context is [b, tokens, {d}] or [b, frames, tokens, {d}], got {list(embedding.shape)}"
            )
        embedding = embedding.to(self.dtype)
        if embedding.ndim == 3:
            embedding = rearrange(embedding, "b m d -> b 1 m d")
        blocks = tuple(block for t in self.transformers() for block in t.cache_context(embedding))
        b, g = embedding.shape[:2]
        positions = None if frames is None else self._positions(frames)
        return Context(blocks, b, g, self.config.tca, self.config.sca, positions)

    def _positions(self, frames: int) -> tuple[Tensor, ...]:
        return tuple(transformer.positions(frames) for transformer in self.transformers())

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor | Context,
        time_ids: Tensor,
        image_only: Tensor | None = None,
    ) -> Tensor:
        """One pass of the network.

        Args:
            x: ``[b, f, in_channels, h, w]``: c_in times the noisy latents, then the image's latents.
            c_noise: ``[b]`` or a scalar, ln(sigma) / 4.
            context: an embedding as :meth:`cache_context` takes it, or what it returned.
            time_ids: ``[b, 3]``: fps - 1, motion bucket, noise augmentation strength.
            image_only: ``[b, f]``, true where a frame is a still image without neighbours in time.

        Returns:
            ``[b, f, out_channels, h, w]`` in the parameters' dtype.

        Raises:
            ConfigError: a shape does not fit; the message names the expected and the found.
        """
        self._check(x, c_noise, time_ids)
        if isinstance(context, Tensor):
            context = self.cache_context(context)
        b, f = x.shape[:2]
        if (context.tca, context.sca) != (self.config.tca, self.config.sca):
            raise ConfigError(
                f"the context was cached by a UNet with tca={context.tca!r}, sca={context.sca!r}, "
                f"this one has tca={self.config.tca!r}, sca={self.config.sca!r}: cache it again"
            )
        if context.batch != b or context.frames not in (1, f):
            raise ConfigError(
                f"the context is for {context.batch} clips (frames: {context.frames}), "
                f"the latents are {b} clips of {f} frames"
            )
        positions = self._positions(f) if context.positions is None else context.positions
        if len(positions[0]) != f:
            raise ConfigError(
                f"the context has the positions of {len(positions[0])} frames, the latents are {f}"
            )
        c = self.config
        blocks = iter(context.blocks)
        contexts = (TransformerContext(tuple(islice(blocks, c.depth)), each) for each in positions)

        noise = self.time_embed(sinusoid(c_noise.expand(b), c.levels[0].channels))
        numbers = rearrange(sinusoid(time_ids, c.time_id_dim), "b k e -> b (k e)")
        emb = noise + self.vector_embed(numbers)  # [b, e]

        x = rearrange(x.to(self.dtype), "b f c h w -> b f h w c").contiguous()
        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for layer in level.layers:  # not calls of their own, whose frames would keep the input alive
                x = layer.resnet(x, emb, image_only)
                if layer.transformer is not None:
                    x = layer.transformer(x, next(contexts), image_only)
                skips.append(x)
            if level.downsample is not None:
                x = level.downsample(x)
                skips.append(x)
        x = self.mid.resnet_1(x, emb, image_only)
        x = self.mid.transformer(x, next(contexts), image_only)
        x = self.mid.resnet_2(x, emb, image_only)
        for up in self.up:
            for layer in up.layers:
                x = torch.cat([x, skips.pop()], dim=-1)
                x = layer.resnet(x, emb, image_only)
                if layer.transformer is not None:
                    x = layer.transformer(x, next(contexts), image_only)
            if up.upsample is not None:
                x = up.upsample(x)
        return rearrange(self.conv_out(F.silu(self.norm_out(x), inplace=True)), "b f h w c -> b f c h w")

    def _check(self, x: Tensor, c_noise: Tensor, time_ids: Tensor) -> None:
        c = self.config
        if x.ndim != 5 or x.shape[2] != c.in_channels:
            raise ConfigError(f"latents are [b, f, {c.in_channels}, h, w], got {list(x.shape)}")
        h, w = x.shape[3:]
        if h % c.stride or w % c.stride:
            raise ConfigError(f"latent height and width must be multiples of {c.stride}, got {h}x{w}")
        if tuple(time_ids.shape) != (x.shape[0], c.time_ids):
            raise ConfigError(f"time_ids are [{x.shape[0]}, {c.time_ids}], got {list(time_ids.shape)}")
        if c_noise.numel() not in (1, x.shape[0]) or c_noise.ndim > 1:
            raise ConfigError(f"c_noise is a scalar or [{x.shape[0]}], got {list(c_noise.shape)}")


def fold(unet: UNet, *, tca: Mode, sca: Mode) -> UNet:
    """A UNet whose cross-attentions have the modes ``tca`` and ``sca``, made from a trained one.

    Softmax attention folds into ``'linear_cached'`` (exact for one context token) or is dropped (False: another
    function, unless what it added was zero). All other tensors are shared with ``unet``: training one trains the
    other. ``copy.deepcopy`` the result to part them.

    Raises:
        ConfigError: for a way back, from ``'linear_cached'`` to True or from False to anything: the weights are
            gone. Or the weights are packed (:func:`vcut.layers.pack`).
    """
    if is_packed(unet):
        raise ConfigError("the weights are packed for this CPU: fold first, then pack")
    config = dataclasses.replace(unet.config, tca=tca, sca=sca)
    state = weights_tools.fold.fold(unet.state_dict(), tca=tca, sca=sca)
    with torch.device("meta"):
        folded = UNet(config)
    folded.load_state_dict(state, strict=True, assign=True)
    trained = any(parameter.requires_grad for parameter in unet.parameters())
    wanted = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    for name, parameter in folded.named_parameters():
        parameter.requires_grad_(wanted.get(name, trained))
    return folded.train(unet.training)


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
