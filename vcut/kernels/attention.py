"""Softmax attention: the fused kernel, or a few products written out where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.kernels.parts import in_parts

LONGEST_WRITTEN_OUT = 256
"""Tokens up to which :func:`attention` writes its logits down, on the CPU."""


SHORT = 16
"""A softmax over fewer keys, which do not fill a register of AVX-512, torch computes one number at a time."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(e)) v`` of ``[b, heads, n, e]``.

    torch's fused kernel is made for thousands of tokens. On the CPU two batched products and a softmax between them
    take half the time over 4 to 25 frames in half precision, and no more in float32. Half precision does this in
    float32, as the fused kernel does its logits.
    """
    if q.device.type != "cpu" or q.shape[-2] > LONGEST_WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v)
    b, heads, n, e = q.shape
    # What is held, logits and four tensors of q's shape in float32, over q itself; half a part is fastest.
    held = 4 * (n + 4 * e) / (e * q.element_size())
    return in_parts(_written_out, q, k, v, dim=0 if b >= heads else 1, growth=2 * held)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`attention` with all logits in memory."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = (each.flatten(0, 1).to(dtype) for each in (q, k, v))
    logits = torch.bmm(queries * q.shape[-1] ** -0.5, keys.mT)
    if q.shape[-2] >= SHORT:
        weights = logits.softmax(-1)
    else:
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.bmm(weights, values).to(q.dtype).view(q.shape)
