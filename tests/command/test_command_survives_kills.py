"""`vcut generate` in real processes: killed, stopped, met by another, its folder removed, its memory full.

Under a final name lies a whole clip or none, what was there before is there still, and the next run tidies up.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import started

from vcut import media

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")]

PICTURES = 96
"""Number of pictures: some are left after the third signal, however late it comes."""
SMALL = ["--steps", "1", "--frames", "2", "--size", "16x16", "--seed", "0", "--device", "cpu", "--quiet"]
NOTE = "vcut: note: tiny is the small model in the box"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures, and one for the clips that holds one of them and what the command must not touch."""
    (tmp_path / "in").mkdir()
    numbers = np.random.default_rng(0)
    for index in range(PICTURES):
        Image.fromarray(numbers.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"in/{index:02}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/05.gif").write_text("precious")
    (tmp_path / "out/thesis.tex").write_text("precious")
    return tmp_path


def words(folder: Path, *options: str) -> list[str]:
    return ["generate", str(folder / "in"), "-o", str(folder / "out"), "--format", "gif", *SMALL, *options]


def check(folder: Path) -> tuple[int, int]:
    """The numbers of clips and of leftovers, after a look at every file."""
    clips = leftovers = 0
    for path in (folder / "out").iterdir():
        if path.name.startswith(".vcut-"):
            leftovers += 1
        elif path.name in ("05.gif", "thesis.tex"):
            assert path.read_text() == "precious"
        else:
            assert media.read(path)[0].shape == (2, 3, 16, 16), path
            clips += 1
    assert len(list((folder / "in").iterdir())) == PICTURES
    return clips, leftovers


def made(folder: Path) -> int:
    return len(list((folder / "out").glob("[0-9]*.gif")))


def wait_for_a_clip(folder: Path, process: BaseProcess) -> None:
    before = made(folder)
    while made(folder) == before and process.is_alive():
        time.sleep(0.002)


def test_any_signal_at_any_moment_leaves_whole_clips_and_the_next_run_makes_the_rest(folder: Path) -> None:
    moments, said, before = random.Random(0), folder / "said", 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with started(words(folder), said) as process:
            wait_for_a_clip(folder, process)
            time.sleep(moments.uniform(0, 0.15))
            assert process.pid
            os.kill(process.pid, number)
            process.join()
        clips, leftovers = check(folder)
        assert before < clips < PICTURES - 1
        if number == signal.SIGKILL:
            assert (process.exitcode, leftovers) in [(-number, 0), (-number, 1)]
        else:
            assert (process.exitcode, leftovers) == (128 + number, 0)
            assert said.read_text().endswith("vcut: interrupted\n")
        before = clips
    with started(words(folder), said) as process:
        process.join()
    assert process.exitcode == 0
    assert check(folder) == (PICTURES - 1, 0)
    assert "Traceback" not in said.read_text()


def test_two_at_once_leave_whole_clips_and_neither_fails(folder: Path) -> None:
    said = folder / "said"
    with started(words(folder), said) as one, started(words(folder, "--overwrite"), said) as other:
        one.join()
        other.join()
    assert (one.exitcode, other.exitcode) == (0, 0)
    assert media.read(folder / "out/05.gif")[0].shape == (2, 3, 16, 16)
    (folder / "out/05.gif").write_text("precious")
    assert check(folder) == (PICTURES - 1, 0)


def test_a_folder_that_is_removed_again_and_again_is_made_again_or_named_in_one_line(folder: Path) -> None:
    moments, said = random.Random(0), folder / "said"
    with started(words(folder), said) as process:
        while process.is_alive():
            wait_for_a_clip(folder, process)
            time.sleep(moments.uniform(0, 0.05))
            shutil.rmtree(folder / "out", ignore_errors=True)
    lines = said.read_text().splitlines()
    assert process.exitcode == (2 if lines[1:] else 0)
    assert lines[0].startswith(NOTE)
    assert all(line.startswith("vcut: error: ") and str(folder / "out") in line for line in lines[1:])
    assert len(lines) <= 2


def test_memory_that_is_full_is_named_in_one_line(folder: Path) -> None:
    said = folder / "said"
    with started(words(folder, "--size", "768x768", "--frames", "8"), said, more_memory=250 << 20) as process:
        process.join()
    assert process.exitcode == 2
    notes, error = said.read_text().splitlines()[:-1], said.read_text().splitlines()[-1]
    assert all(line.startswith("vcut: note: ") for line in notes)
    assert re.match(r"vcut: error: .*(does not fit into memory|out of memory)", error)
    assert check(folder) == (0, 0)
