"""A sweep as a value: what it is, which clips it has, and whether a folder holds the same one.

A clip's seed depends on its name and its number alone, and a shard is every n-th clip of the list: the clips are the
same whatever the order, the number of processes or the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcut.config import SVDConfig
from vcut.errors import ConfigError, VcutError
from vcut.settings import LARGEST_SEED, Run
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record
from vcut.sweeps.settings_table import Setting
from vcut.sweeps.suite import Picture
from weights_tools.outputs import replacing

Key = tuple[str, str, int]
"""Name of the setting, name of the picture, number of the clip."""


@dataclass(frozen=True)
class Sweep:
    """Description of a sweep, as ``sweep.json`` has it."""

    # name of the model, as it was given
    model: str
    weights_sha256: str
    # number types of the networks: unet, vae, decoder
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


@dataclass(frozen=True)
class Task:
    """One clip to make. The run's own seed does not matter."""

    setting: str
    name: str
    index: int
    image: Path
    seed: int
    run: Run

    @property
    def key(self) -> Key:
        """The clip that is to be made."""
        return self.setting, self.name, self.index

    @property
    def form(self) -> tuple[object, object]:
        """Modes of the cross-attentions: tasks of one form are for one loaded model."""
        return self.run.preset.tca, self.run.preset.sca

    @property
    def file(self) -> str:
        """The clip's file, relative to the sweep's folder."""
        return f"{self.setting}/{self.name}-{self.index}.mp4"

    @property
    def latents(self) -> str:
        """The file of its latents, if they are kept."""
        return f"{self.setting}/latents/{self.name}-{self.index}.safetensors"


def seed_of(name: str, index: int, base: int = 0) -> int:
    """Seed of clip ``index`` of the picture ``name``, from 0 to 2^63 - 1; another ``base`` gives other seeds."""
    digest = hashlib.sha256(f"{base}\0{index}\0{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) & LARGEST_SEED


def all_tasks(
    settings: Sequence[Setting],
    pictures: Sequence[Picture],
    config: SVDConfig,
    *,
    clips: int,
    seed: int,
) -> Iterator[Task]:
    """Every clip of a sweep: by setting, then picture, then number. Settings of one form follow each other.

    Raises:
        ConfigError: at the first task, a setting that does not fit the model.
    """
    runs = [(setting.name, setting.resolve(config)) for setting in settings]
    forms = list(dict.fromkeys((run.preset.tca, run.preset.sca) for _, run in runs))
    runs.sort(key=lambda named: forms.index((named[1].preset.tca, named[1].preset.sca)))
    for (name, run), picture, index in itertools.product(runs, pictures, range(clips)):
        yield Task(name, picture.name, index, picture.path, seed_of(picture.name, index, seed), run)


def shard_of(tasks: Iterable[Task], shard: int, shards: int) -> list[Task]:
    """Every ``shards``-th task, from number ``shard`` on: each task is in one shard, each setting spread over all."""
    return list(itertools.islice(tasks, shard, None, shards))


def weights_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of a checkpoint: of its file, or of the hashes of its files in the order of their paths."""
    hashes = [manifest.file_sha256(file) for file in sorted(files)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def join(out: Path, sweep: Sweep, records: Sequence[Record]) -> Sweep:
    """The sweep that the folder ``out`` holds together with ``sweep``; nothing is written.

    New settings, pictures and clips are added. What would mix two experiments in ``records`` is refused.

    Raises:
        ConfigError: ``out`` holds files of no sweep; or clips of other weights, number types or seeds, of another
            picture of the same name, or of a setting of the same name with other values.
    """
    foreign = [name for name in sweep.settings if (out / name).exists()]
    old = read(out)
    if foreign and not (old or records):
        raise ConfigError(f"{out / foreign[0]} exists and is of no sweep: choose another folder")
    named = {record.name for record in records} & sweep.images.keys()
    hashes = {name: _hash_if_there(Path(sweep.images[name])) for name in named}
    for record in records:
        _check(record, sweep, hashes.get(record.name), out)
    if old is None:
        return sweep
    if records:
        for key in ("dtypes", "threads", "enlarge"):
            _refuse(out, {key: getattr(old, key)}, {key: getattr(sweep, key)})
    return dataclasses.replace(
        sweep,
        clips=max(old.clips, sweep.clips),
        settings={**old.settings, **sweep.settings},
        images={**old.images, **sweep.images},
    )


def write(out: Path, sweep: Sweep) -> None:
    """Make ``out`` the folder of ``sweep``, as :func:`join` returns it.

    Raises:
        VcutError: the folder cannot be written.
    """
    file = out / manifest.SWEEP
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VcutError(f"the folder {out} cannot be made: {error.strerror}") from error
    with replacing(file, overwrite=True) as target:
        target.write_text(json.dumps(dataclasses.asdict(sweep), indent=1) + "\n")


def read(out: Path) -> Sweep | None:
    """The sweep of a folder, or None if it holds none.

    Raises:
        ConfigError: its ``sweep.json`` is not one.
    """
    data = manifest.describe(out)
    try:
        return None if data is None else Sweep(**data)
    except TypeError as error:
        raise ConfigError(f"{out / manifest.SWEEP} is not what a sweep writes: {error}") from error


def find_complete(
    out: Path, tasks: Sequence[Task], records: Sequence[Record], *, latents: bool = False
) -> set[Key]:
    """The tasks whose clips are there as ``records`` have them, with their latents if those are wanted."""
    wanted = {task.key for task in tasks}
    return {
        record.key
        for record in records
        if record.key in wanted and (record.latents or not latents) and manifest.is_complete(out, record)
    }


def _hash_if_there(file: Path) -> str | None:
    try:
        return manifest.file_sha256(file)
    except OSError:
        return None


def _check(record: Record, sweep: Sweep, image_sha256: str | None, out: Path) -> None:
    """Raise unless a clip may stand beside those of ``sweep``."""
    expected: dict[str, Any] = {
        "weights_sha256": sweep.weights_sha256,
        "seed": seed_of(record.name, record.index, sweep.seed),
        # a picture that is gone cannot contradict its clips
        "image_sha256": image_sha256 or record.image_sha256,
    }
    if setting := sweep.settings.get(record.setting):
        expected |= {key: setting[key] for key in ("preset", "settings")}
    found = {key: getattr(record, key) for key in expected}
    for each in (found, expected):
        each.update(each.pop("settings", {}))
    _refuse(out / record.file, found, expected)


def _refuse(where: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key in dict.fromkeys((*found, *expected)):
        old, new = (repr(data[key]) if key in data else "its default" for data in (found, expected))
        if old != new:
            raise ConfigError(
                f"{where} is of another sweep: its {key} is {old}, asked for is {new}; choose another folder, or "
                "another name for what is new"
            )
