"""An output takes its place when it is complete; whatever stops it leaves the place as it was and nothing behind."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pytest

from weights_tools import outputs
from weights_tools.errors import OutputExistsError, VcutError
from weights_tools.outputs import Replaceable, check_name, lock_alone, remove_leftovers, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert temporary.name == "clip.mp4"
        assert not target.exists()
    assert target.read_text() == "half"
    assert names(tmp_path) == ["clip.mp4"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "unet" / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "unet" / "config.json").read_text() == "{}"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("existing", [True, False])
def test_whatever_stops_it_leaves_nothing_behind(
    tmp_path: Path, stop: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "out.bin"
    if existing:
        target.write_text("old")

    def write_half() -> None:
        with replacing(target, overwrite=existing) as temporary:
            temporary.write_text("half")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert names(tmp_path) == (["out.bin"] if existing else [])
    assert not existing or target.read_text() == "old"


def interrupted(target: Path, folder: bool, line: int) -> str:
    """The function in which the writing of ``target`` is interrupted at its given line; "" if it has fewer lines."""
    lines, where = 0, ""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines, where
        if frame.f_code.co_filename not in (outputs.__file__, shutil.__file__, contextlib.__file__):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                where = frame.f_code.co_name
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with replacing(target, overwrite=True) as new:
            new.mkdir() if folder else new.write_text("new")
            if folder:
                (new / "0.png").write_text("new")
    except (KeyboardInterrupt, OSError):  # shutil may close a file again that it has just closed
        pass
    finally:
        sys.settrace(before)
    return where


@pytest.mark.parametrize("folder", [True, False])
def test_an_interrupt_at_any_line_leaves_the_old_or_the_new_and_nothing_else(
    tmp_path: Path, folder: bool
) -> None:
    target, found = tmp_path / "out", set()
    content = target / "0.png" if folder else target
    for line in itertools.count(1):
        if target.exists():
            content.unlink()
        elif folder:
            target.mkdir()
        content.write_text("old")
        where = interrupted(target, folder, line)
        assert names(tmp_path) == ["out"], (line, where)
        assert content.read_text() in (("old", "new") if where else ("new",))
        if not where:
            break
        found.add(where)
    assert {"_room", "_locked", "_move", "_remove", "rmtree", "__exit__"} <= found


def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_text("old")
    with pytest.raises(OutputExistsError, match=r"out\.bin exists already"), replacing(target):
        pytest.fail("the block ran")
    assert target.read_text() == "old"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"

    def race() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(OutputExistsError):
        race()
    assert target.read_text() == "theirs"


def make(path: Path, kind: str, *files: str) -> None:
    if kind == "file":
        path.write_text(f"{files}")
        return
    path.mkdir()
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(file)


def overwrite(target: Path, kind: str, *files: str, replaceable: Replaceable | None = None) -> None:
    with replacing(target, overwrite=True, replaceable=replaceable) as temporary:
        make(temporary, kind, *files)


@pytest.mark.parametrize(("old", "new"), [("file", "folder"), ("folder", "file")])
def test_files_and_folders_are_not_replaced_by_each_other(tmp_path: Path, old: str, new: str) -> None:
    make(tmp_path / "out", old, "a")
    with pytest.raises(OutputExistsError, match=f"out is a {old} and is not overwritten by a {new}"):
        overwrite(tmp_path / "out", new, "a")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").is_file() if old == "file" else names(tmp_path / "out") == ["a"]


def test_a_file_replaces_a_file(tmp_path: Path) -> None:
    make(tmp_path / "out", "file", "old")
    overwrite(tmp_path / "out", "file", "new")
    assert "new" in (tmp_path / "out").read_text()
    assert names(tmp_path) == ["out"]


def test_a_folder_replaces_one_that_differs_in_numbers_alone(tmp_path: Path) -> None:
    make(tmp_path / "clip", "folder", "000.png", "001.png", "1000.png")
    overwrite(tmp_path / "clip", "folder", "000.png")
    assert names(tmp_path / "clip") == ["000.png"]
    assert names(tmp_path) == ["clip"]


@pytest.mark.parametrize("foreign", ["notes.txt", "holiday.png", "sub/000.png", ".hidden"])
def test_a_folder_with_anything_else_in_it_is_kept(tmp_path: Path, foreign: str) -> None:
    make(tmp_path / "clip", "folder", "000.png", foreign)
    with pytest.raises(OutputExistsError, match=f"clip holds what would be lost \\({foreign}\\)"):
        overwrite(tmp_path / "clip", "folder", "000.png")
    assert (tmp_path / "clip" / foreign).read_text() == foreign
    assert names(tmp_path) == ["clip"]


def test_what_may_be_lost_can_be_said_and_is_checked_before_any_work(tmp_path: Path) -> None:
    make(tmp_path / "model", "folder", "unet/config.json", "unet/mine.json")
    with (
        pytest.raises(OutputExistsError, match=r"\(unet/mine\.json\)"),
        replacing(tmp_path / "model", True, lambda file: file.name == "config.json"),
    ):
        pytest.fail("the block ran")
    overwrite(tmp_path / "model", "folder", "new", replaceable=lambda file: file.suffix == ".json")
    assert names(tmp_path / "model") == ["new"]


def test_a_link_to_a_folder_is_not_looked_through(tmp_path: Path) -> None:
    make(tmp_path / "photos", "folder", "000.png")
    make(tmp_path / "clip", "folder", "000.png")
    (tmp_path / "clip" / "album").symlink_to(tmp_path / "photos")
    with pytest.raises(OutputExistsError, match="album"):
        overwrite(tmp_path / "clip", "folder", "000.png")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(VcutError, match=r"there is no folder .*nowhere"),
        replacing(tmp_path / "nowhere" / "out.bin"),
    ):
        pytest.fail("the block ran")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with (
        pytest.raises(VcutError, match=r"cannot write into the folder .*locked"),
        replacing(locked / "out.bin"),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "a file may not be that large here"),
    ],
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, number: int, says: str) -> None:
    def fill() -> None:
        with replacing(tmp_path / "out.bin"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(VcutError, match=rf"{says}: .*out\.bin was not written"):
        fill()


def test_a_folder_that_goes_away_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()

    def write() -> None:
        with replacing(tmp_path / "gone" / "out.bin") as temporary:
            shutil.rmtree(tmp_path / "gone")
            temporary.write_text("new")

    with pytest.raises(VcutError, match=r"out\.bin was not written: what lay in .*gone was removed"):
        write()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root makes nothing")
def test_a_folder_that_takes_nothing_is_said_before_any_work() -> None:
    with pytest.raises(VcutError, match="cannot write into the folder /proc: "), replacing("/proc/out.bin"):
        pytest.fail("the block ran")


def test_a_move_that_fails_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(Path, "replace", refuse)

    def write() -> None:
        with replacing(tmp_path / "out.bin") as temporary:
            temporary.write_text("new")

    with pytest.raises(
        VcutError, match=r"cannot put the finished output at .*out\.bin: Operation not permitted"
    ):
        write()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(VcutError, match="/dev/null is a device"), replacing("/dev/null", overwrite=True):
        pytest.fail("the block ran")


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    def nothing() -> None:
        with replacing(tmp_path / "out.bin"):
            pass

    with pytest.raises(VcutError, match="nothing was written"):
        nothing()
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [240, 255])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_any_name_that_a_file_can_have_is_written(tmp_path: Path, length: int, kind: str) -> None:
    target = tmp_path / "é".ljust(length - 1, "x")
    assert len(os.fsencode(target.name)) == length
    overwrite(target, kind, "a")
    overwrite(target, kind, "a")
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "null\0", "deep/" * 900 + "x"])
@pytest.mark.parametrize("folder", [".", "not/there/yet"])
def test_a_name_that_no_file_can_have_is_refused_before_any_work(
    tmp_path: Path, name: str, folder: str
) -> None:
    with pytest.raises(VcutError, match="cannot be written"):
        check_name(tmp_path / folder / name)
    with pytest.raises(VcutError, match="cannot be written"), replacing(tmp_path / folder / name):
        pytest.fail("the block ran")
    assert names(tmp_path) == []


def left_by_a_kill(folder: Path) -> Path:
    room = folder / ".vcut-a8_bcdef"
    for name in ("new", "old"):
        (room / name).mkdir(parents=True)
    (room / "lock").touch()
    (room / "new" / "clip").write_text("half")
    return room


def test_what_a_killed_process_left_is_removed_by_the_next_output(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path)
    (tmp_path / ".vcut-empty000").mkdir()
    (tmp_path / ".vcut-mine").write_text("a file of the user's own")
    overwrite(tmp_path / "other", "file", "a")
    assert names(tmp_path) == [".vcut-mine", "other"]


def test_an_output_at_work_is_no_leftover(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "b") as second:
        for temporary in (first, second):
            temporary.write_text("whole")
    assert names(tmp_path) == ["a", "b"]


def test_an_old_folder_that_a_killed_process_had_moved_comes_back(tmp_path: Path) -> None:
    room = left_by_a_kill(tmp_path)
    for name in ("clip", "other"):
        make(room / "old" / name, "folder", "000.png")
    make(tmp_path / "other", "folder", "new.png")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["clip", "other"]
    assert (names(tmp_path / "clip"), names(tmp_path / "other")) == (["000.png"], ["new.png"])


def test_a_room_that_is_taken_for_a_leftover_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may clean up between any two calls of this one."""
    times = iter(range(9))

    def cleaning(file: IO[Any]) -> bool | None:
        if next(times) == 0:
            remove_leftovers(tmp_path)
        return lock_alone(file)

    monkeypatch.setattr("weights_tools.outputs.lock_alone", cleaning)
    overwrite(tmp_path / "out", "file", "a")
    assert names(tmp_path) == ["out"]


