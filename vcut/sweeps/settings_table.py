"""Settings that a sweep compares, by name: tables of a TOML file, or presets and cuts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vcut import media
from vcut.config import Preset, SVDConfig, choose_preset
from vcut.errors import ConfigError, MediaError
from vcut.settings import Run, Settings, resolve
from vcut.sweeps.jobs import folded

Cut = int | Literal["preset"] | None

RESERVED = ("scores", "vbench", ".json", ".jsonl", ".csv", ".md", ".html")
"""Folders of a sweep that hold no clips, and suffixes of its files: no setting can be called so."""

NAME = re.compile(r"\w[\w .,+=()-]{0,59}")
"""Name of a setting."""

OF_THE_SWEEP = ("seed", "clips")
"""Settings that are the same for all: what is compared has the same seeds."""


@dataclass(frozen=True)
class Setting:
    """One of the things that a sweep does to every picture, and the name of the folder for its clips."""

    name: str
    preset: Preset
    settings: Settings

    def resolve(self, config: SVDConfig) -> Run:
        """The run of this setting with one model; a :class:`ConfigError` names the setting."""
        try:
            run = resolve(self.settings, config, self.preset)
            media.check_format(f"{self.name}/*.mp4", run.fps)
            return run
        except (ConfigError, MediaError) as error:
            raise ConfigError(f"setting {self.name}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The setting as plain JSON values."""
        preset = self.preset
        form = {"preset": preset.name, "tca": preset.tca, "sca": preset.sca}
        return {**form, "settings": self.settings.to_dict()}


Common = Callable[[Preset, Any], Mapping[str, Any]]
"""``common(preset, defaults)``: what is asked of the whole sweep, by a setting's preset and its ``defaults``."""


def from_toml(path: Path, common: Common) -> tuple[Setting, ...]:
    """Settings of a TOML file, a table each: ``[c17]``, ``preset = "vcut"``, ``cut = 17``.

    A table has the names of :class:`vcut.settings.Settings`, and ``preset``, ``tca``, ``sca`` and ``defaults``. What
    it does not say is as ``common`` has it.

    Raises:
        ConfigError: no TOML, or a table that makes no setting; the message names file, table and key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    loose = [name for name, table in tables.items() if not isinstance(table, dict)]
    if loose or not tables:
        fault = f"{loose[0]} stands outside of a table" if loose else "there is no table in it"
        raise ConfigError(
            f"{path}: {fault}; each setting is a table, [c17], with preset, cut and others in it"
        )
    made = []
    for name, table in tables.items():
        try:
            made.append(_setting(name, table, common))
        except ConfigError as error:
            raise ConfigError(f"{path}, table [{name}]: {error}") from error
    if len({folded(setting.name) for setting in made}) < len(made):
        raise ConfigError(
            f"{path} has two tables whose names differ in capitals alone: not every file system does"
        )
    return tuple(made)


def from_presets(presets: Sequence[str], cuts: Sequence[Cut], common: Common) -> tuple[Setting, ...]:
    """A setting of each preset, of ``vcut``, which has a cut, one for each of ``cuts`` if there are any.

    They are called ``baseline``, ``lossless``, ``vcut``, and with a cut ``vcut-c10`` or ``vcut-none``.

    Raises:
        ConfigError: no such preset, a cut out of range, or cuts without a preset to go with.
    """
    chosen = [choose_preset(name) for name in dict.fromkeys(presets)]
    if cuts and not any(preset.guided_fraction < 1 for preset in chosen):
        raise ConfigError(
            "--cut goes with --preset vcut; a cut of another form can be asked for with --settings"
        )
    made = []
    for preset in chosen:
        own: Sequence[Cut] = ("preset",) if preset.guided_fraction == 1 or not cuts else cuts
        for cut in dict.fromkeys(own):
            end = "" if cut == "preset" else "-none" if cut is None else f"-c{cut}"
            made.append(_setting(preset.name + end, {"preset": preset.name, "cut": cut}, common))
    return tuple(made)


def _setting(name: str, table: Mapping[str, Any], common: Common) -> Setting:
    reserved = {folded(name), Path(folded(name)).suffix} & set(RESERVED)
    if reserved or not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a setting, which is a folder's: it has letters, digits, spaces and "
            f"_-.,+=() in it, at most 60, begins with one of the first two, and is none of {', '.join(RESERVED)}"
        )
    if fixed := [key for key in OF_THE_SWEEP if key in table]:
        raise ConfigError(f"{fixed[0]} is the same for all settings of a sweep: --{fixed[0]}")
    own = dict(table)
    named, tca, sca, start = (
        own.pop("preset", "vcut"),
        *(own.pop(key, None) for key in ("tca", "sca", "defaults")),
    )
    if not isinstance(named, str):
        raise ConfigError(f"preset must be a name, got {named!r}")
    preset = choose_preset(named, tca, sca)
    return Setting(name, preset, Settings.from_dict({**common(preset, start), **own}))
