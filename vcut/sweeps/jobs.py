"""Which clips ``vcut generate`` is to make, from which pictures, and where they go.

Without a ``-o`` that names one file or one folder of frames, a clip is named after its picture. A name that two
pictures of a folder would share keeps the suffix of each picture: ``a.jpg.mp4`` and ``a.png.mp4``.
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vcut.errors import ConfigError, MediaError


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    picture: Path
    output: str  # ends in a slash, or has no suffix, if it is a folder of frames
    seed: int
    found: bool  # in a folder, not named: a fault of the picture stops only its own clips


@dataclass(frozen=True)
class Clips:
    """All that a command line asks for."""

    jobs: tuple[Job, ...]
    existing: tuple[Job, ...]  # made before, and skipped
    seed: int  # the first


def plan_clips(args: argparse.Namespace) -> Clips:
    """The clips that ``args`` ask for.

    Raises:
        ConfigError: two clips would get one name, or a picture would be replaced.
        MediaError: a folder holds no pictures.
    """
    named = dict.fromkeys(path for path in args.pictures if not path.is_dir())
    folders = [path for path in args.pictures if path.is_dir()]
    found = dict.fromkeys(
        picture for folder in folders for picture in _search(folder) if picture not in named
    )
    many = bool(folders) or len(named) * args.clips > 1
    if args.sheet and many:
        raise ConfigError("--sheet goes with one clip, of one picture")
    found = dict.fromkeys(_without_clips(args, found, [*named, *found]))
    pictures = [*named, *found]
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    outputs = _outputs(args, pictures, many, found)
    _protect(pictures, [output for each in outputs.values() for output in each], args.sheet)
    jobs = [
        Job(picture, output, seed + clip, picture in found)
        for picture in pictures
        for clip, output in enumerate(outputs[picture])
    ]
    existing = {job: None for job in jobs if many and not args.overwrite and os.path.lexists(job.output)}
    return Clips(tuple(job for job in jobs if job not in existing), tuple(existing), seed)


def _search(folder: Path) -> list[Path]:
    """The pictures of a folder, by their suffixes."""
    from vcut.media import images

    found = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in images.SUFFIXES and file.is_file()
    )
    if not found:
        raise MediaError(f"{folder}: there are no pictures in this folder ({' '.join(images.SUFFIXES)})")
    return found


def _without_clips(args: argparse.Namespace, found: Iterable[Path], pictures: Iterable[Path]) -> list[Path]:
    """Leave out what earlier runs put beside the pictures: animations named as a clip of another picture."""
    from vcut.media import images

    moving = {picture for picture in found if images.is_animated(picture)}
    clips = {
        _place(args, picture, name, clip)
        for picture in pictures
        if picture not in moving
        for name in (picture.stem, picture.name)
        for clip in range(args.clips)
    }
    return [picture for picture in found if not (picture in moving and picture.with_suffix("") in clips)]


def _outputs(
    args: argparse.Namespace, pictures: Collection[Path], many: bool, found: Collection[Path]
) -> dict[Path, list[str]]:
    """Where the clips of each picture go."""
    keep: set[Path] = set()  # whose names keep their suffix
    while True:
        outputs = {picture: _of_picture(args, picture, many, picture in keep) for picture in pictures}
        owners: dict[str, list[Path]] = defaultdict(list)
        for picture, names in outputs.items():
            for name in names:
                owners[name].append(picture)
        shared = {name: each for name, each in owners.items() if len(each) > 1}
        own = [
            [picture] for picture, names in outputs.items() if any(Path(name) in outputs for name in names)
        ]
        clashing = {picture for each in [*shared.values(), *own] for picture in each if picture in found}
        if clashing <= keep:
            break
        keep |= clashing
    for name, (one, another, *_) in shared.items():
        raise ConfigError(f"{one} and {another} would both become {name}: rename one")
    return outputs


def _of_picture(args: argparse.Namespace, picture: Path, many: bool, keep: bool) -> list[str]:
    """Where the clips of one picture go; :mod:`vcut.media` takes a ``/`` at the end for a folder of frames."""
    out: str | None = args.output
    if out is not None and not out.endswith("/") and Path(out).name not in ("", ".."):
        if Path(out).suffix and not Path(out).is_dir():
            if many:
                raise ConfigError(f"--output {out} is one file for several clips: give a folder ({out}/)")
            if args.format and Path(out).suffix.lower() != f".{args.format}":
                raise ConfigError(f"--output {out} and --format {args.format} contradict each other")
            return [out]
        if not (Path(out).suffix or many or args.format):
            return [out]
    name = picture.name if keep else picture.stem
    end = "/" if args.format == "png" else f".{args.format or 'mp4'}"
    return [f"{_place(args, picture, name, clip)}{end}" for clip in range(args.clips)]


def _place(args: argparse.Namespace, picture: Path, name: str, clip: int) -> Path:
    """The path of a clip named after its picture, without suffix."""
    folder = picture.parent if args.output is None else Path(args.output)
    return folder / (f"{name}-{clip}" if args.clips > 1 else name)


def _protect(pictures: Iterable[Path], outputs: Iterable[str], sheet: Path | None) -> None:
    """Raise if a picture, or a folder that it lies in, would be replaced, by whatever name it is called."""
    precious: dict[Hashable, Path] = {}
    folders: set[Path] = set()
    for picture in pictures:
        real = Path(os.path.realpath(picture))
        precious.update(dict.fromkeys(_identities(picture), picture))
        for folder in real.parents:
            if folder in folders:
                break
            folders.add(folder)
            for key in _identities(folder):
                precious.setdefault(key, picture)
    for output in outputs:
        for key in _identities(output):
            if key in precious:
                raise ConfigError(
                    f"the clip {output} would replace the picture {precious[key]}: "
                    "choose another --output or --format"
                )
        if sheet is not None:
            for key in _identities(sheet):
                if key in precious:
                    raise ConfigError(
                        f"--sheet {sheet} would replace the picture {precious[key]}: choose another"
                    )
                if key in _identities(output):
                    raise ConfigError(f"--sheet {sheet} and the clip {output} are one file: choose another")


def _identities(path: str | Path) -> list[Hashable]:
    """What is equal for two names of one file: its resolved path and, if it exists, its device and number."""
    real = os.path.realpath(path)
    try:
        status = Path(real).stat()
    except OSError:
        return [real]
    return [real, (status.st_dev, status.st_ino)]
