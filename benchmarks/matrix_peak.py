"""The machine's matrix peak: GFLOP/s of the best of some large products, as torch computes them.

    python -m benchmarks.matrix_peak

A network's GFLOP/s are a share of it. The shapes are such as the UNet has: tokens by matrices, and 3x3 convolutions
of channels-last pictures, their weights packed where that can be. The convolutions have no zeros around them: oneDNN
skips those, and a count that does not would find 8 % more than the machine can do (:mod:`benchmarks.padding`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.weights import DTYPES
from benchmarks.worker import settings
from vcut.layers import Conv, pack

LINEAR = ((960, 1280, 1280), (1920, 1280, 1280), (1920, 640, 5120))
"""Rows, inputs, outputs."""
CONVOLUTION = ((28, 320, 24, 40), (28, 640, 12, 20))
"""Pictures, channels in and out, height and width of the result."""


def measure(dtype: str, seconds: float = 0.2) -> dict[str, float]:
    """GFLOP/s by shape, each the best of as many runs as fit into ``seconds``, at least two."""
    with torch.no_grad():
        return {name: flop / _best(run, seconds) / 1e9 for name, flop, run in _products(DTYPES[dtype])}


def _products(dtype: torch.dtype) -> Iterator[tuple[str, int, Callable[[], Tensor]]]:
    """What is run: its name, its operations, itself."""
    for n, i, o in LINEAR:
        x = torch.randn(n, i, dtype=dtype)
        yield f"linear {n}x{i}x{o}", 2 * n * i * o, partial(_packed(nn.Linear(i, o), dtype), x)
    for n, c, h, w in CONVOLUTION:
        x = torch.randn(1, n, h + 2, w + 2, c, dtype=dtype)
        yield f"conv {n}x{c}x{h}x{w}", 2 * 9 * n * c * c * h * w, partial(_packed(Conv(c, c, 3), dtype), x)


def _packed(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    network = nn.Sequential(layer).to(dtype).requires_grad_(False)
    pack(network)
    return network


def _best(run: Callable[[], Tensor], seconds: float) -> float:
    best, spent, times = float("inf"), 0.0, 0
    while spent < seconds or times < 2:
        start = time.perf_counter()
        run()
        took = time.perf_counter() - start
        best, spent, times = min(best, took), spent + took, times + 1
    return best


def main() -> None:
    chosen = settings("vcut")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {chosen}")
    for dtype in sys.argv[1:] or ("float32", "bfloat16"):
        for name, rate in measure(dtype, seconds=1).items():
            print(f"{dtype:9} {name:28} {rate:8.1f} GFLOP/s")


if __name__ == "__main__":
    main()
