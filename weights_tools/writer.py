"""Writing a .safetensors file tensor by tensor, so that no more than one need be in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from weights_tools.atomic import replacing
from weights_tools.errors import CheckpointError, VcutError
from weights_tools.layouts import Shape
from weights_tools.reader import DTYPES

Specs = Mapping[str, tuple[torch.dtype, Shape]]
"""What a file will hold, before it is made: name -> dtype and shape."""

Progress = Callable[[int, int], None]
"""Told the bytes written so far and in all."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> None:
    """Write ``tensors`` to ``path``, whole or not at all. Views, shared and strided tensors are written in full.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        VcutError: the folder is not writable or has too little room.
        CheckpointError: a tensor has a dtype that the format lacks.
    """
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with replacing(path, overwrite) as temporary:
        write(temporary, specs, tensors, metadata)


def write(
    path: Path,
    specs: Specs,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write the file at ``path``; each of ``tensors`` is asked for once, in the order of the file."""
    head, order = header(specs, metadata)
    sizes = {name: _nbytes(*specs[name]) for name in order}
    total = len(head) + sum(sizes.values())
    if total > (free := shutil.disk_usage(path.parent).free):
        raise VcutError(f"{path.name} needs {total:,} bytes, the disk has {free:,} left")
    with path.open("wb") as file:
        done = file.write(head)
        for name in order:
            tensor = tensors[name].detach()
            if (tensor.dtype, tuple(tensor.shape)) != specs[name]:
                raise CheckpointError(
                    f"{name}: expected {specs[name]}, found {tensor.dtype}, {list(tensor.shape)}"
                )
            flat = tensor.cpu().contiguous().reshape(-1)
            done += file.write(flat.view(torch.uint8).numpy().data)
            if progress:
                progress(done, total)


def header(specs: Specs, metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The first bytes of the file, up to the tensors, and the order of the tensors.

    Wide dtypes come first so that every tensor is aligned, as the safetensors library does.
    """
    for name, (dtype, _) in specs.items():
        if dtype not in _CODES:
            raise CheckpointError(f"{name}: {dtype} cannot be stored in a .safetensors file")
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, _CODES[specs[name][0]], name))
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = specs[name]
        start, end = end, end + _nbytes(dtype, shape)
        content[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _nbytes(dtype: torch.dtype, shape: Shape) -> int:
    return dtype.itemsize * math.prod(shape)
