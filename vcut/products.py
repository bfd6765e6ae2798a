"""The two matrix products of these networks, linear and convolution, each with its weight as trained or packed.

oneDNN, which computes them on the CPU, wants a matrix in blocks that fit its registers. Given one in rows it
rearranges it in every call, and torch sends float32 linear layers to another library altogether. :func:`pack`
rearranges once, and turns wide 3x3 convolutions in float32 into the fewer products of :mod:`vcut.winograd`. The
packed weight takes the place of the parameter, so a module says by itself which it holds, and the result is the same
up to the order of summation: float32 stays float32, unlike under
``torch.set_float32_matmul_precision("medium")``.

torch calls its packed form ``is_mkldnn``. The operators are those that its own compiler emits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut import winograd
from vcut.errors import ConfigError
from vcut.runtime import is_emulated


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, for a ``weight`` that may be packed."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


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
    """A convolution of ``[n, c, i, j]``, with zeros around it and in one group.

    Packed, a 3x3 over many channels in float32 becomes the matrices of :mod:`vcut.winograd`.
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
            y = winograd.convolve(rearrange(x, "n c i j -> n i j c"), tuple(self.points), self.bias, linear)
            return rearrange(y, "n i j c -> n c i j")
        if self.weight.is_mkldnn:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *self._geometry(), self.groups, "none", [], ""
            )
        return super().forward(x)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        if tile := self._tile():
            self.points = nn.ParameterList(map(_packed_matrix, winograd.transform(self.weight, tile)))
            self.register_parameter("weight", None)
        else:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = _constant(reorder(self.weight, *self._geometry(), self.groups, None))

    def _tile(self) -> int:
        """With which tile of :mod:`vcut.winograd` this is faster, 0 for none.

        Below some hundred channels the transforms cost what the products save. The widest layers see the smallest
        maps, and have most of the weights: for them the tile that lets weights grow least.
        """
        plain = (self.kernel_size, self.padding, self.stride) == ((3, 3), (1, 1), (1, 1))
        if not plain or self.weight.dtype != torch.float32 or min(self.in_channels, self.out_channels) < 128:
            return 0
        return 4 if self.out_channels <= 640 else 2

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Padding, stride and dilation."""
        assert not isinstance(self.padding, str), "padding is given in numbers"
        return list(self.padding), list(self.stride), list(self.dilation)


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
    own, where those of a loaded file may be the file's pages, and convolutions of :mod:`vcut.winograd` have more.
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


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
