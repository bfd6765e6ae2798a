"""One .safetensors file: its header, its tensors on demand, and a plain sentence for whatever else it may be."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weights_tools.errors import CheckpointError
from weights_tools.layouts import Shape

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

WINDOW = 1 << 30
"""Bytes read through one memory map before it is replaced by a fresh one, which lets go of the pages."""

_LARGEST_HEADER = 100_000_000  # as the safetensors library has it


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors: name -> shape, name -> dtype, and free text."""

    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]
    metadata: dict[str, str]


class Reader:
    """Tensors of one file by name, on the CPU, as views of the file in memory.

    Their bytes are read when they are first touched, and are the page cache's: memory the system can take back.
    With ``release`` the file is mapped anew every :data:`WINDOW` bytes, so that pages whose tensors are gone (cast,
    written out) stop counting; without, all tensors share one map.

    """

    def __init__(self, path: Path, *, release: bool = False) -> None:
        self.path = path
        self._release = release
        self._file: Any = None
        self._read = 0

    def __getitem__(self, key: str) -> Tensor:
        if self._file is None or (self._release and self._read > WINDOW):
            try:
                self._file, self._read = safe_open(self.path, framework="pt", device="cpu"), 0
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{self.path} is damaged ({error}): download it again") from error
        tensor: Tensor = self._file.get_tensor(key)
        self._read += tensor.nbytes
        return tensor


def read_header(path: Path) -> Header:
    """The header of a .safetensors file, checked against the file's size.

    Raises:
        CheckpointError: it is not a whole .safetensors file; the message says what it is and what to do.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(_pickle(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            text = file.read(length) if length <= _LARGEST_HEADER else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if strange := _not_safetensors(path, size, start):
        raise CheckpointError(strange)
    if length <= _LARGEST_HEADER and len(text) < length:
        raise CheckpointError(_truncated(path, size, f"over {8 + length:,}"))
    try:
        data = json.loads(text)
        metadata = data.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise TypeError("metadata")
        shapes = {key: _sizes(info["shape"]) for key, info in data.items()}
        kinds = {key: str(info["dtype"]) for key, info in data.items()}
        spans = {key: _sizes(info["data_offsets"]) for key, info in data.items()}
        end = 8 + length + max((stop for _, stop in spans.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged (its header is not readable): download it again") from error
    if size < end:
        raise CheckpointError(_truncated(path, size, f"{end:,}"))
    if size > end:
        raise CheckpointError(
            f"{path} is damaged: {size:,} bytes where {end:,} were expected: download it again"
        )
    if not shapes:
        raise CheckpointError(f"{path} holds no tensors")
    if unknown := sorted(set(kinds.values()) - set(DTYPES)):
        raise CheckpointError(
            f"{path} holds tensors of type {', '.join(unknown)}, which cannot be read; known: {', '.join(DTYPES)}"
        )
    dtypes = {key: DTYPES[kind] for key, kind in kinds.items()}
    for key, (start_at, stop) in spans.items():
        if stop - start_at != math.prod(shapes[key]) * dtypes[key].itemsize:
            raise CheckpointError(
                f"{path} is damaged ({key} has {stop - start_at:,} bytes for {kinds[key]} {list(shapes[key])}): "
                "download it again"
            )
    return Header(shapes, dtypes, {key: str(value) for key, value in metadata.items()})


def _sizes(numbers: object) -> Shape:
    """A list of numbers that count something, as JSON has it; anything else raises."""
    if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
        raise TypeError(f"{numbers} is no list of sizes")
    return tuple(numbers)


def _pickle(path: Path) -> str:
    return (
        f"{path} is a pickle ({path.suffix or 'by its first bytes'}): opening one can run any program hidden in it, "
        "so it is refused; take the .safetensors file of the same model"
    )


def _truncated(path: Path, size: int, expected: str) -> str:
    return f"{path} is cut short: {size:,} bytes where {expected} were expected: the download is incomplete"


def _not_safetensors(path: Path, size: int, start: bytes) -> str | None:
    """What the file is, if its first bytes give it away."""
    if size == 0:
        return f"{path} is empty: download it again"
    if int.from_bytes(start, "little") <= _LARGEST_HEADER and size >= 8:
        return None  # the length of a header: seven bytes of a text are a far greater number
    if start.startswith(b"version "):
        return (
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`, or download the file itself"
        )
    if start.lstrip().startswith(b"<"):
        return (
            f"{path} is a web page saved under this name, not weights: log in and accept the licence if the site "
            "asks for it, then download the file itself"
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _pickle(path)
    return f"{path} is not a .safetensors file: it starts with {start!r}"
