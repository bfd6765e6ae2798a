"""The factorised residual block: a spatial resnet, then a temporal one behind a learned gate.

Shared by the UNet (with an embedding) and the VAE (without). Shapes: b clips, f frames, h w grid, c channels;
activations ``[b, f, h, w, c]``, embeddings ``[b, e]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vcut.kernels.parts import in_parts
from vcut.layers import Conv, FrameNorm, GroupNorm, Linear, TemporalConv


class SpatialResnet(nn.Module):
    """norm, SiLU, 3x3 conv (+ embedding), norm, SiLU, 3x3 conv, added to the input, frame by frame.

    ``emb_dim=None`` leaves the embedding out. A change of channels goes through a 1x1 ``skip``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, eps: float, groups: int, emb_dim: int | None = None
    ) -> None:
        super().__init__()
        self.norm_1 = FrameNorm(groups, in_channels, eps)
        self.conv_1 = Conv(in_channels, out_channels, 3, padding=1)
        self.emb = Linear(emb_dim, out_channels) if emb_dim else None
        self.norm_2 = FrameNorm(groups, out_channels, eps)
        self.conv_2 = Conv(out_channels, out_channels, 3, padding=1)
        self.skip = Conv(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        b, f = x.shape[:2]
        inputs = [rearrange(x, "b f h w c -> 1 (b f) h w c")]
        if self.emb is not None:
            assert emb is not None, "this block was built with an embedding"
            inputs.append(repeat(self.emb(F.silu(emb)), "b c -> 1 (b f) 1 1 c", f=f))
        return rearrange(in_parts(self._frames, *inputs, dim=1), "1 (b f) h w c -> b f h w c", b=b)

    def _frames(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x), inplace=True))
        if emb is not None:
            h = h + emb
        h = self.conv_2(F.silu(self.norm_2(h), inplace=True))
        return (x if self.skip is None else self.skip(x)) + h


class TemporalResnet(nn.Module):
    """norm, SiLU, 3x1x1 conv (+ embedding), norm, SiLU, 3x1x1 conv: what is *added* to the input.

    Its norms take their moments over one whole clip.
    """

    def __init__(self, channels: int, *, eps: float, groups: int, emb_dim: int | None = None) -> None:
        super().__init__()
        self.norm_1 = GroupNorm(groups, channels, eps)
        self.conv_1 = TemporalConv(channels, channels)
        self.emb = Linear(emb_dim, channels) if emb_dim else None
        self.norm_2 = GroupNorm(groups, channels, eps)
        self.conv_2 = TemporalConv(channels, channels)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x), inplace=True))
        if self.emb is not None:
            assert emb is not None, "this block was built with an embedding"
            h = h + rearrange(self.emb(F.silu(emb)), "b c -> b 1 1 1 c")
        h = F.silu(
            self.norm_2(h), inplace=True
        )  # rebound, so that the convolution's input is all that is alive
        return self.conv_2(h)
