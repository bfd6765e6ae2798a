"""Numbers become vectors: sinusoids and the two-layer networks behind them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Embed ``values [...]`` as ``[..., dim]``: cosines first, then sines, in float32.

    Frequencies are ``10000^(-i / half)`` for ``i = 0 .. half - 1``. Like the official code this computes in float32,
    so the last bit is that of the device's exp, cos and sin.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    frequencies = torch.exp(
        -math.log(10000.0) * steps / half
    )  # in this order, it rounds as the official code
    angles = values.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class EmbeddingMLP(nn.Module):
    """linear, SiLU, linear: ``[..., in_dim] -> [..., out_dim]``. Casts its input to its own dtype."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, hidden_dim)
        self.linear_2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))
