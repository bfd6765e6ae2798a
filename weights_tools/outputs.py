"""Outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePath

from weights_tools.errors import OutputExistsError, VcutError

Replaceable = Callable[[PurePath], bool]
"""Whether a file of this path within an existing folder may be lost when the folder is overwritten."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], overwrite: bool = False, replaceable: Replaceable | None = None
) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; move it to ``path`` when the block ends well.

    The yielded path has the name of ``path`` and lies in a hidden folder beside it, so that the suffix is right for
    encoders and the final move stays within one file system. Whatever ends the block early, an interrupt included,
    leaves ``path`` as it was and removes what was written.

    Overwriting a folder never loses what does not belong to it: a folder is not replaced by a file, nor a file by a
    folder, and a folder only if it holds nothing but ``replaceable`` files.

    Args:
        path: the file or folder to make.
        overwrite: replace what is there.
        replaceable: which files the old folder may hold, also checked at the start; by default those of the new one
            and others that differ from those only in numbers (008.png of a clip that was longer).

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false, or it is not to be replaced; checked at the
            start and at the end.
        VcutError: the folder is missing or not writable, the disk is full, ``path`` is a device.
    """
    path = Path(path)
    _check_target(path, overwrite)
    if replaceable is not None:
        check_folder(path, overwrite, replaceable)
    try:
        room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise VcutError(f"cannot write into the folder {path.parent}: {error.strerror}") from error
    try:
        try:
            yield room / path.name
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise VcutError(f"the disk is full: {path} was not written") from error
            raise
        new = room / path.name
        if new.is_dir():
            check_folder(path, overwrite, replaceable or _alike(new))
        else:
            check_file(path, overwrite)
        try:
            _move(new, path, aside=room / "replaced")
        except OSError as error:
            raise VcutError(f"cannot put the finished output at {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def remove_leftovers(folder: Path, names: Container[str]) -> None:
    """Remove what :func:`replacing` leaves in ``folder`` if it is killed while it writes one of ``names``."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        # the eight characters are tempfile's
        room = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", entry.name)
        if room and room[1] in names:
            shutil.rmtree(entry, ignore_errors=True)


def check_file(path: Path, overwrite: bool) -> None:
    """Raise now what :func:`replacing` would raise about a file at ``path``. Permissions are not looked at."""
    _check_target(path, overwrite)
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder and is not overwritten by a file")


def check_folder(path: Path, overwrite: bool, replaceable: Replaceable) -> None:
    """Raise now what :func:`replacing` would raise about a folder at ``path``."""
    _check_target(path, overwrite)
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise OutputExistsError(f"{path} is a file and is not overwritten by a folder")
    if foreign := sorted(str(file) for file in _contents(path) if not replaceable(file)):
        also = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise OutputExistsError(
            f"{path} holds what would be lost ({', '.join(foreign[:3])}{also}) and is not overwritten; choose "
            "another name"
        )


def _contents(folder: Path) -> Iterator[PurePath]:
    """Paths of all files in ``folder``, however deep. A link counts as a file, whatever it leads to."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            yield from (PurePath(entry.name) / inner for inner in _contents(entry))
        else:
            yield PurePath(entry.name)


def _alike(new: Path) -> Replaceable:
    """Test of a file: whether ``new`` has one of the same name, up to the numbers in it."""

    def pattern(file: PurePath) -> str:
        return re.sub(r"\d+", "0", str(file))

    patterns = {pattern(file) for file in _contents(new)}
    return lambda file: pattern(file) in patterns


def _check_target(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise VcutError(f"{path} is a device, not a place for a file")
    if not overwrite:
        raise OutputExistsError(f"{path} exists already; choose another name or ask to overwrite it")


def _move(new: Path, path: Path, aside: Path) -> None:
    if not os.path.lexists(new):
        raise VcutError(f"nothing was written to {path}")
    if not (new.is_dir() or path.is_dir()):
        new.replace(path)
        return
    # a folder cannot be replaced in one step: the old one steps aside, and comes back if the move fails
    try:
        if os.path.lexists(path):
            path.rename(aside)
        new.rename(path)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(path):
            aside.rename(path)
        raise
