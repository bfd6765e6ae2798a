"""The decoder: the encoder mirrored, every residual block followed by a temporal one behind a learned gate.

The temporal layers are what Stable Video Diffusion (Blattmann et al. 2023, arXiv 2311.15127, section 4)
adds to the image decoder against flicker: 3x1x1 convolutions, no temporal attention. Frames therefore see
their neighbours and, through the temporal norms, the whole clip they are decoded with. Without them
(``VAEConfig.temporal=False``) it is the image decoder.

Shapes: b clips, f frames, h w grid, c channels; activations ``[b, f, h, w, c]``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.config import VAEConfig
from vcut.kernels.parts import Parts
from vcut.layers import Conv, FrameNorm, Modules, TemporalConv, UpsamplingConv
from vcut.layers.resnet import SpatialResnet, TemporalResnet
from vcut.vae.attention import EPS, FrameAttention

TEMPORAL_EPS = 1e-5


class Decoder(nn.Module):
    """Latents ``[b, f, h, w, z]``, divided by the scale, to frames ``[b, f, H, W, 3]`` about -1..1."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, temporal = config.channels[::-1], config.norm_groups, config.temporal
        self.conv_in = Conv(config.latent_channels, widths[0], 3, padding=1)
        self.mid = nn.Sequential(
            OrderedDict(
                resnet_1=DecoderResnet(widths[0], widths[0], groups=groups, temporal=temporal),
                attention=FrameAttention(widths[0], groups=groups),
                resnet_2=DecoderResnet(widths[0], widths[0], groups=groups, temporal=temporal),
            )
        )
        self.up = Modules[DecoderLevel](
            DecoderLevel(
                widths[max(i - 1, 0)],
                width,
                layers=config.layers + 1,
                groups=groups,
                temporal=temporal,
                upsample=i < len(widths) - 1,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = FrameNorm(groups, widths[-1], EPS)
        self.conv_out = Conv(widths[-1], 3, 3, padding=1)
        self.conv_out_time = TemporalConv(3, 3) if temporal else None

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)  # [b, f, h, w, c]
        x = self.mid(x)
        for level in self.up:  # inlined: a call of the level's own would keep its input until it returns
            for resnet in level.resnets:
                # Rebinding x frees the spatial resnet's input, perhaps of twice the channels, before time comes.
                x = resnet.spatial(x)
                x = resnet.over_time(x)
            if level.upsample is not None:
                x = level.upsample(x)  # [b, f, H, W, c] in the end
        parts = Parts(x, dim=1)
        for some in parts:
            parts.keep(self.conv_out(F.silu(self.norm_out(x[:, some]), inplace=True)))
        x = parts.result  # [b, f, H, W, 3]
        return x if self.conv_out_time is None else self.conv_out_time(x)


class DecoderLevel(nn.Module):
    """Residual blocks at one resolution, then, if asked, twice of it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        layers: int,
        groups: int,
        temporal: bool,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = Modules[DecoderResnet](
            DecoderResnet(out_channels if j else in_channels, out_channels, groups=groups, temporal=temporal)
            for j in range(layers)
        )
        self.upsample = UpsamplingConv(out_channels, out_channels) if upsample else None


class DecoderResnet(nn.Module):
    """A spatial resnet s, then ``s + g t(s)``: t the temporal resnet's residual, g = sigmoid(mix_factor).

    The published form, ``g (s + t(s)) + (1 - g) s``, is the same sum. The gate opens towards *time*; the
    UNet's mix factor counts the other way.
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, temporal: bool) -> None:
        super().__init__()
        self.spatial = SpatialResnet(in_channels, out_channels, eps=EPS, groups=groups)
        self.temporal = TemporalResnet(out_channels, eps=TEMPORAL_EPS, groups=groups) if temporal else None
        self.mix_factor = nn.Parameter(torch.zeros(1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        return self.over_time(self.spatial(x))

    def over_time(self, s: Tensor) -> Tensor:
        """The second half: ``s [b, f, h, w, c]`` and what the temporal resnet adds to it."""
        if self.temporal is None or self.mix_factor is None:
            return s
        return torch.addcmul(s, self.mix_factor.sigmoid(), self.temporal(s))
