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

Shapes: b clips, f frames, n = h*w pixels, c channels, m context tokens, d context width; g is 1 when a clip's
frames share one context and f when every frame has its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut.config import Mode
from vcut.errors import ConfigError
from vcut.kernels.attention import attention
from vcut.layers import Linear

Axis = Literal["space", "time"]


class KeyValue(NamedTuple):
    """Keys and values of one softmax cross-attention, each ``[b, g, m, c]``."""

    key: Tensor
    value: Tensor


Cached = KeyValue | Tensor | None
"""What one cross-attention keeps of a context: keys and values, one vector ``[b, g, 1, c]``, or nothing."""


class BlockContext(NamedTuple):
    """The cached context of one spatial and one temporal cross-attention."""

    spatial: Cached
    temporal: Cached


class TransformerContext(NamedTuple):
    """What one transformer is given besides the stream: its blocks' contexts, and its frames' positions."""

    blocks: tuple[BlockContext, ...]
    positions: Tensor  # [f, 1, c]


class Context(NamedTuple):
    """What one UNet computes once per clip: its cross-attentions' contexts and, if asked, its frames' positions.

    ``blocks`` holds one :class:`BlockContext` per transformer block in order of execution (16 in SVD);
    ``batch`` is the number of clips and ``frames`` is g: 1, or the number of frames with a context each. ``tca``
    and ``sca`` are the forms it was made for. ``positions`` holds one ``[f, 1, c]`` per transformer, or is None:
    then every call embeds them anew.
    """

    blocks: tuple[BlockContext, ...]
    batch: int
    frames: int
    tca: Mode
    sca: Mode
    positions: tuple[Tensor, ...] | None = None


MOST_HEADS = 65_535
"""How many heads, over all batch entries, CUDA's attention kernels take in one call: the limit of a grid."""


class SelfAttention(nn.Module):
    """Multi-head attention of ``x [b, f, n, c]`` among the pixels of a frame or the frames of a pixel.

    The heads of all pixels (space: of one frame, time: of one clip) reach :func:`attention` as views of ``x``'s own
    layout. Over time the pixels join the head axis, ``[b, n*heads, f, c/heads]``.
    """

    def __init__(self, channels: int, heads: int, axis: Axis) -> None:
        super().__init__()
        self.heads = heads
        self.axis = axis
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(channels, channels, bias=False)
        self.to_v = Linear(channels, channels, bias=False)
        self.to_out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = MOST_HEADS // self.heads
        if self.axis == "time" and x.shape[2] > pixels:  # larger maps than the published sizes have
            return torch.cat([self._attend(part) for part in torch.split(x, pixels, dim=2)], dim=2)
        return self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        b, _, n, _ = x.shape
        if self.axis == "space":
            split = "b f n (k e) -> (b f) k n e"
            merge = "(b f) k n e -> b f n (k e)"
        else:
            split = "b f n (k e) -> b (n k) f e"
            merge = "b (n k) f e -> b f n (k e)"
        q, k, v = (
            rearrange(project(x), split, k=self.heads) for project in (self.to_q, self.to_k, self.to_v)
        )
        out = attention(q, k, v)
        sizes = {"b": b} if self.axis == "space" else {"n": n}
        return self.to_out(rearrange(out, merge, **sizes))


class CrossAttention(nn.Module):
    """Softmax attention of every pixel to the context, with the LayerNorm before it: as trained.

    Queries do not see each other, so space and time need no arrangement of their own: a clip's f*n queries
    meet its one context in one call, and no order of rows can go wrong.
    """

    def __init__(self, channels: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim, channels, bias=False)
        self.to_v = Linear(context_dim, channels, bias=False)
        self.to_out = Linear(channels, channels)

    def cache(self, embedding: Tensor) -> KeyValue:
        """Keys and values ``[b, g, m, c]`` of ``embedding [b, g, m, d]``."""
        return KeyValue(self.to_k(embedding), self.to_v(embedding))

    def forward(self, x: Tensor, cached: KeyValue) -> Tensor:
        """What is added to ``x [b, f, n, c]``, of the same shape."""
        b, f, _, _ = x.shape
        g = cached.key.shape[1]
        if g not in (1, f):
            raise ConfigError(
                f"a context for {g} frames meets {f} frames: give one per clip or one per frame"
            )
        q = rearrange(self.to_q(self.norm(x)), "b (g r) n (k e) -> (b g) k (r n) e", g=g, k=self.heads)
        k, v = (rearrange(t, "b g m (k e) -> (b g) k m e", k=self.heads) for t in cached)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "(b g) k (r n) e -> b (g r) n (k e)", b=b, r=f // g))


class LinearCrossAttention(nn.Module):
    """The same for one context token: ``(W_o W_v) e + b_o``, one vector per clip, added everywhere."""

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__()
        self.linear = Linear(context_dim, channels)

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
        """What is added to ``x [b, f, n, c]``: the cached vector, whatever x is."""
        return cached


def cross_attention(
    mode: Mode, channels: int, heads: int, context_dim: int
) -> CrossAttention | LinearCrossAttention | None:
    """The cross-attention of ``mode``: True (softmax), ``'linear_cached'``, False (absent)."""
    if mode is True:
        return CrossAttention(channels, heads, context_dim)
    if mode == "linear_cached":
        return LinearCrossAttention(channels, context_dim)
    return None
