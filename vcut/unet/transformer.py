"""The spatio-temporal transformer: blocks over each frame's pixels, blocks over each pixel's frames.

Shapes: b clips, f frames, n = h*w pixels, c channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vcut.config import Mode
from vcut.kernels.parts import in_parts
from vcut.layers import GEGLU, FrameNorm, Linear, Modules
from vcut.unet.attention import (
    Axis,
    BlockContext,
    Cached,
    SelfAttention,
    TransformerContext,
    cross_attention,
)
from vcut.unet.blend import temporal_share
from vcut.unet.embedding import EmbeddingMLP, sinusoid


class FeedForward(nn.Module):
    """GEGLU, c -> 4c, then 4c -> c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = GEGLU(channels, 4 * channels)
        self.proj_out = Linear(4 * channels, channels)

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
            x = x + positions  # here, since the caller's frame would keep the sum alive
        if self.ff_in is not None and self.ff_in_norm is not None:
            x = feed_forward(self.ff_in_norm, self.ff_in, x)
        x = self._self_attention(x)
        if self.cross is not None:
            x = x + self.cross(x, context)
        return feed_forward(self.ff_norm, self.ff, x)

    def _self_attention(self, x: Tensor) -> Tensor:
        """``x + attn(norm(x))``, some frames at a time over space, some pixels over time."""

        def part(x: Tensor) -> Tensor:
            return x + self.attn(self.attn_norm(x))

        if self.attn.axis == "time":
            return in_parts(part, x, dim=2, growth=4)
        frames = in_parts(part, rearrange(x, "b f n c -> 1 (b f) n c"), dim=1, growth=4)
        return frames.view(x.shape)


def feed_forward(norm: nn.LayerNorm, ff: FeedForward, x: Tensor) -> Tensor:
    """``x + ff(norm(x))`` of ``[b, f, n, c]``, some tokens at a time: the hidden layer is eight times as wide."""
    tokens = in_parts(lambda part: part + ff(norm(part)), x.flatten(0, 2), growth=8)
    return tokens.view(x.shape)


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
        self.proj_in = Linear(channels, channels)
        self.spatial = Modules[Block](Block(channels, heads, "space", sca, context_dim) for _ in range(depth))
        self.temporal = Modules[Block](Block(channels, heads, "time", tca, context_dim) for _ in range(depth))
        self.position = EmbeddingMLP(channels, 4 * channels, channels)
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5))
        self.proj_out = Linear(channels, channels)

    def cache_context(self, embedding: Tensor) -> tuple[BlockContext, ...]:
        """What the blocks' cross-attentions keep of ``embedding [b, g, m, d]``.

        The temporal ones look at the first frame's context alone, as the official code does.
        """
        first = embedding[:, :1]
        return tuple(
            BlockContext(
                None if spatial.cross is None else spatial.cross.cache(embedding),
                None if temporal.cross is None else temporal.cross.cache(first),
            )
            for spatial, temporal in zip(self.spatial, self.temporal, strict=True)
        )

    def positions(self, frames: int) -> Tensor:
        """Embeddings ``[f, 1, c]`` of the positions 0 to ``frames - 1`` in time."""
        numbers = torch.arange(frames, device=self.mix_factor.device)
        return rearrange(self.position(sinusoid(numbers, self.channels)), "f c -> f 1 c")

    def forward(self, x: Tensor, context: TransformerContext, image_only: Tensor | None = None) -> Tensor:
        """Transform ``x [b, f, h, w, c]``; frames marked in ``image_only`` skip the temporal blocks."""
        residual, h = x, x.shape[2]
        x = self.proj_in(rearrange(self.norm(x), "b f h w c -> b f (h w) c"))
        share = temporal_share(self.mix_factor, image_only, trailing=2)
        for spatial, temporal, cached in zip(self.spatial, self.temporal, context.blocks, strict=True):
            x = spatial(x, cached.spatial)
            x = torch.lerp(x, temporal(x, cached.temporal, context.positions), share.to(x.dtype))
        return residual + rearrange(self.proj_out(x), "b f (h w) c -> b f h w c", h=h)
