"""The two matrix products of these networks, linear and convolution, each with its weight as trained or packed.

oneDNN, which computes them on the CPU, wants a matrix in blocks that fit its registers. Given one in rows it
rearranges it in every call, and torch sends float32 linear layers to another library altogether. :func:`pack`
rearranges once. It also turns convolutions of upsampled maps into the fewer products of :mod:`vcut.upsampling`, and
wide 3x3 convolutions in float32 into the fewer of :mod:`vcut.winograd`. The packed weight takes the place of the
parameter, so a module says by itself which it holds, and the result is the same up to the order of summation:
float32 stays float32, unlike under ``torch.set_float32_matmul_precision("medium")``.

torch calls its packed form ``is_mkldnn``. The operators are those that its own compiler emits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut import upsampling, winograd
from vcut.errors import ConfigError
from vcut.runtime import is_emulated

NARROW, WIDE = 6, 1024
"""Maps of fewer columns and at least so many channels are convolved side by side: oneDNN works on a row at a time."""

POINTWISE, PLAIN = ((1, 1), (0, 0), (1, 1)), ((3, 3), (1, 1), (1, 1))
"""Kernel size, padding and stride of a 1x1 convolution, and of the 3x3 that keeps a map's size."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, for a ``weight`` that may be packed."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """``F.conv2d`` of ``[n, i, j, c]``, for a ``weight`` that may be packed.

    Where ``x`` is contiguous nothing is copied: torch knows the permuted view as channels_last. With n = 1 it does
    so only if axes were merged by ``flatten``, since einops merges by its own strides.
    """
    x = rearrange(x, "n i j c -> n c i j")
    if weight.is_mkldnn:
        packed = torch.ops.mkldnn._convolution_pointwise
        y = packed(x, weight, bias, padding, stride, (1, 1), 1, "none", [], "")
    else:
        y = F.conv2d(x, weight, bias, stride, padding)
    return rearrange(y, "n c i j -> n i j c").contiguous()


class Linear(nn.Linear):
    """``x W^T + b`` over the last axis of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        self.weight = _packed_matrix(self.weight)


class GEGLU(Linear):
    """Value times the erf-GELU of gate, each a linear map to ``hidden`` channels; the value's is the first half.

    Packed, the halves are apart, and oneDNN does the rest while a result is still in registers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, 2 * hidden)
        self.register_parameter("gate_weight", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_weight is None:
            value, gate = super().forward(x).chunk(2, dim=-1)
            return F.gelu(gate).mul_(value)
        value_bias, gate_bias = self.bias.chunk(2)
        fused = torch.ops.mkldnn._linear_pointwise
        gate = fused(x, self.gate_weight, gate_bias, "gelu", [], "none")
        return fused.binary(x, gate, self.weight, value_bias, "mul")

    def pack(self) -> None:
        value, gate = self.weight.chunk(2)
        self.weight, self.gate_weight = _packed_matrix(value), _packed_matrix(gate)


class Conv2d(nn.Conv2d):
    """A convolution of ``[n, i, j, c]``, with zeros around it and in one group.

    Packed, a 3x3 over many channels in float32 becomes the matrices of :mod:`vcut.winograd`; a 1x1 what it is, a
    linear layer, which is up to ten times faster; and narrow maps are laid side by side.
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
                return _side_by_side(x, self.weight, self.bias)
        _, padding, stride = self._form
        return convolution(x, self.weight, self.bias, stride, padding)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        if tile := self._tile():
            self.points = nn.ParameterList(map(_packed_matrix, winograd.transform(self.weight, tile)))
            self.register_parameter("weight", None)
        elif self._form == POINTWISE:
            self.weight = _packed_matrix(self.weight.flatten(1))
        else:
            _, padding, stride = self._form
            self.weight = _packed_filters(self.weight, stride, padding)

    def _tile(self) -> int:
        """With which tile of :mod:`vcut.winograd` this is faster, 0 for none.

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

    Packed, nothing is repeated: :mod:`vcut.upsampling` has the same from four small convolutions. In float32 it is
    about as fast as :mod:`vcut.winograd`, up to a fifth slower at 640 channels, with less than half the weights, no
    upsampled map and a quarter of the rounding.
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
        self.quarters = nn.ParameterList(map(_packed_filters, upsampling.transform(self.weight)))
        self.register_parameter("weight", None)


def can_pack(weight: Tensor) -> bool:
    """Whether this torch packs, and this CPU computes in the dtype of ``weight``."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and not is_emulated(weight.dtype)
    )


def pack(*networks: nn.Module) -> bool:
    """Pack the weights of ``networks``, in place and for good: they then compute on this CPU, and nothing else.

    A packed network cannot be moved, cast, trained, compiled, folded or saved. Packed weights are memory of their
    own, where those of a loaded file may be the file's pages, and convolutions of fewer products have more of them.
    What several networks share they share still, if packed in one call. Weights for which :func:`can_pack` says no
    stay as they are.

    Returns:
        Whether any was packed.

    Raises:
        ConfigError: a weight still wants a gradient, which it could not have. Nothing was packed then.
    """
    modules = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, Linear | Conv2d) and not is_packed(module) and can_pack(module.weight)
    ]
    if any(module.weight.requires_grad for module in modules):
        raise ConfigError("packed weights have no gradients: call requires_grad_(False) first")
    same: dict[int, list[Linear | Conv2d]] = {}
    for module in modules:
        same.setdefault(module.weight.data_ptr(), []).append(module)
    for first, *others in same.values():
        first.pack()
        for other in others:
            other._parameters.update(first._parameters)
            other._modules.update(first._modules)
    return bool(modules)


def is_packed(network: nn.Module) -> bool:
    """Whether :func:`pack` has been here."""
    return any(parameter.is_mkldnn for parameter in network.parameters())


def _packed_matrix(weight: Tensor) -> nn.Parameter:
    return _constant(torch.ops.mkldnn._reorder_linear_weight(weight, None))


def _packed_filters(
    weight: Tensor, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0)
) -> nn.Parameter:
    return _constant(torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, (1, 1), 1, None))


def _side_by_side(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of narrow maps ``[n, i, j, c]`` as one of a wide map, a column of zeros between them."""
    row = rearrange(F.pad(x, (0, 0, 0, 1)), "n i j c -> 1 i (n j) c")
    y = convolution(row, weight, bias, padding=(1, 1))
    return rearrange(y, "1 i (n j) c -> n i j c", n=x.shape[0])[:, :, :-1].contiguous()


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
