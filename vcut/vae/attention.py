"""The one attention of each half of the autoencoder, at the bottom, frame by frame.

Shapes: b clips, f frames, h w grid, c channels; activations ``[b, f, h, w, c]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vcut.kernels.parts import Parts
from vcut.layers import FrameNorm

EPS = 1e-6
"""Epsilon of every norm in the autoencoder but those of the temporal resnets."""


class FrameAttention(nn.Module):
    """Self-attention over the pixels of each frame, one head of full width, added to the input.

    Frames do not see each other. The n = h*w tokens make n^2 logits per frame (9216 tokens at 576x1024);
    torch's fused kernels never hold them, its plain fallback does.
    """

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = FrameNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = Parts(x, dim=1)
        for some in parts:
            frames = x[:, some]
            tokens = self.norm(frames).flatten(2, 3).flatten(0, 1)[:, None]  # [b*f, one head, h*w, c]
            y = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
            parts.keep_sum(frames, self.to_out(y).view(frames.shape))
            del tokens, y
        return parts.result
