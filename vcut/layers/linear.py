"""The gated linear layer. All others are torch's own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GEGLU(nn.Linear):
    """Value times the erf-GELU of gate, each a linear map to ``hidden`` channels; the value's is the first half."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = F.linear(x, self.weight, self.bias).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)
