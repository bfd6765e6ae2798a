"""40 pictures x 2 clips x 3 settings with the model in the box: killed, resumed, and shared, with equal frames.

Real processes, and SIGKILL, which no process can tidy up after. Those that start one after the other are forked from
a server that has torch loaded already; torchrun starts its ranks as a user does.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import started
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
SMALL = (
    "--clips",
    "2",
    "--threads",
    "1",
    "--steps",
    "1",
    "--frames",
    "1",
    "--size",
    "16x16",
    "--device",
    "cpu",
)


def words(folder: Path, out: str, *options: str) -> list[str]:
    """A sweep's command, which can be started again and again."""
    places = [str(folder / "pictures"), "-o", str(folder / out), "--settings", str(folder / "settings.toml")]
    return ["sweep", *places, *SMALL, *options]


def to_the_end(arguments: list[str]) -> None:
    with started(arguments) as process:
        process.join()
        assert process.exitcode == 0, arguments


def wait_for(out: Path, clips: int, is_alive: Callable[[], bool]) -> None:
    """Wait until so many clips are in the manifests of a sweep that is at work."""
    while sum(file.read_bytes().count(b"\n") for file in out.glob("manifest*.jsonl")) < clips:
        assert is_alive(), f"{out}: it ended too early"
        time.sleep(0.01)


def three_shards(folder: Path) -> None:
    """Make the three shards of a sweep one after the other."""
    for shard in range(3):
        to_the_end(words(folder, "SHARDS", "--shard", f"{shard}/3"))


def ten_kills(folder: Path) -> None:
    """Kill a sweep at ten random moments, look at what each kill left, and let it come to its end."""
    moments, out = random.Random(13), folder / "KILLED"
    for clips in sorted(moments.sample(range(CLIPS - 20), 10)):
        with started(words(folder, "KILLED")) as process:
            wait_for(out, clips, process.is_alive)
            time.sleep(moments.uniform(0, 0.3))
        assert process.exitcode == -signal.SIGKILL
        check_halfway(out)
    to_the_end(words(folder, "KILLED"))


def two_ranks(folder: Path) -> None:
    """Share a sweep among two ranks of torchrun, kill all of it half-way, and start it again."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command = [sys.executable, *launcher, sys.executable, "-m", "vcut", *words(folder, "RANKS")]
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    with subprocess.Popen(command, env=environment) as process:
        wait_for(folder / "RANKS", CLIPS // 2, lambda: process.poll() is None)
        # its ranks would live on without it
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for pid in (process.pid, *map(int, children.read_text().split() if children.exists() else ())):
            os.kill(pid, signal.SIGKILL)
    check_halfway(folder / "RANKS")
    subprocess.run(command, env=environment, check=True)


def check_halfway(out: Path) -> None:
    """No record without its whole clip, and no clip that is not whole, after a kill at any moment."""
    records = manifest.read(out)
    for record in records:
        assert manifest.is_complete(out, record), record
    known = {out / record.file for record in records}
    for file in set(out.glob("*/*.mp4")) - known:
        assert len(media.read(file)[0]) == 1, file


def frames(out: Path) -> dict[Key, str]:
    """Hashes of the frames by clip, of a sweep that is whole: nothing is lost, doubled or left behind."""
    lines = [line for file in out.glob("manifest*.jsonl") for line in json_lines.read(file)]
    records = manifest.read(out)
    assert len(lines) == len(records) == CLIPS, out
    assert {out / record.file for record in records} == set(out.glob("*/*.mp4")), out
    assert all(manifest.is_complete(out, record) for record in records), out
    assert not [path for path in out.rglob("*") if path.name.startswith(".")], out
    return {record.key: record.frames_sha256 for record in records}


@pytest.mark.slow
def test_killed_and_shared_sweeps_have_the_frames_of_uninterrupted_ones(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 40)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(each, tmp_path) for each in (three_shards, ten_kills, two_ranks)]:
            done.result()
    uninterrupted = frames(tmp_path / "SHARDS")
    assert len(set(uninterrupted.values())) == CLIPS
    assert frames(tmp_path / "KILLED") == uninterrupted
    assert frames(tmp_path / "RANKS") == uninterrupted
    assert len(list((tmp_path / "RANKS").glob("manifest-*-of-2.jsonl"))) == 2
