"""Reading the golden files in ``tests/data``; ``tests/data/goldens/NOTES.md`` says what is in them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent / "data"


def load(name: str) -> dict[str, Tensor]:
    """Every tensor of ``goldens/<name>.safetensors``, in its stored dtype."""
    return load_file(DATA / "goldens" / f"{name}.safetensors")


def config(name: str) -> dict[str, Any]:
    """The configuration of the reference module, from the header of ``goldens/<name>.safetensors``."""
    with safe_open(DATA / "goldens" / f"{name}.safetensors", "pt") as file:
        data: dict[str, Any] = json.loads(file.metadata()["config"])
    return data


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the published file described by ``manifests/<name>.json``."""
    data = json.loads((DATA / "manifests" / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in data.items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest absolute expected value. Shapes must be equal."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    expected = expected.double()
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def hash_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights by rule, from the sgm names alone (NOTES.md, "Hash weights"). float32, exact."""
    return {key: _hash_tensor(key, tuple(shape)) for key, shape in shapes.items()}


def _hash_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    seed = np.uint64(zlib.crc32(key.encode()) << 32)
    z = seed + np.arange(1, math.prod(shape) + 1, dtype=np.uint64)  # array arithmetic wraps modulo 2^64
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    v = ((z >> np.uint64(48)).astype(np.float32) - 32768) / 32768  # [-1, 1)
    if key.endswith("mix_factor"):
        v = 2 * v
    elif len(shape) >= 2:
        v = v * 2.0 ** -(math.prod(shape[1:]).bit_length() // 2)
    elif key.endswith(".weight"):
        v = 1 + v / 4
    else:
        v = v / 8
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)
