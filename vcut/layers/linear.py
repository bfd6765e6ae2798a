"""Linear layers, each with its weight as trained or packed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.kernels.onednn import linear, packed_matrix


class Linear(nn.Linear):
    """``x W^T + b`` over the last axis of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Rearrange the weight; see :func:`pack`."""
        self.weight = packed_matrix(self.weight)


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
        self.weight, self.gate_weight = packed_matrix(value), packed_matrix(gate)
