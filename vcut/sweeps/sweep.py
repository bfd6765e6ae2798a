"""Clips of a sweep: which there are, and whether a folder holds the same sweep.

A clip's seed depends on its name and its number alone, and a shard is every n-th clip of the list: the clips are the
same whatever the order, the number of processes or the machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vcut.config import SVDConfig, choose_preset
from vcut.errors import ConfigError
from vcut.settings import LARGEST_SEED, Run, Settings, resolve
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Key, Record, Sweep
from vcut.sweeps.settings_table import Setting
from vcut.sweeps.suite import Picture

COMMON = ("dtypes", "threads", "enlarge", "kernels", "packing")
"""Fields of a Sweep and of a Record that are the same for all clips of a sweep: their pixels depend on them."""


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
    settings: Sequence[Setting], pictures: Sequence[Picture], config: SVDConfig, *, clips: int, seed: int
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


def weights_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of a checkpoint: of its file, or of the hashes of its files in the order of their paths."""
    hashes = [manifest.file_sha256(file) for file in sorted(files)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def join(out: Path, asked: Sweep, records: Sequence[Record], config: SVDConfig) -> Sweep:
    """The sweep that the folder ``out`` holds together with the one that is asked for; nothing is written.

    New settings, pictures and clips are added. What would mix two experiments in ``records`` is refused.

    Raises:
        ConfigError: ``out`` holds files of no sweep; or clips of other weights, number types, packed forms or seeds,
            of another picture of the same name, or of a setting of the same name whose runs are others.
    """
    old = manifest.read_sweep(out)
    for folder in (out / name for name in asked.settings):
        if folder.exists() and not (folder.is_dir() and (old or records)):
            raise ConfigError(f"{folder} exists and is of no sweep: choose another folder")
    named = {record.name for record in records} & asked.images.keys()
    hashes = {name: _hash_if_there(Path(asked.images[name])) for name in named}
    equal: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for record in records:
        file = out / record.file
        # a picture that is gone cannot contradict its clips
        if hashes.get(record.name) not in (None, record.image_sha256):
            raise ConfigError(
                f"{asked.images[record.name]} is another picture than {file} was made of: choose "
                "another folder, or another name for the picture"
            )
        whole = _filled(record, old, file)
        seed = seed_of(record.name, record.index, asked.seed)
        _refuse_other(file, _common(whole, record.seed), _common(asked, seed))
        if setting := asked.settings.get(record.setting):
            form = {key: getattr(whole, key) for key in ("preset", "tca", "sca", "settings")}
            if form != setting and (form, setting) not in equal:
                found = _resolved(form, config, partial(manifest.line_of, out, record))
                _refuse_other(file, found, _resolved(setting, config))
                equal.append((form, setting))
    if old is None:
        return asked
    return dataclasses.replace(
        asked,
        clips=max(old.clips, asked.clips),
        packing=asked.packing or old.packing,
        settings={**old.settings, **asked.settings},
        images={**old.images, **asked.images},
    )


def find_complete(
    out: Path, tasks: Sequence[Task], records: Sequence[Record], *, latents: bool = False
) -> set[Key]:
    """The tasks whose clips are there as ``records`` have them, with their latents if those are wanted.

    Raises:
        ConfigError: a folder is where a clip belongs.
    """
    if taken := [out / task.file for task in tasks if (out / task.file).is_dir()]:
        raise ConfigError(f"{taken[0]} is a folder, and a clip belongs there: move it away")
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


def _filled(record: Record, old: Sweep | None, file: Path) -> Record:
    """A record with what those of older manifests left to ``sweep.json``."""
    if record.dtypes is not None:
        return record
    if old is None:
        raise ConfigError(
            f"{file} is of an older sweep whose {manifest.SWEEP}, which alone said its number types, is gone: put "
            "it back, or choose another folder"
        )
    form = old.settings.get(record.setting, {})
    common = {key: getattr(old, key) for key in COMMON}
    return dataclasses.replace(record, tca=form.get("tca"), sca=form.get("sca"), **common)


def _common(of: Sweep | Record, seed: int) -> dict[str, Any]:
    """Values that are the same for all clips of a sweep, but the seed. A GPU says nothing of packing."""
    said = {key: value for key in COMMON if (value := getattr(of, key)) is not None}
    return {"weights": of.weights_sha256[:12], "seed": seed, **said}


def _resolved(
    setting: Mapping[str, Any], config: SVDConfig, where: Callable[[], str] = str
) -> dict[str, Any]:
    """Values of a setting, a ``Setting.to_dict()``, with those that the model and the preset decide filled in."""
    try:
        preset = choose_preset(setting["preset"].removesuffix("*"), setting["tca"], setting["sca"])
        run = resolve(Settings.from_dict(setting["settings"]), config, preset)
    except (ConfigError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where()}: damaged settings: {error}") from error
    decided = ("frames", "height", "width", "fps", "motion_bucket", "cut")
    settings = run.settings.replace(
        **{name: getattr(run, name) for name in decided},
        decode_chunk=min(run.settings.decode_chunk or run.frames, run.frames),
        # two passes one after the other make the same clip
        sequential=False,
    )
    return {"preset": preset.name, "tca": preset.tca, "sca": preset.sca, **vars(settings)}


def _refuse_other(where: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise for the first value that ``found`` and ``wanted`` both have, and that is not the same."""
    for key in found:
        if key in wanted and found[key] != wanted[key]:
            raise ConfigError(
                f"{where} is of another sweep: its {key} is {found[key]!r}, asked for is {wanted[key]!r}; choose "
                "another folder, or another name for what is new"
            )
