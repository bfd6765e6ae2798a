"""40 pictures x 2 clips x 3 settings with the model in the box: killed, resumed, and shared, with equal frames.

Real processes, and SIGKILL, which no process can tidy up after.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sweep_stub import make_pictures

from vcut import media
from vcut.sweeps import json_lines, manifest
from vcut.sweeps.manifest import Key

CLIPS = 40 * 2 * 3
SETTINGS = """
[baseline]
preset = "baseline"
[vcut]
preset = "vcut"
cut = 1
[uncut]
preset = "vcut"
cut = "none"
"""


class Start:
    """A sweep's command, which can be started again and again."""

    def __init__(
        self, folder: Path, out: str, *options: str, pictures: str = "pictures", ranks: int = 0
    ) -> None:
        self.out = folder / out
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python"]
        self.words = [
            *([sys.executable, *launcher] if ranks else []),
            *(sys.executable, "-m", "vcut", "sweep", str(folder / pictures), "-o", str(self.out)),
            *("--settings", str(folder / "settings.toml"), "--clips", "2"),
            *("--steps", "1", "--frames", "1", "--size", "16x16", "--device", "cpu", *options),
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """The process, of which nothing is left after the block."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("LOCAL_RANK", None)
        process = subprocess.Popen(
            self.words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        with process:
            try:
                yield process
            finally:
                kill(process)

    def to_the_end(self) -> None:
        """Run it until it is done."""
        with self.running() as process:
            said, _ = process.communicate()
        assert process.returncode == 0, said

    def killed(self, after_lines: int, after_seconds: float) -> None:
        """Run it, and kill it so many clips and seconds later; what is left in the folder is checked."""
        with self.running() as process:
            assert process.stdout is not None
            made = (line for line in process.stdout if "made" in line)
            for _ in itertools.islice(made, after_lines):
                pass
            time.sleep(after_seconds)
            kill(process)
        check_halfway(self.out)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its children at once: torchrun's ranks live on without it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = children.read_text().split() if children.exists() else []
    for pid in (process.pid, *map(int, pids)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def check_halfway(out: Path) -> None:
    """No record without its whole clip, and no clip that is not whole, after a kill at any moment."""
    records = manifest.read(out)
    for record in records:
        assert manifest.is_complete(out, record), record
    known = {out / record.file for record in records}
    for file in set(out.glob("*/*.mp4")) - known:
        assert len(media.read(file)[0]) == 1, file


def frames(out: Path, clips: int) -> dict[Key, str]:
    """Hashes of the frames by clip, of a sweep that is whole: nothing is lost, doubled or left behind."""
    lines = [line for file in out.glob("manifest*.jsonl") for line in json_lines.read(file)]
    records = manifest.read(out)
    assert len(lines) == len(records) == clips, out
    assert {out / record.file for record in records} == set(out.glob("*/*.mp4")), out
    assert all(manifest.is_complete(out, record) for record in records), out
    assert not [path for path in out.rglob("*") if path.name.startswith(".")], out
    return {record.key: record.frames_sha256 for record in records}


@pytest.mark.slow
def test_killed_and_shared_sweeps_have_the_frames_of_uninterrupted_ones(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", 40)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    (tmp_path / "some.txt").write_text("".join(f"{picture.path}\n" for picture in pictures[3:7]))
    moments = random.Random(13)

    def kill_and_resume(start: Start, times: int) -> None:
        for _ in range(times):
            start.killed(moments.randrange(2 * CLIPS // (times + 1)), moments.uniform(0, 0.3))
        start.to_the_end()

    def one_after_the_other() -> None:
        for shard in range(3):
            Start(tmp_path, "SHARDS", "--shard", f"{shard}/3").to_the_end()
        Start(tmp_path, "SOME", pictures="some.txt").to_the_end()

    with ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(one_after_the_other),
            pool.submit(kill_and_resume, Start(tmp_path, "KILLED"), 10),
            pool.submit(kill_and_resume, Start(tmp_path, "RANKS", ranks=2), 1),
        ]
        for each in waiting:
            each.result()

    uninterrupted = frames(tmp_path / "SHARDS", CLIPS)
    assert len(set(uninterrupted.values())) == CLIPS
    assert frames(tmp_path / "KILLED", CLIPS) == uninterrupted
    assert frames(tmp_path / "RANKS", CLIPS) == uninterrupted
    assert len(list((tmp_path / "RANKS").glob("manifest-*-of-2.jsonl"))) == 2
    assert frames(tmp_path / "SOME", 4 * 2 * 3).items() <= uninterrupted.items()
