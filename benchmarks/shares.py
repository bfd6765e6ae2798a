"""Time of a call by what it is spent on, and the share of this machine's own peak.

    python -m benchmarks.shares                            # both branches, four sizes
    python -m benchmarks.shares --clips 14x320x192

Every operator of one packed call of the lossless UNet is timed by itself. Every product with weights is then timed
again in both libraries that torch has, its own (MKL, say) and oneDNN with a packed matrix: the faster is the peak of
that shape. Each of its runs has other weights, as in a call, where a layer's are not in the cache. What is no such
product moves more than it computes: its bytes a second stand beside those of a copy of large tensors.

A tensor that stays in the cache between two operators is read faster than memory is, so an operator may move more a
second than a copy does. The last row is the call without the clocks.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import trace, unet
from benchmarks.harness import command
from benchmarks.harness.report import Found, Row
from benchmarks.harness.rounds import alone
from benchmarks.harness.weights import DTYPES, configuration, write_part
from vcut.kernels import onednn

MODULE = "benchmarks.shares"

MATRICES, FILTERED, TRANSFORMS, ATTENTION = (
    "products with matrices",
    "products of minimal filtering",
    "transforms of minimal filtering",
    "attention",
)
"""Kinds of operators; the first two multiply by weights, and have a peak."""

OTHERS = {
    **trace.KINDS,
    "norm": (*trace.KINDS["norm"], "native_batch_norm", "batch_norm_update_stats"),
    ATTENTION: ("attention", "_softmax"),
}
"""Kinds of the other operators, by what their names have in them; what has none of these is elementwise."""

NARROW = 64
"""Width of a head, and more than a side of any transform: no product with weights is as narrow."""

COLD = 2**27
"""Bytes of different weights between two uses of the same: more than a cache holds."""


@dataclass(frozen=True)
class Settings:
    """Sizes of the calls: each clip is frames x width x height in pixels."""

    model: str = "svd-xt"
    clips: tuple[str, ...] = ("1x64x64", "4x128x128", "8x192x128", "14x320x192")
    dtype: str = "float32"
    batch: int = 2


class Product(NamedTuple):
    """Sizes of a product: ``times`` times ``[m, k] x [k, n]``."""

    times: int
    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Twice the multiply-accumulates."""
        return 2 * math.prod(self)


class Operator(NamedTuple):
    """One operator as it ran: its kind, seconds, bytes read and written, and its product if it is one."""

    kind: str
    seconds: float
    moved: int
    product: Product | None


