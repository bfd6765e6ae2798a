"""Products with matrices of weights, by whichever of two libraries is faster on this CPU.

oneDNN wants a matrix in blocks that fit its registers, which :mod:`vcut.kernels.onednn` makes once. torch's own
library takes it as it is. In float32 on a CPU with AVX2 alone the latter computes 10 to 20 % more a second, but for
few rows: there oneDNN, which takes a plain matrix too, leaves most of it where it lies. So with AVX2 matrices stay
plain and need no second copy; with AVX-512, and in half precision, they are in blocks. Another
:class:`vcut.kernels.choice.Packing` may be given.

Every function here takes a matrix in either form, as :func:`arranged` gave it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.kernels import onednn
from vcut.kernels.choice import Packing

FEW, FEW_GATED = 64, 192
"""Numbers of rows below which oneDNN takes plain matrices, of a linear layer and of a GEGLU."""


def in_blocks(dtype: torch.dtype, packing: Packing) -> bool:
    """Whether matrices in ``dtype`` are in blocks."""
    return dtype != torch.float32 or packing.matrices == "blocks"


def arranged(weight: Tensor, packing: Packing) -> Tensor:
    """A matrix ``[o, i]`` in the form of ``packing``."""
    return onednn.packed_matrix(weight) if in_blocks(weight.dtype, packing) else weight


def all_arranged(weights: Tensor, packing: Packing) -> list[Tensor]:
    """Matrices ``[p, o, i]`` in the form that :func:`products` takes: one by one, or as they are."""
    if in_blocks(weights.dtype, packing):
        return [onednn.packed_matrix(matrix) for matrix in weights]
    return [weights]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``."""
    if weight.is_mkldnn or x.shape[:-1].numel() < FEW:
        return onednn.linear(x, weight, bias)
    return F.linear(x, weight, bias)


def geglu(x: Tensor, value: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """``(V x + b_v) * gelu(G x + b_g)``."""
    if value.is_mkldnn or x.shape[:-1].numel() < FEW_GATED:
        return onednn.geglu(x, value, gate, bias)
    value_bias, gate_bias = bias.chunk(2)
    gated = torch.ops.aten.gelu_(F.linear(x, gate, gate_bias))
    y: Tensor = gated.mul_(F.linear(x, value, value_bias))
    return y


def products(values: Tensor, weights: Sequence[Tensor], numbers: Sequence[int], out: Tensor) -> None:
    """Multiply each of ``values [p, n, i]`` by the matrix of its number, into ``out [p, n, o]``.

    ``weights`` are those of :func:`all_arranged`; ``numbers`` rise.
    """
    if weights[0].is_mkldnn:
        for place, number in enumerate(numbers):
            out[place] = onednn.linear(values[place], weights[number], None)
        return
    start = 0
    for place in range(1, len(numbers) + 1):
        # neighbours are multiplied in one call
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            matrices = weights[0][numbers[start] : numbers[place - 1] + 1]
            torch.bmm(values[start:place], matrices.transpose(1, 2), out=out[start:place])
            start = place
