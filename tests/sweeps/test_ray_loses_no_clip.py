"""Clips handed out by Ray are those of one process, though workers and the process that hands out are killed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweep_stub import make_pictures, make_sweep

from vcut import cli
from vcut.errors import OutOfMemoryError, PictureError, VcutError
from vcut.sweeps import manifest, ray
from vcut.sweeps.clip import Maker, Outcome
from vcut.sweeps.manifest import Key
from vcut.sweeps.sweep import Task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the ray extra"),
]

PICTURES, CLIPS = 40, 40 * 2 * 3


def words(folder: Path, out: str, *options: str) -> list[str]:
    """A sweep's command: one small frame a clip in three settings."""
    return [
        *("sweep", str(folder / "pictures"), "-o", str(folder / out)),
        *("--preset", "baseline", "--preset", "vcut", "--cut", "1", "--cut", "2", "--clips", "2"),
        *("--steps", "1", "--frames", "1", "--size", "16x16", "--threads", "1", "--device", "cpu", *options),
    ]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vcut", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_clips(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    made = (line for line in process.stdout if line.startswith("made"))
    for _ in range(number):
        assert next(made, None), "it ended too early"


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Numbers of the processes that make clips: descendants of ``process``, which Ray gives the actor's name."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def descends(pid: int) -> bool:
        return pid == process.pid or (pid in parents and descends(parents[pid]))

    return [pid for pid, name in names.items() if name.startswith("ray::Worker") and descends(pid)]


def frames(out: Path) -> dict[Key, str]:
    """Hashes of the frames by clip; nothing is lost, doubled or left behind."""
    records = manifest.read(out)
    assert [line.name for line in out.glob("manifest*")] == ["manifest.jsonl"]
    assert len(records) == len((out / "manifest.jsonl").read_text().splitlines()) == CLIPS
    assert all(manifest.is_complete(out, record) for record in records)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    return {record.key: record.frames_sha256 for record in records}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray.Cluster]:
    with ray.connected() as cluster:
        yield cluster


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")
def test_killed_workers_and_a_killed_sweep_leave_the_frames_of_one_process(
    cluster: ray.Cluster, tmp_path: Path
) -> None:
    make_pictures(tmp_path / "pictures", PICTURES)
    assert cli.main(words(tmp_path, "ALONE")) == 0
    # a cluster that is there is joined, and its workers end with the sweep that they are for
    address = cluster.ray.get_runtime_context().gcs_address
    with start(words(tmp_path, "RAY", "--ray", address, "--cpus-per-worker", "1")) as process:
        wait_for_clips(process, CLIPS // 3)
        process.kill()
    left = len(manifest.read(tmp_path / "RAY"))
    assert CLIPS // 3 <= left < CLIPS
    with start(words(tmp_path, "RAY", "--ray", "--cpus-per-worker", "1")) as process:
        wait_for_clips(process, CLIPS // 3)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "a worker died while it made" in said
    assert frames(tmp_path / "RAY") == frames(tmp_path / "ALONE")


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return make_sweep(make_pictures(tmp_path, 1), clips=2)[1]


def handed_out(
    cluster: ray.Cluster, tasks: list[Task], make: Maker, warn: Callable[[str], None] = print
) -> Iterator[tuple[Task, Outcome]]:
    """What comes of each clip, made by one worker at a time."""
    return ray.handed_out(cluster, tasks, lambda: make, cores=cluster.cores, gpu=False, warn=warn)


def test_a_fault_of_one_clip_is_its_outcome_and_a_fault_of_all_stops(
    cluster: ray.Cluster, tasks: list[Task]
) -> None:
    last = tasks[-1].file

    def make(task: Task) -> Outcome:
        if task.file == last:
            raise OutOfMemoryError("sampling does not fit into memory")
        return PictureError(f"{task.image} is no picture")

    said: dict[str, str] = {}
    with pytest.raises(OutOfMemoryError, match=r"^sampling does not fit into memory$"):
        said.update((task.file, str(fault)) for task, fault in handed_out(cluster, tasks, make))
    assert said == {task.file: f"{task.image} is no picture" for task in tasks[:-1]}


def test_a_clip_that_kills_its_workers_stops_the_sweep(cluster: ray.Cluster, tasks: list[Task]) -> None:
    fatal = tasks[1].file

    def make(task: Task) -> Outcome:
        if task.file == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return PictureError("made")

    warnings: list[str] = []
    with pytest.raises(VcutError, match=rf"^3 workers died, each while it made {fatal}"):
        list(handed_out(cluster, tasks, make, warnings.append))
    assert warnings == [f"a worker died while it made {fatal}; another one takes its place"] * 2


def test_no_room_for_a_worker_is_said(cluster: ray.Cluster, tasks: list[Task]) -> None:
    room = dataclasses.replace(cluster, cores=2, gpus=0)
    for cores, gpu in ((3, False), (1, True)):
        with pytest.raises(VcutError, match="2 cores and 0 GPUs, no room for a worker"):
            list(ray.handed_out(room, tasks, lambda: lambda task: task, cores=cores, gpu=gpu, warn=print))


def test_nobody_at_the_address_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pictures(tmp_path / "pictures", 1)
    assert cli.main(words(tmp_path, "never", "--ray", "127.0.0.1:1")) == 2
    assert capsys.readouterr().err.startswith("vcut: error: no Ray cluster answers at 127.0.0.1:1")
    assert not (tmp_path / "never").exists()
