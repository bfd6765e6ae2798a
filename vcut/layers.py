"""The primitives that the UNet and the VAE share.

Shapes: b clips, f frames, h w grid, c channels. Activations are channels-last, ``[b, f, h, w, c]`` in
memory, so that 2-D convolutions, per-token linear layers, attention over space or over time and temporal
convolutions are all views of the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """A ModuleList whose items have a type."""

    def __iter__(self) -> Iterator[M]:
        return cast("Iterator[M]", super().__iter__())


class GroupNorm(nn.GroupNorm):
    """Group normalisation of ``[n, ..., c]`` over everything but n, within each group of channels.

    Half precision is normalised in float32 and cast back, as the official GroupNorm32 does. The affine
    step folds into one scale and shift per channel: the input is read once for the moments, once to apply.
    """

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        tokens = x.flatten(1, -2).to(dtype)  # [n, t, c]
        var, mean = torch.var_mean(tokens, dim=1, correction=0)  # per channel, [n, c]
        mean_g = rearrange(mean, "n (g k) -> n g k", g=self.num_groups)
        var_g = rearrange(var, "n (g k) -> n g k", g=self.num_groups)
        # law of total variance: within channels plus between channels
        group_mean = mean_g.mean(-1, keepdim=True)
        group_var = var_g.mean(-1, keepdim=True) + mean_g.var(-1, correction=0, keepdim=True)
        inv_std = torch.rsqrt(group_var + self.eps)
        scale = rearrange(self.weight.to(dtype), "(g k) -> g k", g=self.num_groups) * inv_std
        shift = rearrange(self.bias.to(dtype), "(g k) -> g k", g=self.num_groups) - group_mean * scale
        out = torch.addcmul(
            rearrange(shift, "n g k -> n 1 (g k)"), tokens, rearrange(scale, "n g k -> n 1 (g k)")
        )
        return out.to(x.dtype).view(x.shape)


class FrameNorm(GroupNorm):
    """Group normalisation of ``[b, f, ..., c]``, the moments taken over one frame each."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(x.shape)


class Conv(nn.Conv2d):
    """A 2-D convolution of ``[b, f, h, w, c]``, frame by frame."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(_channels_first(x.flatten(0, 1)))
        return rearrange(y, "(b f) c h w -> b f h w c", b=x.shape[0]).contiguous()


class TemporalConv(nn.Conv2d):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames, as a (3, 1) convolution of ``[f, h*w]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=(3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(_channels_first(x.flatten(2, 3)))
        return rearrange(y, "b c f (h w) -> b f h w c", h=x.shape[2]).contiguous()


def upsample_nearest(x: Tensor) -> Tensor:
    """Double h and w of ``[b, f, h, w, c]`` by repetition."""
    y = F.interpolate(_channels_first(x.flatten(0, 1)), scale_factor=2.0, mode="nearest")
    return rearrange(y, "(b f) c h w -> b f h w c", b=x.shape[0])


def _channels_first(x: Tensor) -> Tensor:
    """``[n, i, j, c] -> [n, c, i, j]``, a view that torch knows as channels_last, without a copy.

    Axes must be merged before this, by ``flatten``: einops merges by its own strides, and with n = 1 torch would
    not recognise them.
    """
    return rearrange(x, "n i j c -> n c i j")
