"""The image encoder: levels of residual blocks, each but the last halving the grid; attention at the bottom.

It has no temporal layer: Stable Video Diffusion (Blattmann et al. 2023, arXiv 2311.15127) encodes a clip
frame by frame. Shapes: b clips, f frames, h w grid, c channels; activations ``[b, f, h, w, c]``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from vcut.config import VAEConfig
from vcut.layers import Conv, FrameNorm
from vcut.layers.resnet import SpatialResnet
from vcut.vae.attention import EPS, FrameAttention


class Encoder(nn.Module):
    """Pictures ``[b, f, H, W, 3]`` to ``[b, f, h, w, 2 z]``: means and log variances of z latent channels."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        bottom = widths[-1]
        self.conv_in = Conv(3, widths[0], 3, padding=1)
        self.down = nn.Sequential(
            *(
                EncoderLevel(
                    widths[max(i - 1, 0)],
                    width,
                    layers=config.layers,
                    groups=groups,
                    downsample=i < len(widths) - 1,
                )
                for i, width in enumerate(widths)
            )
        )
        self.mid = nn.Sequential(
            OrderedDict(
                resnet_1=SpatialResnet(bottom, bottom, eps=EPS, groups=groups),
                attention=FrameAttention(bottom, groups=groups),
                resnet_2=SpatialResnet(bottom, bottom, eps=EPS, groups=groups),
            )
        )
        self.norm_out = FrameNorm(groups, bottom, EPS)
        self.conv_out = Conv(bottom, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)  # [b, f, H, W, c]
        x = self.down(x)  # [b, f, h, w, c]
        x = self.mid(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then, if asked, half of it."""

    def __init__(
        self, in_channels: int, out_channels: int, *, layers: int, groups: int, downsample: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.Sequential(
            *(
                SpatialResnet(out_channels if j else in_channels, out_channels, eps=EPS, groups=groups)
                for j in range(layers)
            )
        )
        self.downsample = Conv(out_channels, out_channels, 3, stride=2) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets(x)
        if self.downsample is None:
            return x
        return self.downsample(F.pad(x, (0, 0, 0, 1, 0, 1)))  # on the right and at the bottom only