def run(settings: Settings, folder: Path) -> Found:
    """Measure every clip in a process of its own."""
    config = configuration(settings.model)
    path = write_part(folder, config, "unet", settings.dtype)
    rows, notes = [], [settings.model]
    for clip in settings.clips:
        command.progress(f"shares of {clip}")
        frames, width, height = map(int, clip.split("x"))
        stride = config.vae.stride
        call = unet.Call(frames, height // stride, width // stride, settings.batch, "lossless")
        arguments = {"path": str(path), "model": settings.model, "dtype": settings.dtype, "call": vars(call)}
        found = alone("vcut", MODULE, "measure", arguments)
        case = f"{settings.dtype}, {settings.batch} x {frames} frames of {width}x{height}"
        operations = unet.flop(config, call, published=False)
        rows += [
            Row(case, kind, [values.pop("seconds")], flop=int(values.pop("flop")) or None, details=values)
            for kind, values in found["kinds"].items()
        ]
        rows.append(Row(case, "the whole call", [found["seconds"]], flop=operations, details=found["whole"]))
        notes.append(f"{case}: a copy of large tensors moves {found['copy']:.0f} GB/s.")
    return Found(rows, notes)


@torch.no_grad()
def measure(path: str, model: str, dtype: str, call: dict[str, Any]) -> dict[str, Any]:
    """Seconds and rates of one call by kind of operator, in a worker."""
    made, _ = unet.build("vcut", path=path, model=model, calls=[call])
    once = made[unet.Call(**call).variant]
    once()
    seconds = min(_seconds(once) for _ in range(2))
    operators = timed(once)
    shapes = {each.product for each in operators if each.product}
    peaks = {shape: peak(shape, DTYPES[dtype]) for shape in shapes}
    kinds = sorted({each.kind for each in operators}, key=lambda kind: -_total(operators, kind))
    of_kind = {kind: _described([each for each in operators if each.kind == kind], peaks) for kind in kinds}
    least = sum(peaks[each.product] for each in operators if each.product)
    spent = sum(each.seconds for each in operators)
    whole = {"% of the call": 100.0, "% of the peak": 100 * least / seconds}
    for values in of_kind.values():
        values["% of the call"] = 100 * values["seconds"] / spent
    return {"kinds": of_kind, "whole": whole, "seconds": seconds, "copy": _copied() / 1e9}


def timed(call: Callable[[], object]) -> list[Operator]:
    """The operators of ``call`` in order, with the time of each; views are none."""
    operators: list[Operator] = []
    with _Timed(operators):
        call()
    return operators


class _Timed(TorchDispatchMode):
    def __init__(self, operators: list[Operator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        start = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - start
        name = func.overloadpacket.__name__
        read = _tensors((args[1:] if name == "copy_" else args, {**kwargs, "out": None}))
        made = _tensors(result)
        homes = {_home(tensor) for tensor in read}
        is_view = not func._schema.is_mutable and all(_home(tensor) in homes for tensor in made)
        if not is_view and name not in trace.MAKES_NOTHING:
            moved = sum(map(_size, (*read, *made)))
            self.operators.append(_operator(name, seconds, moved, _product(name, args)))
        return result


def _operator(name: str, seconds: float, moved: int, product: Product | None) -> Operator:
    if product is None:
        kind = next((kind for kind, names in OTHERS.items() if any(n in name for n in names)), "elementwise")
        return Operator(kind, seconds, moved, None)
    if max(product.m, product.k) <= NARROW and product.times == 1:
        return Operator(TRANSFORMS, seconds, moved, None)
    if min(product.k, product.n) <= NARROW:
        return Operator(ATTENTION if product.times > 1 else MATRICES, seconds, moved, None)
    return Operator(FILTERED if product.times > 1 else MATRICES, seconds, moved, product)


def _product(name: str, args: Sequence[Any]) -> Product | None:
    """Sizes of the product that an operator computes, if it is one."""
    if name in ("mm", "addmm"):
        a, b = args[-2:] if name == "mm" else args[1:3]
        return Product(1, a.shape[0], a.shape[1], b.shape[1])
    if name in ("bmm", "baddbmm"):
        a, b = args[:2] if name == "bmm" else args[1:3]
        return Product(a.shape[0], a.shape[1], a.shape[2], b.shape[2])
    if name == "_linear_pointwise":
        x, weight = args[0], next(each for each in args[1:] if each.ndim == 2)
        return Product(1, x.shape[:-1].numel(), x.shape[-1], weight.shape[0])
    return None


def peak(product: Product, dtype: torch.dtype) -> float:
    """Seconds that ``product`` takes in the faster of the two libraries, with weights that are in no cache."""
    times, m, k, n = product
    different = min(32, max(1, COLD // (times * k * n * dtype.itemsize)))
    x = torch.randn(times, m, k).to(dtype)
    weights = [torch.randn(times, n, k).to(dtype) for _ in range(different)]
    matrix = x[0] if times == 1 else x
    plain = [w.transpose(1, 2)[0] if times == 1 else w.transpose(1, 2) for w in weights]
    out = torch.empty(times, m, n, dtype=dtype)
    into = out[0] if times == 1 else out
    multiply = torch.mm if times == 1 else torch.bmm
    fastest = [_fastest(lambda w: multiply(matrix, w, out=into), plain)]
    if onednn.packs(dtype):
        packed = [[onednn.packed_matrix(matrix) for matrix in w] for w in weights]
        fastest.append(_fastest(lambda w: [onednn.linear(x[i], w[i], None) for i in range(times)], packed))
    return min(fastest)


def _fastest(call: Callable[[Any], object], weights: Sequence[Any], least: float = 0.1) -> float:
    """Seconds of the fastest run: each has the next weights, and there are five, or as many as ``least`` allows."""
    turns = itertools.cycle(weights)
    call(next(turns))
    found: list[float] = []
    while len(found) < 5 or (sum(found) < least and len(found) < 50):
        found.append(_seconds(lambda: call(next(turns))))
    return min(found)


def _described(operators: Iterable[Operator], peaks: dict[Product, float]) -> dict[str, float]:
    """Seconds and rates of operators of one kind."""
    operators = list(operators)
    seconds = sum(each.seconds for each in operators)
    flop = sum(each.product.flop for each in operators if each.product)
    values = {"seconds": seconds, "flop": float(flop), "% of the call": 0.0}
    if flop:
        least = sum(peaks[each.product] for each in operators if each.product)
        known = sum(each.seconds for each in operators if each.product)
        values |= {"GFLOP/s at the peak": flop / least / 1e9, "% of the peak": 100 * least / known}
    else:
        values["GB/s"] = sum(each.moved for each in operators) / seconds / 1e9
    return values


def _total(operators: Iterable[Operator], kind: str) -> float:
    return sum(each.seconds for each in operators if each.kind == kind)


def _copied() -> float:
    """Bytes a second that a copy of large tensors reads and writes."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_seconds(lambda: target.copy_(source)) for _ in range(5))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _home(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.is_mkldnn else tensor.untyped_storage()._cdata


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize if tensor.is_mkldnn else trace.size(tensor)


CHAPTERS = {
    "shares": command.Chapter(
        "Where the time of a call goes", run, Settings(), Settings("tiny", clips=("2x64x64",))
    )
}


if __name__ == "__main__":
    command.main("shares")
