"""The one attention of each half of the autoencoder, at the bottom, frame by frame.

Shapes: b clips, f frames, h w grid, c channels; activations ``[b, f, h, w, c]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut.kernels.parts import in_parts
from vcut.layers import FrameNorm, Linear

EPS = 1e-6
"""Of every norm in the autoencoder but those of the temporal resnets."""


class FrameAttention(nn.Module):
    """Self-attention over the pixels of each frame, one head of full width, added to the input.

    Frames do not see each other. The n = h*w tokens make n^2 logits per frame (9216 tokens at 576x1024);
    torch's fused kernels never hold them, its plain fallback does.
    """

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = FrameNorm(groups, channels, EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return in_parts(self._frames, x, dim=1)

    def _frames(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b f h w c -> (b f) 1 (h w) c")  # the 1 is the head
        y = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out(y).view(x.shape)
