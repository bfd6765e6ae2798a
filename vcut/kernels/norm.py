"""Normalisation with given moments, of channels-last activations.

Shapes: n items, t tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vcut.kernels.parts import Parts
from vcut.kernels.runtime import is_watched

Merge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mean and variance of each channel, ``[n, c]``, to the mean and variance that it is normalised with, ``[n, c]``."""


def normalised(x: Tensor, merge: Merge, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of ``x [n, t, c]``.

    ``mean`` and ``var`` are what ``merge`` makes of the channels' own moments. Those are taken about each channel's
    own mean, so a large mean costs no digits. Half precision is computed in float32 and rounded once.
    """
    if x.device.type == "cpu" and not (is_watched(x, weight) or torch.compiler.is_compiling()):
        return _as_batch_norm(x, merge, weight, bias, eps)
    dtype = torch.promote_types(x.dtype, torch.float32)
    own_mean = x.mean(dim=1, keepdim=True, dtype=dtype)
    parts = Parts(x, dim=1, growth=4 * dtype.itemsize / x.itemsize)
    # Gradients want one centred copy; many parts are centred twice, so that it is never held as a whole.
    only = x - own_mean if len(parts) == 1 else None

    def centred(some: slice) -> Tensor:
        return x[:, some] - own_mean if only is None else only

    own_var = torch.stack([centred(some).square().sum(dim=1) for some in parts]).sum(0) / x.shape[1]
    mean, var = merge(own_mean[:, 0], own_var)
    scale = (torch.rsqrt(var + eps) * weight.to(dtype))[:, None]
    shift = (own_mean - mean[:, None]) * scale + bias.to(dtype)
    for some in parts:
        parts.keep(torch.addcmul(shift, centred(some), scale).to(x.dtype))
    return parts.result


def _as_batch_norm(x: Tensor, merge: Merge, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """:func:`normalised` by torch's batch norm, one item at a time, each read twice and written once.

    On the CPU that is what is fast on this layout: five times faster than torch's group norm on maps of some hundred
    pixels.
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
