"""Attention: the math that this project audits.

Stable Video Diffusion gives its cross-attentions ONE context token. A softmax over one key is
``exp(s - s) / exp(s - s)``, exactly 1 for every finite logit s in every floating-point type, so for a context e
of one token

    CA(x, e) = W_o (1 * W_v e) + b_o = (W_o W_v) e + b_o

holds for every query x: every pixel, every frame, every denoising step (Taghipour et al., sections III-A and
III-B). W_q, W_k and the LayerNorm before them cannot reach the output. :class:`CrossAttention` is the
published computation, :class:`LinearCrossAttention` the right-hand side, its two matrices folded into one. More
than one token breaks the identity, and the linear form refuses it.

Both split their work in two: ``cache(embedding)`` does what depends on the context alone, and
``forward(x, cached)`` the rest. The cached part is a value that the caller holds, never module state.
:meth:`CrossAttention.fold` leads from the first form to the second; there is no way back.

Shapes: b clips, f frames, n = h*w pixels, c channels, m context tokens, d context width; g is 1 when a clip's
frames share one context and f when every frame has its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.config import Mode
from vcut.errors import ConfigError
from vcut.kernels.attention import attention

Axis = Literal["space", "time"]


class KeyValue(NamedTuple):
    """Keys and values of one softmax cross-attention, each ``[b, g, m, c]``."""

    key: Tensor
    value: Tensor


Cached = KeyValue | Tensor | None
"""The part of a context that one cross-attention keeps: keys and values, one vector ``[b, g, 1, c]``, or nothing."""


class SelfAttention(nn.Module):
    """Multi-head attention of ``x [b, f, n, c]`` among the pixels of a frame or the frames of a pixel.

    The heads reach the kernel as views of ``x``'s own layout. Over time the pixels join the head axis,
    ``[b, n*heads, f, c/heads]``.
    """

    def __init__(self, channels: int, heads: int, axis: Axis) -> None:
        super().__init__()
        self.heads = heads
        self.axis = axis
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(to(x), self.heads) for to in (self.to_q, self.to_k, self.to_v))  # [b, f, n, k, e]
        # over space [b*f, n, k, e], over time [b, f, n*k, e]
        first = 0 if self.axis == "space" else 2
        q, k, v = (t.flatten(first, first + 1).transpose(1, 2) for t in (q, k, v))
        return self.to_out(attention(q, k, v).transpose(1, 2).reshape(x.shape))


class CrossAttention(nn.Module):
    """Softmax attention of every pixel to the context, with the LayerNorm before it: as trained.

    Queries do not see each other, so space and time need no arrangement of their own: a clip's f*n queries
    meet its one context in one call, and no order of rows can go wrong.
    """

    def __init__(self, channels: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def cache(self, embedding: Tensor) -> KeyValue:
        """Keys and values ``[b, g, m, c]`` of ``embedding [b, g, m, d]``."""
        if not embedding.shape[2]:
            raise ConfigError("softmax attention needs a context of at least one token, got 0")
        return KeyValue(self.to_k(embedding), self.to_v(embedding))

    def forward(self, x: Tensor, cached: KeyValue) -> Tensor:
        """The tensor that is added to ``x [b, f, n, c]``, of the same shape."""
        b, g, m, c = cached.key.shape
        q = self.to_q(self.norm(x)).reshape(b * g, -1, c)  # all queries of a context, [b*g, f/g*n, c]
        k, v = (t.reshape(b * g, m, c) for t in cached)
        q, k, v = (split(t, self.heads).transpose(1, 2) for t in (q, k, v))  # [b*g, k, ..., e]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).reshape(x.shape))

    def fold(self) -> LinearCrossAttention:
        """The linear form, equal for every context of one token: ``W = W_o W_v``, and the same ``b_o``.

        The product is taken in float64 and rounded once. It is frozen if both its matrices are.
        """
        w_o, w_v = self.to_out.weight, self.to_v.weight
        # Apple's GPUs have no float64.
        exact = torch.device("cpu") if w_o.device.type == "mps" else w_o.device
        product = w_o.detach().to(exact, torch.float64) @ w_v.detach().to(exact, torch.float64)
        with torch.device("meta"):
            folded = LinearCrossAttention(*w_v.shape)
        trained = w_o.requires_grad or w_v.requires_grad
        folded.linear.weight = nn.Parameter(product.to(w_o.device, w_o.dtype), requires_grad=trained)
        folded.linear.bias = self.to_out.bias
        return folded.train(self.training)


class LinearCrossAttention(nn.Module):
    """The same for one context token: ``(W_o W_v) e + b_o``, one vector per clip, added everywhere."""

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_dim, channels)

    def cache(self, embedding: Tensor) -> Tensor:
        """The vector ``[b, g, 1, c]`` of ``embedding [b, g, 1, d]``."""
        tokens = embedding.shape[2]
        if tokens != 1:
            raise ConfigError(
                f"'linear_cached' needs a context of exactly one token, got {tokens}: only over a single key is "
                "the softmax identically 1. Use tca=True, sca=True for longer contexts"
            )
        return self.linear(embedding)

    def forward(self, x: Tensor, cached: Tensor) -> Tensor:
        """The vector that is added to ``x [b, f, n, c]``: the cached one, whatever x is."""
        return cached


def split(x: Tensor, heads: int) -> Tensor:
    """Channels as heads: ``[..., c]`` to ``[..., heads, c/heads]``."""
    return x.unflatten(-1, (heads, -1))


def cross_attention(
    mode: Mode, channels: int, heads: int, context_dim: int
) -> CrossAttention | LinearCrossAttention | None:
    """The cross-attention of ``mode``: True (softmax), ``'linear_cached'``, False (absent)."""
    if mode is True:
        return CrossAttention(channels, heads, context_dim)
    if mode == "linear_cached":
        return LinearCrossAttention(channels, context_dim)
    return None
