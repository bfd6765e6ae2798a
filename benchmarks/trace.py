"""Bytes and operations of every kernel of a call, on torch's meta device: nothing is computed, no weight is needed.

A kernel is one operator of eager torch. It reads each of its tensors once and writes each result once; what is
repeated by a stride of 0 is read once. torch's group norm reads its input a second time, after the moments. Views are
no kernels. Attention is one fused kernel. Caches are not modelled: what a kernel reads again from a cache is not
counted, what the next kernel might find there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vcut.analysis.memory import in_the_layout_of

aten = torch.ops.aten

KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("mm", "addmm", "bmm", "baddbmm"),
    "attention": ("attention",),
    "norm": ("native_group_norm", "native_layer_norm", "var_mean", "var", "mean"),
    "activation": ("silu", "silu_", "gelu"),
    "copy": ("clone", "copy_", "_to_copy", "cat", "repeat", "stack", "constant_pad_nd"),
    "upsampling": ("upsample_nearest2d",),
}
"""Kinds of kernels by the names of their operators. Every other is elementwise."""

LAYOUT = "change of layout"
"""Kind of the copies that cuDNN makes around a convolution in half precision of maps that are not channels-last."""

MAKES_NOTHING = ("empty", "empty_like", "empty_strided", "new_empty")


@dataclass(frozen=True)
class Kernel:
    """One kernel: its operator, its kind, what it moves and computes; ``flop`` is twice the multiply-accumulates."""

    name: str
    kind: str
    read: int
    written: int
    flop: int
    dtype: torch.dtype

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


def trace(run: Callable[[], object]) -> list[Kernel]:
    """The kernels of ``run`` on meta tensors, in order; a tensor that is worked on in parts in all its parts."""
    kernels: list[Kernel] = []
    recorded = _Recorded(kernels)
    with torch.no_grad(), patch("vcut.kernels.parts.MOST_ON_META", None), recorded, _FusedAttention(kernels):
        run()
    return kernels


def moved(kernels: Iterable[Kernel], *, layout: bool = False) -> int:
    """Bytes that ``kernels`` move, with or without cuDNN's changes of layout."""
    return sum(kernel.moved for kernel in kernels if layout or kernel.kind != LAYOUT)


def size(tensor: Tensor) -> int:
    """Bytes of the different elements of ``tensor``."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, stride in sides if stride or not n) * tensor.itemsize


class _Recorded(TorchDispatchMode):
    def __init__(self, kernels: list[Kernel]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = kernels
        self.copied: tuple[int, int] | None = (
            None  # the last kernel, if it copies: its number, its result's storage
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        result = func(*args, **kwargs)
        if func is aten.convolution.default:
            result = in_the_layout_of(args[0], result)
        made = _tensors(result)
        name = func.overloadpacket.__name__
        homes = {_home(tensor) for tensor in given}
        is_view = not func._schema.is_mutable and all(_home(tensor) in homes for tensor in made)
        if not made or is_view or name in MAKES_NOTHING:
            return result
        results = {argument.name for argument in func._schema.arguments if argument.is_out}
        out = {id(kwargs[name]) for name in results if name in kwargs}
        read = [tensor for tensor in given if id(tensor) not in out]
        if name in ("copy_", "fill_", "zero_"):
            read = read[1:]
        self._record(name, args, read, made, bool(out), _flop(func, args, kwargs, result))
        return result

    def _record(
        self, name: str, args: Any, read: list[Tensor], made: list[Tensor], into: bool, flop: int
    ) -> None:
        kind = next((kind for kind, names in KINDS.items() if name in names), "elementwise")
        if name == "addcmul" and into:  # the last of the three kernels of vcut's group norm
            kind = "norm"
        bytes_read, written = sum(map(size, read)), sum(map(size, made))
        if name == "native_group_norm":
            bytes_read += size(args[0])
            if self.copied == (len(self.kernels) - 1, _home(args[0])):  # to the one layout that it takes
                copy = self.kernels[-1]
                self.kernels[-1] = Kernel(copy.name, "norm", copy.read, copy.written, 0, copy.dtype)
        dtype = made[0].dtype
        self.kernels.append(Kernel(name, kind, bytes_read, written, flop, dtype))
        self.copied = (len(self.kernels) - 1, _home(made[0])) if name == "clone" else None
        if kind == "convolution" and dtype.itemsize == 2 and not _is_channels_last(args[0]):
            both = size(args[0]) + size(made[0])
            self.kernels.append(Kernel("transpose", LAYOUT, both, both, 0, dtype))


class _FusedAttention(TorchFunctionMode):
    def __init__(self, kernels: list[Kernel]) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        q, k, v = named["query"], named["key"], named["value"]
        with _disable_current_modes():
            result = torch.empty_like(q)  # in the layout of the queries, as the kernels write it
        flop = 4 * math.prod(q.shape) * k.shape[-2]
        self.kernels.append(
            Kernel("attention", "attention", sum(map(size, (q, k, v))), size(result), flop, q.dtype)
        )
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _home(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _flop(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    count = flop_registry.get(func.overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=result))


def _is_channels_last(x: Tensor) -> bool:
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=layout)
