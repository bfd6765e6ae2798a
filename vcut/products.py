"""The two matrix products of these networks, linear and convolution, each with its weight as trained or packed.

oneDNN, which computes them on the CPU, wants a matrix in blocks that fit its registers. Given one in rows it
rearranges it in every call, and torch sends float32 linear layers to another library altogether. :func:`pack`
rearranges once. The packed weight takes the place of the parameter, so a module says by itself which it holds, and
the result is the same up to the order of summation: float32 stays float32, unlike under
``torch.set_float32_matmul_precision("medium")``.

torch calls its packed form ``is_mkldnn``. The operators are those that its own compiler emits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.errors import ConfigError
from vcut.runtime import is_emulated


class Linear(nn.Linear):
    """``x W^T + b`` over the last axis of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

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
        linear = torch.ops.mkldnn._linear_pointwise
        gate = linear(x, self.gate_weight, gate_bias, "gelu", [], "none")
        return linear.binary(x, gate, self.weight, value_bias, "mul")

    def pack(self) -> None:
        value, gate = self.weight.chunk(2)
        self.weight, self.gate_weight = _packed_matrix(value), _packed_matrix(gate)


class Conv2d(nn.Conv2d):
    """A convolution of ``[n, c, i, j]``, with zeros around it and in one group."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.is_mkldnn:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *self._geometry(), self.groups, "none", [], ""
            )
        return super()._conv_forward(x, weight, bias)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        self.weight = _constant(reorder(self.weight, *self._geometry(), self.groups, None))

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
    own, where those of a loaded file may be the file's pages. What several networks share they share still, if packed
    in one call. Weights for which :func:`can_pack` says no stay as they are.

    Returns:
        Whether any was packed.

    Raises:
        ConfigError: a weight still wants a gradient, which it could not have. Nothing was packed then.
    """
    modules = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, Linear | Conv2d) and not module.weight.is_mkldnn and can_pack(module.weight)
    ]
    if any(module.weight.requires_grad for module in modules):
        raise ConfigError("packed weights have no gradients: call requires_grad_(False) first")
    same: dict[int, list[Linear | Conv2d]] = {}
    for module in modules:
        same.setdefault(module.weight.data_ptr(), []).append(module)
    for first, *others in same.values():
        first.pack()
        for other in others:
            for name, parameter in first.named_parameters(recurse=False):
                setattr(other, name, parameter)
    return bool(modules)


def is_packed(network: nn.Module) -> bool:
    """Whether :func:`pack` has been here."""
    return any(parameter.is_mkldnn for parameter in network.parameters())


def _packed_matrix(weight: Tensor) -> nn.Parameter:
    return _constant(torch.ops.mkldnn._reorder_linear_weight(weight, None))


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
