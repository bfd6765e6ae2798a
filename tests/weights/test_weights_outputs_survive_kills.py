"""Outputs of processes that are killed at random moments, that meet, or that may write no more."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weights_tools.errors import OutputExistsError
from weights_tools.outputs import replacing

ROOT = Path(__file__).parents[2]
SIZE = 300_000

WRITER = """
import resource, sys
from weights_tools.errors import OutputExistsError, VcutError
from weights_tools.outputs import replacing

word, names, overwrite, most = sys.argv[1], range(int(sys.argv[2])), sys.argv[3] == "over", int(sys.argv[4])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print("begun", flush=True)
for name in names:
    try:
        with replacing(f"file-{name % 40}", overwrite) as file, file.open("w") as out:
            for _ in range(10):
                out.write(word * 30_000)
        with replacing(f"folder-{name % 40}", overwrite) as folder:
            folder.mkdir()
            for part in "ab":
                (folder / part).write_text(word * 1000)
    except OutputExistsError:
        print("lost", flush=True)
    except VcutError as error:
        print(error, flush=True)
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]


def start(
    folder: Path, word: str, names: int, overwrite: bool = False, most: int = 0
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, word, str(names), "over" if overwrite else "", str(most)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def check(folder: Path, leftovers: bool = False) -> int:
    """Raise unless every output is whole and of one writer; return their number."""
    outputs = [path for path in folder.iterdir() if not path.name.startswith(".vcut-")]
    for path in outputs:
        if path.is_dir():
            texts = [(path / part).read_text() for part in "ab"]
            assert sorted(part.name for part in path.iterdir()) == ["a", "b"]
        else:
            texts = [path.read_text()]
            assert len(texts[0]) == SIZE
        assert len(set("".join(texts))) == 1, path
    assert leftovers or len(outputs) == len(list(folder.iterdir()))
    return len(outputs)


def test_kills_at_random_moments_leave_whole_outputs_and_what_the_next_removes(tmp_path: Path) -> None:
    moments = random.Random(0)
    for word in "pqrst":
        process = start(tmp_path, word, 10**6, overwrite=True)
        time.sleep(moments.uniform(0.01, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert check(tmp_path, leftovers=True)
        with replacing(tmp_path / "file-0", overwrite=True) as file:
            file.write_text(word * SIZE)
        check(tmp_path)


def test_of_two_that_write_one_output_the_first_wins_and_the_other_goes_on(tmp_path: Path) -> None:
    writers = [start(tmp_path, word, 40) for word in "xy"]
    # with a timeout it would forget what came together with the first line
    said = "".join(writer.communicate()[0] for writer in writers)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert said == 40 * "lost\n"  # of each name one writer put something there, and the other did not
    assert check(tmp_path) == 80
    with pytest.raises(OutputExistsError), replacing(tmp_path / "file-0"):
        pytest.fail("the block ran")


def test_two_that_overwrite_one_output_leave_one_of_both(tmp_path: Path) -> None:
    writers = [start(tmp_path, word, 40, overwrite=True) for word in "xy"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert check(tmp_path) == 80


def test_a_real_limit_of_the_system_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "x", 1, most=SIZE // 2)
    said, _ = process.communicate()
    assert said == "a file may not be that large here: file-0 was not written\n"
    assert list(tmp_path.iterdir()) == []
