"""Files of a sweep: ``sweep.json`` says what it is, ``manifest.jsonl`` has a line of JSON for each finished clip.

A process appends to a manifest of its own, so several may work in one folder. All manifests are read together. A line
that a kill cut off is no JSON and counts as not written; its clip is made again, and the later record of a clip wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcut.errors import ConfigError, VcutError
from vcut.sweeps import json_lines
from weights_tools.outputs import lock_alone, replacing

SWEEP = "sweep.json"
"""Name of the file that says what the sweep is."""

Key = tuple[str, str, int]
"""A clip: name of its setting, name of its picture, its number."""


@dataclass(frozen=True)
class Sweep:
    """Description of a sweep, as ``sweep.json`` has it."""

    # name of the model, as it was given
    model: str
    weights_sha256: str
    # number types: unet, vae, decoder, and the precision of matmul
    dtypes: dict[str, str]
    # of a process, if it computes on the CPU: the last bits of the clips depend on it
    threads: int
    # clips of each picture
    clips: int
    # from which all seeds are made
    seed: int
    # times that every pixel is written along each side
    enlarge: int
    # Setting.to_dict() by name
    settings: dict[str, dict[str, Any]]
    # paths by name
    images: dict[str, str]
    # path of the UNet that took the place of the model's own, if one did; its tensors are in the hash
    unet: str | None = None
    # weights that are packed where a CPU computes, plain ones, or a compiled UNet: the last bits depend on it too
    kernels: str = "packed"
    # the forms of packed weights, as --pack takes them, of a process that computes on the CPU
    packing: str | None = None


@dataclass(frozen=True)
class Record:
    """One finished clip."""

    # name of the setting, which is its folder
    setting: str
    # what the clip is called, its number aside: the suite's prompt, or the stem of the image
    name: str
    index: int
    # relative to the sweep's folder, with /
    file: str
    # path as it was given
    image: str
    image_sha256: str
    seed: int
    preset: str
    # Settings.to_dict()
    settings: dict[str, Any]
    model: str
    weights_sha256: str
    # of vcut, torch and python
    versions: dict[str, str]
    device: str
    frames: int
    height: int
    width: int
    fps: int
    # of generating, without loading
    seconds: float
    # size of the file
    bytes: int
    file_sha256: str
    # of the uint8 frames [f, H, W, 3] that the encoder was handed
    frames_sha256: str
    # file of the sampler's last latents, relative to the sweep's folder, if they were kept
    latents: str | None = None
    # as Sweep.unet
    unet: str | None = None
    # UTC, as 2026-01-31T23:59:59.123456+00:00: of two records of a clip the later one counts
    finished: str = ""

    @property
    def key(self) -> Key:
        """The clip that the record is about."""
        return self.setting, self.name, self.index


def name_of(shard: int, shards: int) -> str:
    """Name of the manifest that one of ``shards`` processes writes."""
    return "manifest.jsonl" if shards == 1 else f"manifest-{shard}-of-{shards}.jsonl"


def read(out: Path) -> list[Record]:
    """The records of a sweep's folder, one a clip, in the order of setting (as in sweep.json), name and index.

    Raises:
        ConfigError: a line is JSON, but no record.
    """
    latest: dict[Key, Record] = {}
    for file in sorted(out.glob("manifest*.jsonl")):
        # within a file the later line is the later record, whatever the clocks of several machines say
        for key, record in {record.key: record for record in _records(file)}.items():
            if key not in latest or latest[key].finished <= record.finished:
                latest[key] = record
    sweep = read_sweep(out) if latest else None
    order = list(sweep.settings) if sweep else []
    order += sorted({setting for setting, _, _ in latest} - set(order))
    return [latest[key] for key in sorted(latest, key=lambda key: (order.index(key[0]), key))]


def read_sweep(out: Path) -> Sweep | None:
    """The sweep of a folder, or None if it holds none.

    Raises:
        ConfigError: its ``sweep.json`` is not one.
    """
    try:
        return json_lines.typed(Sweep, json.loads((out / SWEEP).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{out / SWEEP} is not what a sweep writes ({error}): remove it, for the manifests say the rest"
        ) from error


def write_sweep(out: Path, sweep: Sweep) -> None:
    """Make ``out`` the folder of ``sweep``.

    Raises:
        VcutError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VcutError(f"the folder {out} cannot be made: {error.strerror}") from error
    with replacing(out / SWEEP, overwrite=True) as target:
        target.write_text(json.dumps(dataclasses.asdict(sweep), indent=1) + "\n")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[Path]:
    """Yield the manifest at ``path`` while no other process of this system may do so; a kill ends that too.

    Raises:
        VcutError: another process is at work, or the file cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise VcutError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        # where there are no locks it is up to the user
        if lock_alone(file) is False:
            raise VcutError(
                f"another process is at work on {path}: wait for it, or share the clips with --shard 0/2 and 1/2"
            )
        yield path


def append(path: Path, record: Record) -> None:
    """Add ``record`` to the manifest at ``path``; on return it is on the disk. Its clip must be in place before."""
    json_lines.append(path, dataclasses.asdict(record))


def is_complete(out: Path, record: Record) -> bool:
    """Whether the clip of ``record`` is there, with its size and its hash, and its latents if they were kept."""
    file = out / record.file
    try:
        whole = file.stat().st_size == record.bytes and file_sha256(file) == record.file_sha256
    except OSError:
        return False
    return whole and (record.latents is None or (out / record.latents).exists())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def frames_sha256(frames: NDArray[np.uint8]) -> str:
    """SHA-256 of frames ``[f, H, W, 3]``, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def _records(file: Path) -> Iterator[Record]:
    for number, data in json_lines.read(file):
        try:
            record = json_lines.typed(Record, data)
            for path in (record.setting, record.file, record.latents or ""):
                if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
                    raise TypeError(f"{path} is outside of the sweep's folder")
            yield record
        except TypeError as error:
            raise ConfigError(f"{file}, line {number} is no record of a clip: {error}") from error