def test_a_file_that_appears_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes that write one output the first to finish wins."""
    target = tmp_path / "out"
    check = outputs.check_file

    def appears(path: Path, overwrite: bool) -> None:
        check(path, overwrite)
        path.write_text("theirs")

    monkeypatch.setattr(outputs, "check_file", appears)

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ours")

    with pytest.raises(OutputExistsError, match="appeared meanwhile"):
        write()
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["out"]


def test_where_there_are_no_links_a_file_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with replacing(tmp_path / "out") as temporary:
        temporary.write_text("ours")
    assert names(tmp_path) == ["out"]


def test_what_would_be_refused_can_be_asked_for_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputExistsError, match="file exists already"):
        outputs.check_file(tmp_path / "file", overwrite=False)
    with pytest.raises(VcutError, match="there is no folder"):
        outputs.check_file(tmp_path / "gone" / "file", overwrite=True)
    with pytest.raises(OutputExistsError, match="folder exists already"):
        outputs.check_folder(tmp_path / "folder", False, lambda file: True)
    with pytest.raises(VcutError, match="there is no folder"):
        outputs.check_folder(tmp_path / "gone" / "folder", True, lambda file: True)


@pytest.mark.parametrize(("files", "named"), [(3, r"\(0, 1, 2\)"), (5, r"\(0, 1, 2 and 2 more\)")])
def test_three_files_that_would_be_lost_are_named(tmp_path: Path, files: int, named: str) -> None:
    for index in range(files):
        (tmp_path / str(index)).touch()
    with pytest.raises(OutputExistsError, match=f"holds what would be lost {named}"):
        outputs.check_folder(tmp_path, True, lambda file: False)


def test_an_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "000.png").write_text("old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.parent.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)

    def write() -> None:
        with replacing(tmp_path / "clip", overwrite=True) as temporary:
            temporary.mkdir()
            (temporary / "000.png").write_text("new")

    with pytest.raises(VcutError, match=r"cannot put the finished output at .*clip: Input/output error"):
        write()
    assert names(tmp_path) == ["clip"]
    assert (tmp_path / "clip" / "000.png").read_text() == "old"
