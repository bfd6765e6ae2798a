"""Large inputs worked on in parts, so that what is held in between stays small."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

PART_BYTES = {"cpu": 16 << 20}
"""Size of a part by type of device: on the CPU what its caches hold."""

LARGEST_PART_BYTES = 128 << 20
"""Size of a part everywhere else: enough to keep a GPU busy. A tensor on the meta device counts as a GPU's."""

MOST_ON_META: int | None = 2
"""Number of parts on the meta device. Nothing is computed there, and two parts hold what all hold in turn."""


class Parts:
    """The parts of ``x`` along one axis, as slices, and the result that they make together.

    It serves a computation that treats every slice along ``dim`` alone::

        parts = Parts(x, dim=1)
        for some in parts:
            parts.keep(compute(x[:, some]))
        return parts.result

    What is held in between then exists for one part only. While gradients are recorded all of it would be kept
    anyway, and a compiler fuses for itself: then the whole is one part.

    Args:
        x: what is worked on.
        dim: the axis along which it is divided.
        growth: how many times larger than ``x`` the largest value in between is.
    """

    def __init__(self, x: Tensor, dim: int = 0, growth: float = 1.0) -> None:
        self._dim = dim
        self._slices = x.shape[dim]
        self._on_meta = x.is_meta
        self._at_a_time = slices_at_a_time(x, dim, growth)
        self._done = 0
        self._result: Tensor | None = None

    def __len__(self) -> int:
        return 1 if self._at_a_time >= self._slices else math.ceil(self._slices / self._at_a_time)

    def __iter__(self) -> Iterator[slice]:
        if len(self) == 1:
            return iter((slice(None),))
        starts = range(0, self._slices, self._at_a_time)
        slices = [slice(i, min(i + self._at_a_time, self._slices)) for i in starts]
        return iter(slices[:MOST_ON_META] if self._on_meta else slices)

    def keep(self, result: Tensor) -> None:
        """Put the next part's ``result`` in its place."""
        if len(self) == 1:
            self._result = result
        else:
            self._place(result).copy_(result)

    def keep_sum(self, x: Tensor, y: Tensor) -> None:
        """Put ``x + y`` of the next part in its place, where it is computed: no copy."""
        if len(self) == 1:
            self._result = x + y
        else:
            torch.add(x, y, out=self._place(x))

    def _place(self, like: Tensor) -> Tensor:
        """The next part of the result, of the shape of ``like``."""
        if self._result is None:
            shape = list(like.shape)
            shape[self._dim] = self._slices
            self._result = like.new_empty(shape)
        start, count = self._done, like.shape[self._dim]
        self._done += count
        return self._result.narrow(self._dim, start, count)

    @property
    def result(self) -> Tensor:
        """The results of all parts, one behind the other."""
        assert self._result is not None, "no part was kept"
        return self._result


def slices_at_a_time(x: Tensor, dim: int, growth: float = 1.0) -> int:
    """Number of slices of ``x`` along ``dim`` in one part: at least 1, and all where :class:`Parts` makes one part.

    The parts are of even size: the allocator then hands the same block to each of them.
    """
    slices = max(1, x.shape[dim])
    budget = PART_BYTES.get(x.device.type, LARGEST_PART_BYTES) / growth
    size = x.numel() * x.element_size()
    if size <= budget or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return slices
    most = max(1, int(budget * slices / size))
    return math.ceil(slices / math.ceil(slices / most))
