"""The two matrix products of these networks, linear and convolution, of packed weights.

oneDNN, which computes them on the CPU, wants a matrix in blocks that fit its registers. Given one in rows it
rearranges it in every call, and torch sends float32 linear layers to another library altogether. A packed weight was
rearranged once. The result is the same up to the order of summation: float32 stays float32, unlike under
``torch.set_float32_matmul_precision("medium")``.

torch calls the packed form ``is_mkldnn``. The operators are those that its own compiler emits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut.kernels.runtime import is_emulated


def can_pack(weight: Tensor) -> bool:
    """Whether ``weight`` is on a CPU that computes in its dtype, and this torch packs."""
    return weight.device.type == "cpu" and packs(weight.dtype)


def packs(dtype: torch.dtype) -> bool:
    """Whether this torch packs, and this CPU computes in ``dtype``."""
    return (
        dtype in (torch.float32, torch.bfloat16, torch.float16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and not is_emulated(dtype)
    )


def same_blocks(channels: int) -> bool:
    """Whether filters of so many output channels have the same blocks for maps of any size on a CPU with AVX-512.

    They have in blocks of 64, or where one block of 16 or 32 takes all. Other filters, and all with AVX2, are packed
    for one size and rearranged in every call for another, by code that takes six times as long as a small
    convolution, and seconds for 1280 channels.
    """
    # oneDNN takes blocks of 48 where they fit, and for maps of another size it wants others
    return channels <= 32 or (channels % 64 == 0 and channels % 48 != 0)


def packed_matrix(weight: Tensor) -> Tensor:
    """A matrix ``[o, i]`` in the blocks that oneDNN wants."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def packed_filters(weight: Tensor, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0)) -> Tensor:
    """Filters ``[o, i, k, l]`` in the blocks that oneDNN wants."""
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    packed: Tensor = reorder(weight, padding, stride, (1, 1), 1, None)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` with a packed matrix."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def geglu(x: Tensor, value: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """``(V x + b_v) * gelu(G x + b_g)`` with packed matrices, gelu and product taken in registers."""
    value_bias, gate_bias = bias.chunk(2)
    fused = torch.ops.mkldnn._linear_pointwise
    gated = fused(x, gate, gate_bias, "gelu", [], "none")
    y: Tensor = fused.binary(x, gated, value, value_bias, "mul")
    return y


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """``F.conv2d`` of ``[n, i, j, c]`` with packed filters, or with plain ones."""
    packed = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = packed(x.movedim(-1, 1), weight, bias, padding, stride, (1, 1), 1, "none", [], "")
    return y.movedim(1, -1).contiguous()


def widened(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Maps ``x [..., j, c]``, with columns of zeros added if a strided convolution of them would give one column.

    It then gives two, and the first is the one that it would have given. On CPUs with AMX oneDNN (3.12) computes a
    single column wrongly in bfloat16, from memory that nobody wrote, whether or not the filters are packed.
    """
    columns = (x.shape[-2] + 2 * padding[1] - weight.shape[-1]) // stride[1] + 1
    if x.device.type != "cpu" or stride[1] == 1 or columns != 1:
        return x
    return F.pad(x, (0, 0, 0, stride[1]))


def side_by_side(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of narrow maps ``[n, i, j, c]`` as one of a wide map, a column of zeros between them."""
    row = F.pad(x, (0, 0, 0, 1)).movedim(0, 1).flatten(1, 2)[None]  # [1, i, n*(j+1), c]
    y = convolution(row, weight, bias, padding=(1, 1))[0]
    return y.unflatten(1, (len(x), -1)).movedim(1, 0)[:, :, :-1].contiguous()
