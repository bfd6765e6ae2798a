"""Files of a sweep: ``sweep.json`` says what it is, ``manifest.jsonl`` has a line of JSON for each finished clip.

A process appends to a manifest of its own, so several may work in one folder. All manifests are read together. A line
that a kill cut off is no JSON and counts as not written; its clip is made again, and the later record of a clip wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcut import config
from vcut.errors import ConfigError, MediaError, VcutError
from vcut.sweeps import json_lines
from weights_tools.outputs import lock_alone, make_folder, replacing

SWEEP = "sweep.json"
"""Name of the file that says what the sweep is."""

NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""Characters that no file's name has."""

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
    # its size and hash; older manifests do not say them
    latents_bytes: int | None = None
    latents_sha256: str | None = None
    # as Preset; older manifests do not say them, nor the five that follow, which are as Sweep's
    tca: bool | str | None = None
    sca: bool | str | None = None
    dtypes: dict[str, str] | None = None
    threads: int | None = None
    enlarge: int | None = None
    kernels: str | None = None
    # none where no CPU computes
    packing: str | None = None
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
        sweep = json_lines.typed(Sweep, json.loads((out / SWEEP).read_text()))
        for name in ("threads", "clips", "enlarge"):
            config.whole_number(name, getattr(sweep, name), most=config.LARGEST)
        return sweep
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{out / SWEEP} is not what a sweep writes ({error}): restore it, or remove it, which is enough if "
            "the manifests say the dtypes of each clip"
        ) from error


def write_sweep(out: Path, sweep: Sweep) -> None:
    """Make ``out`` the folder of ``sweep``.

    Raises:
        VcutError: the folder cannot be written.
    """
    make_folder(out)
    with replacing(out / SWEEP, overwrite=True) as target:
        target.write_text(json.dumps(dataclasses.asdict(sweep), indent=1) + "\n")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[Path]:
    """Yield the manifest at ``path`` while no other process of this system may do so; a kill ends that too.

    Raises:
        VcutError: another process is at work, or the file or its folder cannot be written.
    """
    make_folder(path.parent)
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


def check_complete(out: Path, record: Record, *, hashed: bool = True) -> None:
    """Raise :class:`MediaError` unless the clip of ``record`` is there as it was written, and its latents if kept.

    Sizes are compared, and hashes if ``hashed``.
    """
    for name, path, size, sha256 in (
        ("clip", record.file, record.bytes, record.file_sha256),
        ("latents", record.latents, record.latents_bytes, record.latents_sha256),
    ):
        if path is None:
            continue
        file = out / path
        try:
            whole = file.is_file() and size in (None, file.stat().st_size)
            whole = whole and (not hashed or sha256 in (None, file_sha256(file)))
        except OSError:
            whole = False
        if not whole:
            fault = "is not the clip" if name == "clip" else "has not the latents"
            raise MediaError(f"{file} {fault} of the manifest, or is gone: run the sweep again")


def is_complete(out: Path, record: Record) -> bool:
    """Whether the clip of ``record`` is there as it was written, and its latents if they were kept."""
    try:
        check_complete(out, record)
    except MediaError:
        return False
    return True


def line_of(out: Path, record: Record) -> str:
    """Manifest and line of a record, for a message."""
    for file in sorted(out.glob("manifest*.jsonl")):
        for number, data in json_lines.read(file):
            if json_lines.typed(Record, data) == record:
                return f"{file}, line {number}"
    return f"{out / record.file}"


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
            _check(record)
            yield record
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{file}, line {number} is no record of a clip: {error}") from error


def _check(record: Record) -> None:
    """Raise :class:`ConfigError` for a path that leads out of the sweep's folder, and for a number out of range."""
    for name in ("setting", "name", "file", "image", "latents"):
        path = getattr(record, name) or ""
        if NO_NAME.search(path):
            raise ConfigError(f"{name} must be a name that a file can have, got {path!r}")
        outside = PurePath(path).is_absolute() or ".." in PurePath(path).parts
        if outside and name in ("setting", "file", "latents"):
            raise ConfigError(f"{name} must be a path in the sweep's folder, got {path!r}")
    for name in ("frames", "height", "width", "fps", "bytes"):
        config.whole_number(name, getattr(record, name), most=2**63 - 1)
    config.number("seconds", record.seconds, 0, 1e9)
    if record.threads is not None:
        config.whole_number("threads", record.threads, most=config.LARGEST)
