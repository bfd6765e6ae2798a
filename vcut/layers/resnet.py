"""The factorised residual block: a spatial resnet, then a temporal one behind a learned gate.

Shared by the UNet (with an embedding) and the VAE (without). Shapes: b clips, f frames, h w grid, c channels;
activations ``[b, f, h, w, c]``, embeddings ``[b, e]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vcut.kernels.parts import Parts
from vcut.layers import Conv, FrameNorm, GroupNorm, TemporalConv


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
        self.emb = nn.Linear(emb_dim, out_channels) if emb_dim else None
        self.norm_2 = FrameNorm(groups, out_channels, eps)
        self.conv_2 = Conv(out_channels, out_channels, 3, padding=1)
        self.skip = Conv(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        frames, shift = x.flatten(0, 1)[None], None  # [1, b*f, h, w, c]
        if self.emb is not None:
            assert emb is not None, "this block was built with an embedding"
            shift = self.emb(F.silu(emb))[:, None].expand(-1, x.shape[1], -1)  # [b, f, c]
            shift = shift.flatten(0, 1)[None, :, None, None]
        parts = Parts(frames, dim=1)
        for some in parts:
            h = self.conv_1(F.silu(self.norm_1(frames[:, some]), inplace=True))
            if shift is not None:
                h = h + shift[:, some]
            h = self.conv_2(F.silu(self.norm_2(h), inplace=True))
            parts.keep_sum(frames[:, some] if self.skip is None else self.skip(frames[:, some]), h)
            del h  # it would live on while the next part is computed
        return parts.result[0].unflatten(0, x.shape[:2])


class TemporalResnet(nn.Module):
    """norm, SiLU, 3x1x1 conv (+ embedding), norm, SiLU, 3x1x1 conv: what is *added* to the input.

    Its norms take their moments over one whole clip.
    """

    def __init__(self, channels: int, *, eps: float, groups: int, emb_dim: int | None = None) -> None:
        super().__init__()
        self.norm_1 = GroupNorm(groups, channels, eps)
        self.conv_1 = TemporalConv(channels, channels)
        self.emb = nn.Linear(emb_dim, channels) if emb_dim else None
        self.norm_2 = GroupNorm(groups, channels, eps)
        self.conv_2 = TemporalConv(channels, channels)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x), inplace=True))
        if self.emb is not None:
            assert emb is not None, "this block was built with an embedding"
            h = h + self.emb(F.silu(emb))[:, None, None, None]
        # Rebinding h frees the first convolution's output before the second one runs.
        h = F.silu(self.norm_2(h), inplace=True)
        return self.conv_2(h)
