"""Group normalisation of channels-last activations, ``[b, f, h, w, c]``."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vcut.kernels.parts import slices_at_a_time


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
