"""Pictures of a sweep: one, a folder, a list file, or VBench's suite; and the names that their clips get.

VBench (github.com/Vchitect/VBench) describes its image suite in ``vbench2_i2v_full_info.json``, a list of entries
with ``prompt_en``, ``image_name`` and ``dimension``: what the entry is scored for. It finds the clips of an entry by
the prompt: ``{prompt}-0.mp4`` to ``{prompt}-4.mp4``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vcut.errors import ConfigError, MediaError
from vcut.media import files
from vcut.sweeps.jobs import folded, real, search

Suite = Literal["quality", "full"]
"""Part of VBench's image suite: all entries, or those that are scored for more than obedience to a camera."""

CAMERA = "camera_motion"
"""Dimension that tells whether the camera moves as the prompt says, which a model without prompts cannot know."""

LONGEST = 255 - len("-9999.safetensors")
"""Bytes of a picture's name, of whose files a file system takes names of 255."""


@dataclass(frozen=True)
class Picture:
    """A picture, and what its clips are called."""

    name: str
    path: Path


def pictures(given: Path, suite: Suite | None = None, folder: Path | None = None) -> tuple[Picture, ...]:
    """The pictures that ``given`` stands for, in the order in which it has them.

    Args:
        given: a picture; a folder of pictures; VBench's JSON file; or any other file: a path a line, relative to the
            file's folder, but for lines that begin with #. A picture of VBench's is named after its prompt, any other
            after its file, without suffix.
        suite: part of VBench's suite, by default ``'quality'``.
        folder: the folder of VBench's pictures, ``data/crop/16-9``.

    Raises:
        ConfigError: not such a file, two pictures of one name, or a name that no file can have.
        MediaError: there is nothing of that path, a picture that it names is not there, or there is none at all.
    """
    suffix = given.suffix.lower()
    if suffix == ".json":
        if folder is None:
            raise ConfigError(f"{given}: say where its pictures are, --pictures data/crop/16-9")
        found = [Picture(prompt, folder / image) for prompt, image in _prompts(given, suite or "quality")]
    elif suite or folder:
        raise ConfigError(f"--suite and --pictures go with VBench's JSON file, not with {given}")
    else:
        paths = search(given) if given.is_dir() else [given] if suffix in files.SUFFIXES else _listed(given)
        # one picture may be listed twice, as ./a.png too
        each: dict[Path, Path] = {}
        for path in paths:
            each.setdefault(real(path), path)
        found = [Picture(path.stem, path) for path in each.values()]
    if not found:
        raise MediaError(f"{given}: there are no pictures in it")
    if missing := [str(picture.path) for picture in found if not picture.path.is_file()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise MediaError(f"{given} names what is no file: {', '.join(missing[:3])}{more}")
    _check_names(found, given)
    return tuple(found)


def entries(file: Path) -> list[dict[str, Any]]:
    """Entries of VBench's ``vbench2_i2v_full_info.json``, each with its ``prompt_en``.

    Raises:
        ConfigError: another file.
        MediaError: the file cannot be read.
    """
    try:
        found = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise ConfigError(f"{file} is not VBench's list of prompts, but a {type(found).__name__}")
    for number, entry in enumerate(found):
        _value(entry, "prompt_en", str, f"{file}, entry {number}")
    return found


def _listed(file: Path) -> list[Path]:
    lines = (line.strip() for line in _text(file).splitlines())
    return [file.parent / line for line in lines if line and not line.startswith("#")]


def _prompts(file: Path, suite: Suite) -> list[tuple[str, str]]:
    """Each distinct prompt of VBench's suite with its picture."""
    found: dict[str, str] = {}
    for number, entry in enumerate(entries(file)):
        where = f"{file}, entry {number}"
        if suite == "quality" and set(_value(entry, "dimension", list, where)) <= {CAMERA}:
            continue
        # older files have no picture for the entries of the camera
        prompt, image = entry["prompt_en"], _value(entry, "image_name", str, where)
        if found.setdefault(prompt, image) != image:
            raise ConfigError(f"{where}: {prompt!r} has the pictures {found[prompt]} and {image}")
    return list(found.items())


def _value(entry: Any, key: str, kind: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: {key} must be a {kind.__name__}, got {value!r}")
    return value


def _check_names(found: list[Picture], given: Path) -> None:
    """Each name is a file's, and no two are one, on a file system that knows no capitals either."""
    owners: dict[str, Picture] = {}
    for picture in found:
        # of a lone surrogate half, which JSON can hold, no file can be called either
        length = len(picture.name.encode(errors="surrogatepass"))
        if set(picture.name) & set("/\0") or length > LONGEST or re.search("[\ud800-\udc7f]", picture.name):
            raise ConfigError(
                f"{given}: no clip can be called {picture.name!r}: a name has no / and at most {LONGEST} bytes"
            )
        owner = owners.setdefault(folded(picture.name), picture)
        if owner is not picture:
            raise ConfigError(f"{owner.path} and {picture.path} would give clips of one name: rename one")


def _text(file: Path) -> str:
    try:
        # Windows' editors put a mark at the start
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{file} is no folder, picture or list that can be read: {reason}") from error
