"""Outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from weights_tools.errors import OutputExistsError, VcutError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; move it to ``path`` when the block ends well.

    The yielded path has the name of ``path`` and lies in a hidden folder beside it, so that the suffix is right for
    encoders and the final move stays within one file system. Whatever ends the block early, an interrupt included,
    leaves ``path`` as it was and removes what was written.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false; checked at the start and at the end.
        VcutError: the folder is missing or not writable, the disk is full, ``path`` is a device.
    """
    path = Path(path)
    _check_target(path, overwrite)
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
        _check_target(path, overwrite)
        try:
            _move(room / path.name, path, aside=room / "replaced")
        except OSError as error:
            raise VcutError(f"cannot put the finished output at {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


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
    if os.path.lexists(path):
        path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        if os.path.lexists(aside):
            aside.rename(path)
        raise
