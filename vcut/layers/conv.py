"""Convolutions of channels-last activations, each with its weight as trained or packed.

Shapes: b clips, f frames, h w grid, c channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut.kernels import upsampling, winograd
from vcut.kernels.onednn import convolution, linear, packed_filters, packed_matrix, side_by_side
from vcut.kernels.parts import in_parts

NARROW, WIDE = 6, 1024
"""Maps of fewer columns and at least so many channels are convolved side by side: oneDNN works on a row at a time."""

POINTWISE, PLAIN = ((1, 1), (0, 0), (1, 1)), ((3, 3), (1, 1), (1, 1))
"""Kernel size, padding and stride of a 1x1 convolution, and of the 3x3 that keeps a map's size."""


class Conv2d(nn.Conv2d):
    """A convolution of ``[n, i, j, c]``, with zeros around it and in one group.

    Packed, a 3x3 over many channels in float32 becomes the matrices of :mod:`vcut.kernels.winograd`; a 1x1 what it
    is, a linear layer, which is up to ten times faster; and narrow maps are laid side by side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.register_module("points", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.points is not None:
            return winograd.convolve(x, tuple(self.points), self.bias, linear)
        if self.weight.is_mkldnn:
            if self._form == POINTWISE:
                return linear(x, self.weight, self.bias)
            if self._form == PLAIN and x.shape[2] < NARROW and self._narrowest >= WIDE:
                return side_by_side(x, self.weight, self.bias)
        _, padding, stride = self._form
        return convolution(x, self.weight, self.bias, stride, padding)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        if tile := self._tile():
            self.points = nn.ParameterList(map(packed_matrix, winograd.transform(self.weight, tile)))
            self.register_parameter("weight", None)
        elif self._form == POINTWISE:
            self.weight = packed_matrix(self.weight.flatten(1))
        else:
            _, padding, stride = self._form
            self.weight = packed_filters(self.weight, stride, padding)

    def _tile(self) -> int:
        """With which tile of :mod:`vcut.kernels.winograd` this is faster, 0 for none.

        Below some hundred channels the transforms cost what the products save. The widest layers see the smallest
        maps, and have most of the weights: for them the tile that lets weights grow least.
        """
        if self._form != PLAIN or self.weight.dtype != torch.float32 or self._narrowest < 128:
            return 0
        return 4 if self.out_channels <= 640 else 2

    @property
    def _form(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Kernel size, padding and stride."""
        assert not isinstance(self.padding, str), "padding is given in numbers"
        return self.kernel_size, self.padding, self.stride

    @property
    def _narrowest(self) -> int:
        return min(self.in_channels, self.out_channels)


class UpsamplingConv2d(Conv2d):
    """Double i and j of ``[n, i, j, c]`` by repetition, then a 3x3 convolution.

    Packed, nothing is repeated: :mod:`vcut.kernels.upsampling` has the same from four small convolutions. In float32
    it is about as fast as :mod:`vcut.kernels.winograd`, up to a fifth slower at 640 channels, with less than half the
    weights, no upsampled map and a quarter of the rounding.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self.register_module("quarters", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.quarters is not None:
            return upsampling.convolve(x, tuple(self.quarters), self.bias, convolution)
        repeated = F.interpolate(rearrange(x, "n i j c -> n c i j"), scale_factor=2.0, mode="nearest")
        return super().forward(rearrange(repeated, "n c i j -> n i j c"))

    def pack(self) -> None:
        self.quarters = nn.ParameterList(map(packed_filters, upsampling.transform(self.weight)))
        self.register_parameter("weight", None)


class Conv(Conv2d):
    """A 2-D convolution of ``[b, f, h, w, c]``, frame by frame."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(0, 1)), "(b f) h w c -> b f h w c", b=x.shape[0])


class UpsamplingConv(UpsamplingConv2d):
    """Double h and w of ``[b, f, h, w, c]`` by repetition, then a 3x3 convolution, some frames at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return in_parts(self._frames, x, dim=1, growth=4)

    def _frames(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(0, 1)), "(b f) h w c -> b f h w c", b=x.shape[0])


class TemporalConv(Conv2d):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames, as a (3, 1) convolution of ``[f, h*w]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=(3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x.flatten(2, 3)), "b f (h w) c -> b f h w c", h=x.shape[2])
