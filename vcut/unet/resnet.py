"""The UNet's residual block: a spatial resnet, then a temporal one, blended by a learned gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcut.layers.resnet import SpatialResnet, TemporalResnet


class SpatioTemporalResnet(nn.Module):
    """``alpha * s + (1 - alpha) * (s + t(s))``, s the spatial resnet's output, alpha = sigmoid(mix_factor).

    As the temporal resnet has no skip convolution this is ``s + (1 - alpha) * t(s)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, emb_dim: int, eps: float, groups: int) -> None:
        super().__init__()
        self.spatial = SpatialResnet(in_channels, out_channels, eps=eps, groups=groups, emb_dim=emb_dim)
        self.temporal = TemporalResnet(out_channels, eps=eps, groups=groups, emb_dim=emb_dim)
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Transform ``x [b, f, h, w, c]`` with ``emb [b, e]``."""
        x = self.spatial(x, emb)
        temporal_share = torch.sigmoid(-self.mix_factor)  # 1 - alpha
        return torch.addcmul(x, temporal_share.to(x.dtype), self.temporal(x, emb))
