"""Normalisation with given moments, of channels-last activations.

Shapes: n items, t tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vcut.kernels.runtime import is_watched

Merge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mean and variance of each channel, ``[n, c]``, to the mean and variance that it is normalised with, ``[n, c]``."""

MIXING = ("cuda", "meta")
"""Devices whose kernels read half precision and compute in float32, so that no copy in float32 is made. torch's own
group norm would copy to another layout and back there, and round the moments. The meta device stands for a GPU."""

SMALL = 1 << 17
"""Number of values up to which an item is small: a CPU then has all items in its caches, or nearly, and reading them
once more costs less than calling it for each. Items alone decide, so that none depends on the others."""


def normalised(x: Tensor, merge: Merge, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of ``x [n, t, c]``.

    ``mean`` and ``var`` are what ``merge`` makes of the channels' own moments, which half precision has in float32.
    The result is rounded once.
    """
    plain = is_watched(x, weight) or torch.compiler.is_compiling()
    on_cpu = x.device.type == "cpu" and not plain
    if on_cpu and x.shape[1:].numel() > SMALL:
        return _as_batch_norm(x, merge, weight, bias, eps)
    dtype = torch.promote_types(x.dtype, torch.float32)
    mixes = x.device.type in MIXING and not plain
    if mixes and x.dtype != dtype:
        own_mean = x.mean(dim=1, dtype=dtype)
        own_var = torch.var(x, dim=1, correction=0, out=torch.empty_like(own_mean))
    elif on_cpu:  # over this axis several times as fast as var_mean
        own_mean = x.mean(dim=1, dtype=dtype)
        own_var = (x - own_mean[:, None]).square_().mean(dim=1)
    else:
        own_var, own_mean = torch.var_mean(x.to(dtype), dim=1, correction=0)
    mean, var = merge(own_mean, own_var)
    scale = torch.rsqrt(var + eps) * weight.to(dtype)
    shift = bias.to(dtype) - mean * scale
    if mixes:
        return torch.addcmul(shift[:, None], x, scale[:, None], out=torch.empty_like(x))
    return torch.addcmul(shift[:, None], x.to(dtype), scale[:, None]).to(x.dtype)


def _as_batch_norm(x: Tensor, merge: Merge, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """:func:`normalised` of large items by torch's batch norm, one at a time, each read twice and written once.

    On a CPU torch's group norm is slow on this layout.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    items = x.mT[:, None, :, :, None]  # [n, 1, c, t, 1], views that torch knows as channels_last
    weight, bias = weight.to(dtype), bias.to(dtype)
    unused = torch.zeros_like(bias)  # batch norm's running moments; their dtype is that of the result
    moments = [torch.batch_norm_update_stats(item, unused, unused, 0.0) for item in items]
    own_mean, own_var = (torch.stack(each) for each in zip(*moments, strict=True))
    mean, var = merge(own_mean, own_var)
    out = torch.empty_like(items)
    for i, item in enumerate(items):
        place = (out[i], unused[:0], unused[:0])
        torch.native_batch_norm(item, weight, bias, mean[i], var[i], False, 0.0, eps, out=place)
    return out[:, 0, :, :, 0].mT
