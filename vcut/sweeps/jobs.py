"""Jobs: the clips to make, their pictures, and where they go.

Without an output that names one file or one folder of frames, a clip is named after its picture: ``a.mp4`` of
``a.jpg``, or ``a-0.mp4``, ``a-1.mp4`` if each picture gives several. Pictures that would share a name keep their
suffixes: ``a.jpg.mp4`` and ``a.png.mp4``. Names that differ in capitals alone are one on some disks, and so here.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vcut import media
from vcut.errors import ConfigError, MediaError, OutputExistsError, VcutError
from vcut.media import files
from vcut.settings import LARGEST_SEED, Run
from weights_tools.outputs import check_name, remove_leftovers


@dataclass(frozen=True)
class Outputs:
    """Places of the clips, and how they are written."""

    # a file, a folder for one clip's frames, or, with a / at its end, a folder for clips; None: beside the pictures
    path: str | None = None
    # of clips named after their pictures: mp4, gif, webp, or png for folders of frames; None: mp4
    format: str | None = None
    # where all frames of the one clip are written as one picture too
    sheet: Path | None = None
    overwrite: bool = False
    # times that every pixel is written along each side
    enlarge: int = 1

    @property
    def file(self) -> str | None:
        """The one file that is asked for, if ``path`` names a file."""
        path = self._name
        return path if path and Path(path).suffix and not is_folder(path) else None

    @property
    def frames(self) -> str | None:
        """The one folder of frames that is asked for, if ``path`` may be one: no suffix, and no format beside it."""
        path = self._name
        return path if path and not Path(path).suffix and not self.format else None

    @property
    def _name(self) -> str | None:
        """``path``, unless it says that it is a folder for clips."""
        folder = self.path is None or self.path.endswith("/") or Path(self.path).name in ("", "..")
        return None if folder else self.path

    @property
    def end(self) -> str:
        """End of the path of a clip that is named after its picture."""
        return "/" if self.format == "png" else f".{self.format or 'mp4'}"


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    picture: Path
    # ends in a slash, or has no suffix, if it is a folder of frames
    output: str
    seed: int
    # given by its own name, not found in a folder: a fault of it stops everything before the first clip
    named: bool = True
    # why there can be no such clip, of a picture that was found in a folder
    fault: str | None = None


@dataclass(frozen=True)
class Work:
    """All clips that are asked for."""

    jobs: tuple[Job, ...]
    # clips that were made before, and are skipped
    existing: tuple[Job, ...] = ()
    # pictures of the folders that are of formats which are not taken
    passed: tuple[Path, ...] = ()
    # whether a clip that exists is left as it is, and no fault
    skipping: bool = False


def find_work(pictures: Sequence[Path], outputs: Outputs, *, seed: int, clips: int = 1) -> Work:
    """The clips of pictures and of folders of pictures; clip i of a picture has ``seed + i``.

    Of several clips those that exist are skipped, unless they are to be overwritten. A picture counts once, however
    often it is named and by whatever path.

    Raises:
        ConfigError: two clips would get one name, a picture would be replaced, or a seed is too large.
        MediaError: a folder holds no pictures.
    """
    if seed + clips - 1 > LARGEST_SEED:
        raise ConfigError(f"the seeds {seed} to {seed + clips - 1} of {clips} clips must be below 2^63")
    every = _every_picture(pictures, outputs)
    many = len(every) * clips > 1 or not all(every.values())
    one = _only_output(outputs, many)
    names = {picture: [one] for picture in every} if one else _names(list(every), outputs, clips)
    jobs = [
        Job(picture, name, seed + clip, named, _fault(name, named))
        for picture, named in every.items()
        for clip, name in enumerate(names[picture])
    ]
    _check_names(jobs, outputs)
    skipping = many and not outputs.overwrite
    existing = dict.fromkeys(job for job in jobs if skipping and os.path.lexists(job.output))
    passed = [other for folder in pictures if is_folder(folder) for other in files.in_folder(folder)[1]]
    return Work(tuple(job for job in jobs if job not in existing), tuple(existing), tuple(passed), skipping)


def _fault(output: str, named: bool) -> str | None:
    """The reason why no file can have this name, if there is one. Of a named picture, that is an error."""
    try:
        check_name(Path(output))
    except VcutError as error:
        if named:
            raise
        return str(error)
    return None


def check_outputs(work: Work, outputs: Outputs, run: Run) -> None:
    """Raise now whatever would keep a finished clip from being written. What a killed run left there is removed.

    Raises:
        MediaError: a format that cannot hold the clips, or a place that cannot be written.
        OutputExistsError: something is there already.
    """
    for folder in {Path(job.output).parent for job in (*work.jobs, *work.existing)}:
        with contextlib.suppress(OSError):
            remove_leftovers(folder)
    for job in work.jobs:
        if job.fault:
            continue
        media.check_format(job.output, run.fps)
        media.check_size(job.output, run.frames, run.height * outputs.enlarge, run.width * outputs.enlarge)
        folder = Path(job.output).parent
        if os.path.lexists(folder) or outputs.path == job.output:
            _check_place(job.output, outputs)
            continue
        # the folder will be made
        root = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
        if not (root.is_dir() and os.access(root, os.W_OK)):
            raise MediaError(f"{folder} cannot be made: {root} is not a writable folder")
    if outputs.sheet:
        check_name(outputs.sheet)
        media.check_sheet(outputs.sheet, overwrite=outputs.overwrite)


def _check_place(output: str, outputs: Outputs) -> None:
    try:
        media.check_place(output, overwrite=outputs.overwrite)
    except OutputExistsError as error:
        if outputs.path == output and is_folder(output):
            raise OutputExistsError(f"{error}; {output}/ puts the clip into it") from error
        raise


def _every_picture(given: Sequence[Path], outputs: Outputs) -> dict[Path, bool]:
    """All pictures, each once, and whether it was given by its own name."""
    folders = [path for path in given if is_folder(path)]
    _check_folders(folders, outputs)
    found = [(picture, False) for folder in folders for picture in search(folder)]
    every: dict[Path, tuple[Path, bool]] = {}
    for picture, named in [(path, True) for path in given if path not in folders] + found:
        every.setdefault(real(picture), (picture, named))
    return dict(every.values())


def real(path: Path) -> Path:
    """The path without links on the way to it. It may be a link itself: that is another name, for another clip."""
    return Path(os.path.realpath(path.parent), path.name)


def _check_folders(folders: Sequence[Path], outputs: Outputs) -> None:
    """Clips of a folder go elsewhere: a later run would take those beside the pictures for pictures."""
    for folder in folders:
        if outputs.path is None:
            raise ConfigError(f"{folder} is a folder of pictures: say where the clips go, --output clips/")
        if identity(outputs.path) == identity(folder):
            raise ConfigError(f"--output {outputs.path} is the folder of the pictures: choose another")


def search(folder: Path) -> list[Path]:
    """The pictures of a folder, by their suffixes."""
    found, others = files.in_folder(folder)
    if not found:
        but = f" but {others[0].name}, which is of a format that is not taken" if others else ""
        raise MediaError(f"{folder}: there are no pictures in this folder{but} ({' '.join(files.SUFFIXES)})")
    return found


def _only_output(outputs: Outputs, many: bool) -> str | None:
    """The one file or folder of frames that is asked for, if one is; it cannot be for ``many`` clips."""
    if outputs.sheet and many:
        raise ConfigError("--sheet goes with one clip, of one picture")
    file = outputs.file
    if file and many:
        raise ConfigError(f"--output {file} is one file for several clips: give a folder ({file}/)")
    if file and outputs.format and Path(file).suffix.lower() != f".{outputs.format}":
        raise ConfigError(f"--output {file} and --format {outputs.format} contradict each other")
    return None if many else file or outputs.frames


def _names(pictures: Sequence[Path], outputs: Outputs, clips: int) -> dict[Path, list[str]]:
    """Paths of the clips of each picture; :mod:`vcut.media` takes a ``/`` at the end for a folder of frames."""
    without_suffix = [_place(picture, picture.stem, outputs) for picture in pictures]
    with_suffix = [_place(picture, picture.name, outputs) for picture in pictures]
    # a name that is one picture's stem and another's whole name would clash too
    taken = Counter(map(_key, without_suffix)) + Counter(set(map(_key, with_suffix)))
    numbers = [f"-{clip}" for clip in range(clips)] if clips > 1 else [""]
    return {
        picture: [f"{short if taken[_key(short)] == 1 else whole}{number}{outputs.end}" for number in numbers]
        for picture, short, whole in zip(pictures, without_suffix, with_suffix, strict=True)
    }


def _place(picture: Path, name: str, outputs: Outputs) -> Path:
    return (picture.parent if outputs.path is None else Path(outputs.path)) / name


def _key(path: Path) -> str:
    return folded(str(real(path)))


def folded(name: str) -> str:
    """Text that is equal for names of one file, also where a disk ignores capitals or how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_names(jobs: Sequence[Job], outputs: Outputs) -> None:
    """Every output has one owner, and none is a picture, nor a folder that a picture lies in."""
    owners: dict[Path, Path] = {}
    inputs: dict[tuple[int, int] | None, Path] = {}
    for job in jobs:
        output = Path(job.output)
        if (owner := owners.setdefault(real(output), job.picture)) != job.picture:
            raise ConfigError(f"{owner} and {job.picture} would both become {output}: rename one")
        for path in (job.picture, *Path(os.path.realpath(job.picture)).parents):
            if (file := identity(path)) is not None:
                inputs[file] = job.picture
    targets: list[str | Path] = [*(job.output for job in jobs), *([outputs.sheet] if outputs.sheet else [])]
    for target in targets:
        if (file := identity(target)) in inputs:
            raise ConfigError(
                f"{target} would replace the picture {inputs[file]}: choose another place or format"
            )


def identity(path: str | Path) -> tuple[int, int] | None:
    """The file that a path leads to, whatever its name and through whatever links; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # pathlib raises more
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of this name; False too for what no file can be called."""
    return os.path.isdir(path)  # noqa: PTH112  # pathlib raises for such a name
