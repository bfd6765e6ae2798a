"""Large inputs worked on in parts, so that what is held in between stays small."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PART_BYTES = {"cpu": 16 << 20, "meta": math.inf}
LARGEST_PART_BYTES = 128 << 20
"""How much of a large input is worked on at a time: on the CPU what its caches hold, elsewhere what keeps a GPU
busy. It bounds the memory of everything in between. On the meta device nothing is held, unless one asks how much
would be (:mod:`vcut.analysis.memory`)."""


def in_parts(compute: Callable[..., Tensor], *inputs: Tensor, dim: int = 0, growth: float = 1.0) -> Tensor:
    """``compute(*inputs)`` for a function that treats every slice along ``dim`` alone, some slices at a time.

    What ``compute`` holds in between exists for one part only, and the caches hold it. ``growth`` is how many times
    larger than the first input that gets. While gradients are recorded it would all be kept anyway, and a compiler
    fuses for itself: then the whole is one part.
    """
    slices = inputs[0].shape[dim]
    count = slices_at_a_time(inputs[0], dim, growth)
    if count >= slices:
        return compute(*inputs)
    out: Tensor | None = None
    for start, *parts in zip(
        range(0, slices, count), *(torch.split(tensor, count, dim) for tensor in inputs), strict=True
    ):
        result = compute(*parts)
        if result.is_meta and out is not None:
            break  # two parts hold what all hold, one after the other
        if out is None:
            shape = list(result.shape)
            shape[dim] = slices
            out = result.new_empty(shape)
        out.narrow(dim, start, result.shape[dim]).copy_(result)
    assert out is not None
    return out


def slices_at_a_time(x: Tensor, dim: int, growth: float = 1.0) -> int:
    """How many slices of ``x`` along ``dim`` a part has, for :func:`in_parts`: at least 1, all when not parted.

    Parts are as even as can be: their memory is then of one size, which the allocator gives again and again.
    """
    slices = max(1, x.shape[dim])
    budget = PART_BYTES.get(x.device.type, LARGEST_PART_BYTES) / growth
    size = x.numel() * x.element_size()
    if size <= budget or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return slices
    most = max(1, int(budget * slices / size))
    return math.ceil(slices / math.ceil(slices / most))
