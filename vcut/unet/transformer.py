"""The spatio-temporal transformer: blocks over each frame's pixels, blocks over each pixel's frames.

Shapes: b clips, f frames, n = h*w pixels, c channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vcut.config import Mode
from vcut.kernels.parts import Parts
from vcut.layers import GEGLU, FrameNorm, Modules
from vcut.unet.attention import Axis, Cached, SelfAttention, cross_attention
from vcut.unet.embedding import EmbeddingMLP, sinusoid


class BlockContext(NamedTuple):
    """The cached context of one spatial and one temporal cross-attention."""

    spatial: Cached
    temporal: Cached


class TransformerContext(NamedTuple):
    """Values of one transformer, once per clip: its blocks' contexts, and its frames' positions ``[f, 1, c]``."""

    blocks: tuple[BlockContext, ...]
    positions: Tensor


class FeedForward(nn.Module):
    """GEGLU, c -> 4c, then 4c -> c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = GEGLU(channels, 4 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(x))


class Block(nn.Module):
    """Self-attention along ``axis``, cross-attention, feed-forward, each on a LayerNorm and added.

    Over time there is one more feed-forward in front, and the frames' ``positions`` are added before all.
    """

    def __init__(self, channels: int, heads: int, axis: Axis, mode: Mode, context_dim: int) -> None:
        super().__init__()
        in_front = axis == "time"
        self.ff_in_norm = nn.LayerNorm(channels, eps=1e-5) if in_front else None
        self.ff_in = FeedForward(channels) if in_front else None
        self.attn_norm = nn.LayerNorm(channels, eps=1e-5)
        self.attn = SelfAttention(channels, heads, axis)
        self.cross = cross_attention(mode, channels, heads, context_dim)
        self.ff_norm = nn.LayerNorm(channels, eps=1e-5)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Cached, positions: Tensor | None = None) -> Tensor:
        if positions is not None:
            x = x + positions  # added here: the caller would keep the sum until this returns
        if self.ff_in is not None and self.ff_in_norm is not None:
            x = feed_forward(self.ff_in_norm, self.ff_in, x)
        x = self_attention(self.attn_norm, self.attn, x)
        if self.cross is not None:
            x = x + self.cross(x, context)
        return feed_forward(self.ff_norm, self.ff, x)


def self_attention(norm: nn.LayerNorm, attn: SelfAttention, x: Tensor) -> Tensor:
    """``x + attn(norm(x))`` of ``[b, f, n, c]``, some frames at a time over space, some pixels over time."""
    over_space = attn.axis == "space"
    tokens = x.flatten(0, 1)[None] if over_space else x  # [1, b*f, n, c]
    parts = Parts(tokens, dim=1 if over_space else 2, growth=4)
    for some in parts:
        part = tokens[:, some] if over_space else tokens[:, :, some]
        parts.keep_sum(part, attn(norm(part)))
    return parts.result.view(x.shape)


def feed_forward(norm: nn.LayerNorm, ff: FeedForward, x: Tensor) -> Tensor:
    """``x + ff(norm(x))`` of ``[b, f, n, c]``, some tokens at a time: the hidden layer is eight times as wide."""
    tokens = x.flatten(0, 2)
    parts = Parts(tokens, growth=8)
    for some in parts:
        parts.keep_sum(tokens[some], ff(norm(tokens[some])))
    return parts.result.view(x.shape)


class Transformer(nn.Module):
    """GroupNorm, projection, spatial and temporal blocks in alternation, projection, added to the input.

    Each temporal block sees the stream plus an embedding of the frame's position; its output is blended with
    the spatial one by a learned gate: ``alpha * spatial + (1 - alpha) * temporal``, alpha = sigmoid(mix_factor).
    """

    def __init__(
        self, channels: int, heads: int, *, context_dim: int, depth: int, tca: Mode, sca: Mode, groups: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.norm = FrameNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.spatial = Modules[Block](Block(channels, heads, "space", sca, context_dim) for _ in range(depth))
        self.temporal = Modules[Block](Block(channels, heads, "time", tca, context_dim) for _ in range(depth))
        self.position = EmbeddingMLP(channels, 4 * channels, channels)
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5))
        self.proj_out = nn.Linear(channels, channels)

    def cache_context(self, embedding: Tensor, frames: int) -> TransformerContext:
        """Compute what depends on ``embedding [b, g, m, d]`` and on the number of ``frames`` alone.

        The temporal cross-attentions look at the first frame's context, as in the official code.
        """
        first = embedding[:, :1]
        blocks = tuple(
            BlockContext(
                None if spatial.cross is None else spatial.cross.cache(embedding),
                None if temporal.cross is None else temporal.cross.cache(first),
            )
            for spatial, temporal in zip(self.spatial, self.temporal, strict=True)
        )
        return TransformerContext(blocks, self.positions(frames, embedding.device))

    def positions(self, frames: int, device: torch.device) -> Tensor:
        """Embeddings ``[f, 1, c]`` of the positions 0 to ``frames - 1`` in time."""
        numbers = torch.arange(frames, device=device)
        return self.position(sinusoid(numbers, self.channels))[:, None]

    def forward(self, x: Tensor, context: TransformerContext) -> Tensor:
        """Transform ``x [b, f, h, w, c]``."""
        residual = x
        x = self.proj_in(self.norm(x).flatten(2, 3))  # [b, f, h*w, c]
        temporal_share = torch.sigmoid(-self.mix_factor).to(x.dtype)  # 1 - alpha
        for spatial, temporal, cached in zip(self.spatial, self.temporal, context.blocks, strict=True):
            x = spatial(x, cached.spatial)
            x = torch.lerp(x, temporal(x, cached.temporal, context.positions), temporal_share)
        return residual + self.proj_out(x).view(residual.shape)
