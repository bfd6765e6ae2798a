"""What zeros around maps add to a count of operations.

A counter charges a convolution for every tap of every result. At a map's edge some taps fall on zeros outside, which
oneDNN does not multiply: of a 3x3 over 6x10 pixels one in six. GFLOP/s that counted them would pass what the machine
can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def padding_macs(run: Callable[[], object]) -> int:
    """How many multiply-accumulates on zeros outside of maps a count of ``run`` has. Meta tensors will do."""
    with torch.no_grad(), _Convolutions() as seen:
        run()
    return seen.macs


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own, unannotated
    """Adds up those of every convolution."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding = args[:5]
            self.macs += _outside(x, weight, out, stride, padding)
        return out


def _outside(x: Tensor, weight: Tensor, out: Tensor, stride: Sequence[int], padding: Sequence[int]) -> int:
    """Of a convolution without dilation of ``x [n, c, ...]`` by ``weight [o, c, ...]``."""
    taps = [size * kernel for size, kernel in zip(out.shape[2:], weight.shape[2:], strict=True)]
    inside = [
        sum(0 <= result * step + tap - pad < size for result in range(results) for tap in range(kernel))
        for size, results, kernel, step, pad in zip(
            x.shape[2:], out.shape[2:], weight.shape[2:], stride, padding, strict=True
        )
    ]
    return out.shape[0] * weight.shape[0] * weight.shape[1] * (math.prod(taps) - math.prod(inside))
