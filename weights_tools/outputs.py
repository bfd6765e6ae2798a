"""Outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any

from weights_tools.errors import OutputExistsError, VcutError

Replaceable = Callable[[PurePath], bool]
"""Whether a file of this path within an existing folder may be lost when the folder is overwritten."""

ROOM = ".vcut-"
"""Beginning of the names of the hidden folders that outputs are written in."""

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be that large here",
}


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], overwrite: bool = False, replaceable: Replaceable | None = None
) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; move it to ``path`` when the block ends well.

    The yielded path has the name of ``path`` and lies in a hidden folder beside it, so that the suffix is right for
    encoders and the final move stays within one file system. Whatever ends the block early, an interrupt included,
    leaves ``path`` as it was and removes what was written. What a killed process left beside ``path`` is removed too.

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
        VcutError: the folder is missing, goes away or is not writable, the disk is full, ``path`` is a device or
            no name for a file.
    """
    path = Path(path)
    _check_target(path, overwrite)
    if replaceable is not None:
        check_folder(path, overwrite, replaceable)
    with _room(path.parent) as room:
        new = room / "new" / path.name
        try:
            yield new
        except OSError as error:
            if reason := _FULL.get(error.errno or 0):
                raise VcutError(f"{reason}: {path} was not written") from error
            if not room.exists():
                raise VcutError(f"{path} was not written: what lay in {path.parent} was removed") from error
            raise
        if not os.path.lexists(new):
            raise VcutError(f"nothing was written to {path}")
        if new.is_dir():
            check_folder(path, overwrite, replaceable or _alike(new))
        else:
            check_file(path, overwrite)
        try:
            _move(new, path, room / "old" / path.name, overwrite)
        except FileExistsError as error:
            raise OutputExistsError(f"{path} appeared meanwhile and is kept") from error
        except OSError as error:
            raise VcutError(f"cannot put the finished output at {path}: {error.strerror}") from error


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[Path]:
    """A hidden folder within ``folder``. It is locked while it is in use, so a leftover is one that is not."""
    # named before it is made: an interrupt leaves nothing, whenever it comes
    room, lock = _unused(folder), None
    try:
        try:
            try:
                remove_leftovers(folder)
                while (lock := _locked(room)) is None:
                    room = _unused(folder)
            except OSError as error:
                raise VcutError(f"cannot write into the folder {folder}: {error.strerror}") from error
            for name in ("new", "old"):
                (room / name).mkdir()
            yield room
        finally:
            _remove(room, lock)
    except BaseException:  # an interrupt, perhaps, while it was removed
        _remove(room, lock)
        raise


def _unused(folder: Path) -> Path:
    return folder / f"{ROOM}{secrets.token_hex(8)}"


def _locked(room: Path) -> IO[Any] | None:
    """Make and lock a room; None if another process took it for a leftover before it was locked, and removed it."""
    room.mkdir(0o700)
    with contextlib.suppress(FileNotFoundError):
        lock = (room / "lock").open("wb")
        if lock_alone(lock) is not False and (room / "lock").exists():
            return lock
        lock.close()
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed :func:`replacing` left in ``folder``, and give back an old output that it had moved."""
    with os.scandir(folder) as entries:
        rooms = [folder / entry.name for entry in entries if entry.name.startswith(ROOM)]
    for room in rooms:
        with contextlib.suppress(OSError):
            if not (room / "lock").exists():
                room.rmdir()
                continue
            with (room / "lock").open("r+b") as lock:
                if not lock_alone(lock):
                    continue
                for old in room.glob("old/*"):
                    if not os.path.lexists(folder / old.name):
                        old.rename(folder / old.name)
                _remove(room, lock)


def _remove(room: Path, lock: IO[Any] | None) -> None:
    # the lock goes last: without it, what a kill leaves here would not be known as a leftover
    for name in ("new", "old"):
        shutil.rmtree(room / name, ignore_errors=True)
    if lock:
        lock.close()
    shutil.rmtree(room, ignore_errors=True)


def lock_alone(file: IO[Any]) -> bool | None:
    """Lock an open file for this process, until it closes it or ends; False if another process holds it.

    None where there are no such locks: on Windows, and on some network file systems.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, unless it is there.

    Raises:
        VcutError: it cannot be made; a file is in its place, perhaps.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VcutError(f"the folder {path} cannot be made: {error.strerror}") from error


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


def check_name(path: Path) -> None:
    """Raise unless there can be a file of this name: neither it nor its path is too long, and it has no null.

    The folders that it lies in need not be there yet; their names are checked in the nearest one that is.
    """
    # unlike Path.is_dir, this raises nothing
    there = next(parent for parent in path.absolute().parents if os.path.isdir(parent))  # noqa: PTH112
    within = path.parent / f"{ROOM}0123456789abcdef" / "new" / path.name
    for each in (within, *(there / name for name in path.absolute().relative_to(there).parts)):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VcutError(f"{path} cannot be written: {reason}") from error


def _check_target(path: Path, overwrite: bool) -> None:
    check_name(path)
    if not path.parent.is_dir():
        raise VcutError(f"{path}: there is no folder {path.parent}")
    if not os.path.lexists(path):
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise VcutError(f"{path} is a device, not a place for a file")
    if not overwrite:
        raise OutputExistsError(f"{path} exists already; choose another name or ask to overwrite it")


def _move(new: Path, path: Path, aside: Path, overwrite: bool) -> None:
    """Put ``new`` in its place. Without ``overwrite``, FileExistsError if there is a file by now."""
    if not (new.is_dir() or path.is_dir()):
        if overwrite or not _linked(new, path):
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


def _linked(new: Path, path: Path) -> bool:
    """Link ``new`` to ``path``, which unlike a move never replaces; False where the file system has no links."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True
