"""The primitives that the UNet and the VAE share.

Shapes: b clips, f frames, h w grid, c channels. Activations are channels-last, ``[b, f, h, w, c]`` in
memory, so that 2-D convolutions, per-token linear layers, attention over space or over time and temporal
convolutions are all views of the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vcut.products import Conv2d, UpsamplingConv2d

M = TypeVar("M", bound=nn.Module)

PART_BYTES = {"cpu": 16 << 20, "meta": math.inf}
LARGEST_PART_BYTES = 128 << 20
"""How much of a large input is worked on at a time: on the CPU what its caches hold, elsewhere what keeps a GPU
busy. It bounds the memory of everything in between. On the meta device nothing is held, unless one asks how much
would be (:mod:`vcut.live_memory`)."""


def in_parts(compute: Callable[..., Tensor], *inputs: Tensor, dim: int = 0, growth: float = 1.0) -> Tensor:
    """``compute(*inputs)`` for a function that treats every slice along ``dim`` alone, some slices at a time.

    What ``compute`` holds in between exists for one part only, and the caches hold it. ``growth`` is how many times
    larger than the first input that gets. While gradients are recorded it would all be kept anyway, and a compiler
    fuses for itself: then the whole is one part.
    """
    slices = inputs[0].shape[dim]
    count = slices_at_a_time(inputs[0], dim, growth)
    if count >= slices:
        return compute(*inputs)
    out: Tensor | None = None
    for start, *parts in zip(
        range(0, slices, count), *(torch.split(tensor, count, dim) for tensor in inputs), strict=True
    ):
        result = compute(*parts)
        if result.is_meta and out is not None:
            break  # two parts hold what all hold, one after the other
        if out is None:
            shape = list(result.shape)
            shape[dim] = slices
            out = result.new_empty(shape)
        out.narrow(dim, start, result.shape[dim]).copy_(result)
    assert out is not None
    return out


def slices_at_a_time(x: Tensor, dim: int, growth: float = 1.0) -> int:
    """How many slices of ``x`` along ``dim`` a part has, for :func:`in_parts`: at least 1, all when not parted.

    Parts are as even as can be: their memory is then of one size, which the allocator gives again and again.
    """
    slices = max(1, x.shape[dim])
    budget = PART_BYTES.get(x.device.type, LARGEST_PART_BYTES) / growth
    size = x.numel() * x.element_size()
    if size <= budget or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return slices
    most = max(1, int(budget * slices / size))
    return math.ceil(slices / math.ceil(slices / most))


class Modules(nn.ModuleList, Generic[M]):
    """A ModuleList whose items have a type."""

    def __iter__(self) -> Iterator[M]:
        return cast("Iterator[M]", super().__iter__())


class GroupNorm(nn.GroupNorm):
    """Group normalisation of ``[n, ..., c]`` over everything but n, within each group of channels.

    Half precision is normalised in float32 and cast back, as the official GroupNorm32 does. The moments are taken
    channel by channel, about each channel's own mean, so a large mean costs no digits, and then merged within the
    groups: total variance is that within channels plus that between them. What is left is one scale and shift per
    channel, which is a batch norm; on the CPU torch's batch norm is what is fast on this layout, five times faster
    than its group norm on maps of some hundred pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        recording = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if x.device.type == "cpu" and not (recording or torch.compiler.is_compiling()):
            return self._as_batch_norm(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        tokens = x.flatten(1, -2)  # [n, t, c]
        mean = tokens.mean(dim=1, keepdim=True, dtype=dtype)  # per channel, [n, 1, c]
        centred = tokens - mean
        parts = torch.split(centred, slices_at_a_time(centred, dim=1, growth=4), dim=1)
        var = torch.stack([part.square().sum(dim=1) for part in parts]).sum(0) / tokens.shape[1]
        group_mean, group_var = self._merged(mean[:, 0], var)
        scale = torch.rsqrt(group_var + self.eps) * self.weight.to(dtype)
        shift = (mean[:, 0] - group_mean) * scale + self.bias.to(dtype)
        place = None if torch.is_grad_enabled() else centred
        return torch.addcmul(shift[:, None], centred, scale[:, None], out=place).to(x.dtype).view(x.shape)

    def _as_batch_norm(self, x: Tensor) -> Tensor:
        """The same, one item of the batch at a time, each read twice and written once."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        items = rearrange(x.flatten(1, -2), "n t c -> n 1 c t 1")  # views that torch knows as channels_last
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        unused = torch.zeros_like(bias)  # batch norm's running moments; their dtype is that of the result
        moments = [torch.batch_norm_update_stats(item, unused, unused, 0.0) for item in items]
        mean, var = self._merged(*(torch.stack(each) for each in zip(*moments, strict=True)))
        out = torch.empty_like(items)
        for i, item in enumerate(items):
            torch.native_batch_norm(
                item,
                weight,
                bias,
                mean[i],
                var[i],
                False,
                0.0,
                self.eps,
                out=(out[i], unused[:0], unused[:0]),
            )
        return rearrange(out, "n 1 c t 1 -> n t c").view(x.shape)

    def _merged(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Moments ``[n, c]`` of channels to those of their groups, as ``[n, c]``."""
        grouped = rearrange(mean, "n (g k) -> n g k", g=self.num_groups)
        group_mean = grouped.mean(-1, keepdim=True)
        within = rearrange(var, "n (g k) -> n g k", g=self.num_groups)
        group_var = (within + (grouped - group_mean).square()).mean(-1, keepdim=True)
        return group_mean.expand_as(grouped).flatten(1), group_var.expand_as(grouped).flatten(1)


class FrameNorm(GroupNorm):
    """Group normalisation of ``[b, f, ..., c]``, the moments taken over one frame each."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(x.shape)


class Conv(Conv2d):
    """A 2-D convolution of ``[b, f, h, w, c]``, frame by frame."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(0, 1)), "(b f) h w c -> b f h w c", b=x.shape[0])


class UpsamplingConv(UpsamplingConv2d):
    """Double h and w of ``[b, f, h, w, c]`` by repetition, then a 3x3 convolution, some frames at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return in_parts(self._frames, x, dim=1, growth=4)

    def _frames(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(0, 1)), "(b f) h w c -> b f h w c", b=x.shape[0])


class TemporalConv(Conv2d):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames, as a (3, 1) convolution of ``[f, h*w]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=(3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(2, 3)), "b f (h w) c -> b f h w c", h=x.shape[2])
