"""Softmax attention: the fused kernel, or a few products written out where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.kernels.parts import Parts

MOST_HEADS = 65_535
"""Number of heads that CUDA's attention kernels take in one call: the limit of a grid."""

LONGEST_WRITTEN_OUT = 256
"""Number of tokens up to which the CPU writes the logits out."""

SHORT = 16
"""Keys that fill one AVX-512 register. Over fewer, torch's softmax is scalar, so it is written out."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(e)) v`` of ``[b, heads, n, e]``.

    torch's fused kernel is made for thousands of tokens. On the CPU two batched products and a softmax between them
    take half the time over 4 to 25 frames in half precision, and no more in float32. Half precision does this in
    float32, as the fused kernel does its logits.
    """
    if q.shape[1] > MOST_HEADS:
        some = zip(*(torch.split(each, MOST_HEADS, dim=1) for each in (q, k, v)), strict=True)
        return torch.cat([attention(*each) for each in some], dim=1)
    if q.device.type != "cpu" or q.shape[-2] > LONGEST_WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v)
    b, heads, n, e = q.shape
    # Memory held per byte of q: the logits and four float32 copies of q. Parts of half the usual size are fastest.
    held = 4 * (n + 4 * e) / (e * q.element_size())
    if b >= heads:
        parts = Parts(q, dim=0, growth=2 * held)
        for some_items in parts:
            parts.keep(_written_out(q[some_items], k[some_items], v[some_items]))
    else:
        parts = Parts(q, dim=1, growth=2 * held)
        for some_heads in parts:
            parts.keep(_written_out(q[:, some_heads], k[:, some_heads], v[:, some_heads]))
    return parts.result


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`attention` with all logits in memory."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = (each.flatten(0, 1).to(dtype) for each in (q, k, v))
    logits = torch.bmm(queries * q.shape[-1] ** -0.5, keys.mT)
    if (
        torch.compiler.is_compiling() or q.shape[-2] >= SHORT
    ):  # compiled, one program takes any number of frames
        weights = logits.softmax(-1)
    else:
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.bmm(weights, values).to(q.dtype).view(q.shape)
