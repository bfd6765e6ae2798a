"""Convolutions of channels-last activations.

torch convolves ``[n, c, i, j]``. Each layer hands it the activations' own memory under that name: where ``x`` is
contiguous nothing is copied, since torch knows the permuted view as channels_last.

Shapes: b clips, f frames, h w grid, c channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vcut.kernels.onednn import widened
from vcut.kernels.parts import Parts


class Conv(nn.Conv2d):
    """A 2-D convolution of ``[b, f, h, w, c]``, frame by frame."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        assert not isinstance(self.padding, str), "padding is given in numbers"
        wide = widened(x, self.weight, self.stride, self.padding)
        frames = wide.flatten(0, 1).movedim(-1, 1)  # [b*f, c, h, w]
        y = F.conv2d(frames, self.weight, self.bias, self.stride, self.padding)
        y = y if wide is x else y[..., :1]
        return y.movedim(1, -1).unflatten(0, x.shape[:2]).contiguous()


class UpsamplingConv(nn.Conv2d):
    """Double h and w of ``[b, f, h, w, c]`` by repetition, then a 3x3 convolution, some frames at a time."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = Parts(x, dim=1, growth=4)
        for some in parts:
            frames = x[:, some].flatten(0, 1).movedim(-1, 1)  # [b*f, c, h, w]
            large = F.interpolate(frames, scale_factor=2.0, mode="nearest")
            large = F.conv2d(large, self.weight, self.bias, padding=1)
            parts.keep(large.movedim(1, -1).unflatten(0, (len(x), -1)).contiguous())
            del frames, large
        return parts.result


class TemporalConv(nn.Conv2d):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames, as a (3, 1) convolution of ``[f, h*w]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=(3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2, 3).movedim(-1, 1)  # [b, c, f, h*w]
        y = F.conv2d(pixels, self.weight, self.bias, padding=(1, 0))
        return y.movedim(1, -1).unflatten(2, x.shape[2:4]).contiguous()
