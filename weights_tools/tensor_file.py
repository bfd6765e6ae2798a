"""One .safetensors file: its header, its tensors on demand, and how to write one tensor by tensor.

What is not such a file is refused in a sentence that says what it is and what to do.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weights_tools.errors import CheckpointError, VcutError, shown
from weights_tools.layouts import Shape
from weights_tools.outputs import replacing

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
"""The format's name of each dtype."""

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

WINDOW = 1 << 30
"""Bytes read through one memory map before it is replaced by a fresh one, which lets go of the pages."""

LARGEST_HEADER = 100_000_000
"""Bytes of the longest header, the safetensors library's own limit."""

_MOST_AXES = 16

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# --- Reading ---


@dataclass(frozen=True)
class Header:
    """Header of a file: name -> shape, name -> dtype, and free text."""

    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]
    metadata: dict[str, str]


class Reader:
    """Tensors of one file by name, on the CPU, as views of the file in memory.

    Their bytes are read when they are first touched. They lie in the page cache, memory that the system can take
    back. The file is mapped anew every :data:`WINDOW` bytes, so that pages whose tensors are gone (cast, written out)
    stop counting as this process's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._read = 0

    def __getitem__(self, key: str) -> Tensor:
        if self._file is None or self._read > WINDOW:
            self._file, self._read = _opened(self.path), 0
        tensor: Tensor = self._file.get_tensor(key)
        self._read += tensor.nbytes
        return tensor


def read_header(path: Path) -> Header:
    """The header of a .safetensors file, checked against the file's size.

    Raises:
        CheckpointError: it is not a whole .safetensors file; the message says what it is and what to do.
    """
    size, text = _read_text(path)
    try:
        data = json.loads(text.decode(), object_pairs_hook=_without_doubles)
        metadata = data.pop("__metadata__", None) or {}
        # an error for values that are no text, and for lone surrogates
        "".join((*data, *metadata, *metadata.values())).encode()
        entries = {key: _Entry.of(said) for key, said in data.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged (its header is not readable): download it again") from error
    _check_size(path, size, 8 + len(text) + max((entry.stop for entry in entries.values()), default=0))
    _check_entries(path, entries)
    _opened(path)  # what only the library refuses is refused here too, before anything is read
    return Header(
        {key: entry.shape for key, entry in entries.items()},
        {key: DTYPES[entry.dtype] for key, entry in entries.items()},
        metadata,
    )


class _Entry(NamedTuple):
    """One tensor as the header has it: its dtype by name, its shape, and the span of its bytes."""

    dtype: str
    shape: Shape
    start: int
    stop: int

    @staticmethod
    def of(said: Mapping[str, object]) -> _Entry:
        """The entry from its JSON; an exception of any kind if that is ill-formed."""
        start, stop = _sizes(said["data_offsets"])
        return _Entry(str(said["dtype"]), _sizes(said["shape"]), start, stop)


def _opened(path: Path) -> Any:
    """The file as the safetensors library opens it."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): download it again") from error


def _sizes(numbers: object) -> Shape:
    """A short list of whole numbers from JSON, none negative, as a tuple; TypeError for anything else."""
    if not isinstance(numbers, list) or len(numbers) > _MOST_AXES:
        raise TypeError("no list of sizes")
    for n in numbers:
        if type(n) is not int or not 0 <= n < 2**63:
            raise TypeError("no size")
    return tuple(numbers)


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; ValueError if it has a key twice, of which other readers take the other."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key is there twice")
    return data


def _read_text(path: Path) -> tuple[int, bytes]:
    """Size of the file in bytes and the text of its header."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file" + (", but a device" if path.exists() else ""))
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(_pickle(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            text = file.read(length) if length <= LARGEST_HEADER else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if length > LARGEST_HEADER or size < 8:
        raise CheckpointError(_what_it_is(path, size, start))
    if len(text) < length:
        raise CheckpointError(_truncated(path, size, f"over {8 + length:,}"))
    return size, text


def _check_size(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise CheckpointError(_truncated(path, size, f"{expected:,}"))
    if size > expected:
        raise CheckpointError(
            f"{path} is damaged: {size:,} bytes where {expected:,} were expected: download it again"
        )


def _check_entries(path: Path, entries: Mapping[str, _Entry]) -> None:
    """Raise unless there are tensors, all of known dtypes, each with the bytes that its shape needs to itself."""
    if not entries:
        raise CheckpointError(f"{path} holds no tensors")
    if unknown := sorted({entry.dtype for entry in entries.values()} - set(DTYPES)):
        raise CheckpointError(
            f"{path} holds tensors of type {', '.join(map(shown, unknown[:3]))}, which cannot be read; known: "
            f"{', '.join(DTYPES)}"
        )
    end = 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.stop - entry.start != _nbytes(DTYPES[entry.dtype], entry.shape):
            raise CheckpointError(
                f"{path} is damaged ({shown(key)} has {entry.stop - entry.start:,} bytes for {entry.dtype} "
                f"{list(entry.shape)}): download it again"
            )
        if entry.start != end:
            fault = "overlaps the tensor before it" if entry.start < end else "comes after a gap"
            raise CheckpointError(f"{path} is damaged ({shown(key)} {fault}): download it again")
        end = entry.stop


def _pickle(path: Path) -> str:
    return (
        f"{path} is a pickle ({path.suffix or 'by its first bytes'}): opening one can run any program hidden in it, "
        "so it is refused; take the .safetensors file of the same model"
    )


def _truncated(path: Path, size: int, expected: str) -> str:
    return f"{path} is cut short: {size:,} bytes where {expected} were expected: the download is incomplete"


def _what_it_is(path: Path, size: int, start: bytes) -> str:
    """A sentence about a file that does not begin with the length of a header: what it is, and what to do."""
    if size == 0:
        return f"{path} is empty: download it again"
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


# --- Writing ---

Specs = Mapping[str, tuple[torch.dtype, Shape]]
"""Contents of a file before it is written: name -> dtype and shape."""

Progress = Callable[[int, int], None]
"""Function that is told the bytes written so far and the bytes in all."""


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
    with replacing(path, overwrite) as temporary:
        write(temporary, specs(tensors), tensors, metadata)


def specs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, Shape]]:
    """Dtype and shape of each tensor; tensors on the meta device suffice."""
    found = {}
    for name in tensors:
        tensor = tensors[name]
        found[name] = tensor.dtype, tuple(tensor.shape)
    return found


def write(
    path: Path,
    specs: Specs,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write the file at ``path``. Each of ``tensors`` is asked for once, in the order of the file, and let go."""
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
        if dtype not in _NAMES:
            raise CheckpointError(f"{name}: {dtype} cannot be stored in a .safetensors file")
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, _NAMES[specs[name][0]], name))
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = specs[name]
        start, end = end, end + _nbytes(dtype, shape)
        content[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _nbytes(dtype: torch.dtype, shape: Shape) -> int:
    return dtype.itemsize * math.prod(shape)
