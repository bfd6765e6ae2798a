"""The two matrix products of these networks, linear and convolution, each with its weight as trained or packed.

oneDNN, which computes them on the CPU, wants a matrix in blocks that fit its registers. Given one in rows it
rearranges it in every call, and torch sends float32 linear layers to another library altogether. :func:`pack`
rearranges once. It also turns convolutions of upsampled maps into the fewer products of
:mod:`vcut.kernels.upsampling`, and wide 3x3 convolutions in float32 into those of :mod:`vcut.kernels.winograd`. The
packed weight takes the place of the parameter, so a module says by itself which it holds, and the result is the same
up to the order of summation: float32 stays float32, unlike under ``torch.set_float32_matmul_precision("medium")``.

torch calls its packed form ``is_mkldnn``. The operators are those that its own compiler emits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vcut.kernels.runtime import is_emulated


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


def can_pack(weight: Tensor) -> bool:
    """Whether this torch packs, and this CPU computes in the dtype of ``weight``."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and not is_emulated(weight.dtype)
    )


def packed_matrix(weight: Tensor) -> nn.Parameter:
    """A matrix ``[o, i]`` in the blocks that oneDNN wants."""
    return _constant(torch.ops.mkldnn._reorder_linear_weight(weight, None))


def packed_filters(
    weight: Tensor, stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0)
) -> nn.Parameter:
    """Filters ``[o, i, k, l]`` in the blocks that oneDNN wants."""
    return _constant(torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, (1, 1), 1, None))


def side_by_side(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of narrow maps ``[n, i, j, c]`` as one of a wide map, a column of zeros between them."""
    row = rearrange(F.pad(x, (0, 0, 0, 1)), "n i j c -> 1 i (n j) c")
    y = convolution(row, weight, bias, padding=(1, 1))
    return rearrange(y, "1 i (n j) c -> n i j c", n=x.shape[0])[:, :, :-1].contiguous()


def _constant(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
