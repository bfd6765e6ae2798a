"""Settings that a sweep compares, by name: tables of a TOML file, or presets and cuts."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vcut import media
from vcut.config import Preset, SVDConfig, choose_preset
from vcut.errors import ConfigError, MediaError
from vcut.settings import NAMES, Run, Settings, check_names, resolve
from vcut.sweeps.jobs import folded

Cut = int | Literal["preset"] | None

RESERVED = ("scores", "vbench", ".json", ".jsonl", ".csv", ".md", ".html")
"""Folders of a sweep that hold no clips, and suffixes of its files: no setting can be called so."""

NAME = re.compile(r"\w[\w .,+=()-]{0,59}")
"""Name of a setting."""

OF_THE_SWEEP = ("seed", "clips")
"""Settings that are the same for all: what is compared has the same seeds."""

KEYS = (*(name for name in NAMES if name not in OF_THE_SWEEP), "preset", "tca", "sca", "defaults")
"""Keys of a table."""

MODES = {"true": True, "false": False, "linear_cached": "linear_cached"}
"""Modes of a cross-attention by the words of ``--tca`` and ``--sca``."""

WORDS: dict[str, dict[str, Any]] = {
    "tca": MODES,
    "sca": MODES,
    "cut": {"none": None, "preset": "preset"},
    "embedding": {"all": None, "none": ()},
}
"""Words of the command's options, and what :class:`vcut.settings.Settings` has for them."""

FORMS = {
    "tca": 'true, "linear_cached" or false',
    "sca": 'true, "linear_cached" or false',
    "cut": 'a step counted from 1, "none" or "preset"',
    "embedding": '"all", "none", steps such as "1-10" or a list such as [1, 2, 3]',
    "guidance": '2.0, [1.0, 3.0] or {shape = "triangle", minimum = 1.0, maximum = 3.0}',
    "after": '["mean", "cond"] or {context = "mean", latents = "cond"}',
    "churn": '"none" or a table such as {s_churn = 5.0}',
    "sequential": "true or false",
}
"""Values as TOML writes them, of the keys whose values Python writes in another way."""


@dataclass(frozen=True)
class Setting:
    """One of the things that a sweep does to every picture, and the name of the folder for its clips.

    ``source`` is its file and table, by which a fault names it.
    """

    name: str
    preset: Preset
    settings: Settings
    source: str = ""

    def resolve(self, config: SVDConfig) -> Run:
        """The run of this setting with one model; a :class:`ConfigError` names the setting."""
        try:
            run = resolve(self.settings, config, self.preset)
            media.check_format(f"{self.name}/*.mp4", run.fps)
            return run
        except (ConfigError, MediaError) as error:
            raise ConfigError(f"{self.source or f'setting {self.name}'}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The setting as plain JSON values."""
        preset = self.preset
        form = {"preset": preset.name, "tca": preset.tca, "sca": preset.sca}
        return {**form, "settings": self.settings.to_dict()}


Common = Callable[[Preset, Any], Mapping[str, Any]]
"""``common(preset, defaults)``: what is asked of the whole sweep, by a setting's preset and its ``defaults``."""


def from_toml(path: Path, common: Common) -> tuple[Setting, ...]:
    """Settings of a TOML file, a table each: ``[c17]``, ``preset = "vcut"``, ``cut = 17``.

    A table has the names of :class:`vcut.settings.Settings`, and ``preset``, ``tca``, ``sca`` and ``defaults``. The
    words of the command's options (:data:`WORDS`) mean what they mean there. What a table does not say is as
    ``common`` has it.

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
        if loose and isinstance(value := tables[loose[0]], list) and any(isinstance(v, dict) for v in value):
            fault = f"[[{loose[0]}]] is an array of tables"
        raise ConfigError(
            f"{path}: {fault}; each setting is a table, [c17], with preset, cut and others in it"
        )
    made = []
    for name, table in tables.items():
        source = f"{path}, table [{name}]"
        try:
            made.append(_setting(name, _read(table), common, source))
        except ConfigError as error:
            raise ConfigError(f"{source}: {_as_toml(str(error), table)}") from error
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


def _read(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table as :class:`vcut.settings.Settings` takes it: known keys, and the command's words translated."""
    if fixed := [key for key in OF_THE_SWEEP if key in table]:
        raise ConfigError(f"{fixed[0]} is the same for all settings of a sweep: --{fixed[0]}")
    if "size" in table:
        raise ConfigError("there is no setting 'size' in a table: give height and width")
    check_names(table, KEYS)
    return {key: _value(key, value) for key, value in table.items()}


def _value(key: str, value: Any) -> Any:
    if not isinstance(value, str) or key not in WORDS:
        return value
    ends = re.fullmatch(r"([1-9]\d{0,8})-(\d{1,9})", value) if key == "embedding" else None
    if ends and int(ends[1]) <= int(ends[2]):
        return range(int(ends[1]), int(ends[2]) + 1)
    if value not in WORDS[key]:
        raise ConfigError(f"{key} must be {FORMS[key]}, got {value!r}")
    return WORDS[key][value]


def _as_toml(fault: str, table: Mapping[str, Any]) -> str:
    """The sentence of a fault, with what is expected and what was found as TOML writes them."""
    for key, value in table.items():
        found = f"{value}" if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)
        # a number out of range is told by its bounds
        if key in FORMS and fault.startswith(f"{key} must be ") and "whole number" not in fault:
            return f"{key} must be {FORMS[key]}, got {found}"
        fault = fault.replace(f"got {None if value == 'none' else value!r}", f"got {found}")
    return fault


def _setting(name: str, table: Mapping[str, Any], common: Common, source: str = "") -> Setting:
    reserved = {folded(name), Path(folded(name)).suffix} & set(RESERVED)
    if reserved or not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a setting, which is a folder's: it has letters, digits, spaces and "
            f"_-.,+=() in it, at most 60, begins with one of the first two, and is none of {', '.join(RESERVED)}"
        )
    own = dict(table)
    named, tca, sca, start = (
        own.pop("preset", "vcut"),
        *(own.pop(key, None) for key in ("tca", "sca", "defaults")),
    )
    if not isinstance(named, str):
        raise ConfigError(f"preset must be a name, got {named!r}")
    preset = choose_preset(named, tca, sca)
    shared = dict(common(preset, start))
    if not isinstance(own.get("sigmas", ""), str):
        # they are as many as the table's own steps
        shared.pop("steps", None)
    return Setting(name, preset, Settings.from_dict({**shared, **own}), source)
