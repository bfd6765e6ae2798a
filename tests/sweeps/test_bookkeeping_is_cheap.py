"""What a sweep costs beside its clips: milliseconds a clip, and no memory that grows with their number."""

from __future__ import annotations

import gc
import resource
import time
import tracemalloc
from pathlib import Path

import pytest
from sweep_stub import PRESETS, Stub, make_pictures, make_sweep

from vcut.sweeps import clip, loop, manifest, sweep
from vcut.sweeps.settings_table import from_presets

LIMIT = 0.020
"""Seconds a clip, with encoding it. They are seconds of this thread at work, so that its neighbours do not count."""


def measured(tmp_path: Path, number: int) -> tuple[float, float, int]:
    """Make clips of ``number`` pictures in three settings with a model that takes no time.

    Returns seconds a clip of making them, seconds a clip of finding them again, and the bytes of memory that came
    on top between a fifth of the clips and the end.
    """
    settings = from_presets(PRESETS, (), lambda *_: {"frames": 1})
    pictures = make_pictures(tmp_path / "pictures", number)
    asked, tasks = make_sweep(pictures, settings, clips=1)
    out = tmp_path / "OUT"
    manifest.write_sweep(out, asked)
    peaks: list[int] = []

    def note_peak(line: str) -> None:
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    # the first clip loads the encoder
    clip.make_clip(Stub(tasks[0].run.preset), tasks[0], asked, out, False, print)  # type: ignore[arg-type]
    begun = time.thread_time()
    make = clip.clip_maker(Stub, asked, out)  # type: ignore[arg-type]
    loop.gather(tasks, loop.one_by_one(tasks, make), out / "manifest.jsonl", say=note_peak, warn=pytest.fail)
    making = time.thread_time() - begun
    begun = time.thread_time()
    complete = sweep.find_complete(out, tasks, manifest.read(out))
    finding = time.thread_time() - begun
    assert len(complete) == len(tasks) == 3 * number
    return making / len(tasks), finding / len(tasks), peaks[-1] - peaks[len(tasks) // 5]


def test_a_clip_costs_milliseconds(tmp_path: Path) -> None:
    making, finding, _ = measured(tmp_path, 40)
    assert making < LIMIT
    assert finding < LIMIT / 4


@pytest.mark.slow
def test_vbenchs_suite_in_three_settings_costs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the encoder, a minute for so many clips, is in the short test
    monkeypatch.setattr("vcut.media.write", lambda frames, path, *a, **k: Path(path).write_bytes(b"a clip"))
    making, finding, grown = measured(tmp_path, 1775)
    assert making < LIMIT
    assert finding < LIMIT / 4
    # a record in memory has 3 kB: those of 4,260 clips would show
    assert grown < 8e6


@pytest.mark.slow
def test_no_clip_leaves_anything_in_memory(tmp_path: Path) -> None:
    asked, tasks = make_sweep(make_pictures(tmp_path / "pictures", 40), clips=1)
    manifest.write_sweep(tmp_path / "OUT", asked)
    held: list[int] = []

    def note_held(line: str) -> None:
        if (len(held) + 1) % 20 == 0:
            gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        make = clip.clip_maker(Stub, asked, tmp_path / "OUT")  # type: ignore[arg-type]
        file = tmp_path / "OUT" / "manifest.jsonl"
        loop.gather(tasks, loop.one_by_one(tasks, make), file, say=note_held, warn=pytest.fail)
    finally:
        tracemalloc.stop()
    # of the clips 40 to 120, whose records are 200 kB
    assert held[119] - held[39] < 30_000
