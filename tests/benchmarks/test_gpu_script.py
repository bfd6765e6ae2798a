"""The script for one CUDA card runs to its end here, loses nothing, and goes on where a case fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


@pytest.fixture
def bench(tmp_path: Path) -> gpu.Bench:
    return gpu.Bench(gpu.Settings("cpu", model="tiny"), tmp_path / "gpu.json")


def written(bench: gpu.Bench) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bench.out.read_text())["results"]
    return found


def fail() -> dict[str, Any]:
    raise ValueError("no such kernel\nand more")


def full() -> dict[str, Any]:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_case_that_fails_is_told_and_the_next_is_run(bench: gpu.Bench) -> None:
    bench.case("first", ("a", fail), ("b", lambda: {"seconds": 1.0}))
    assert written(bench) == [{"case": "first", "failed": "a: ValueError: no such kernel"}]
    bench.case("second", ("a", lambda: {"seconds": 2.0}))
    assert written(bench)[1] == {"case": "second", "as": "a", "seconds": 2.0}


def test_where_memory_is_short_a_smaller_case_takes_the_place(bench: gpu.Bench) -> None:
    bench.case("call", ("large", full), ("small", lambda: {"seconds": 1.0}))
    bench.case("other", ("large", full), ("small", full))
    one, other = written(bench)
    assert one == {"case": "call", "as": "small", "seconds": 1.0}
    assert other["out of memory"].startswith("small: RuntimeError: CUDA out of memory")


def test_no_case_is_begun_without_time(bench: gpu.Bench) -> None:
    bench.ends = 0.0
    bench.case("late", ("a", fail))
    assert written(bench) == [{"case": "late", "skipped": "no time left"}]


@pytest.mark.parity
@pytest.mark.slow
def test_every_case_runs_on_the_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--minutes", "30", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert not [each for each in results if not each.get("as")], results
    named = {each["case"]: each for each in results}
    for preset in ("baseline", "lossless"):
        assert named[f"float16: call, {preset}"]["difference"] < 1e-2
    assert named["float16: call, vcut"]["difference"] > 1e-2, (
        "the control: dropping is seen as another function"
    )
    assert max(value for name, value in results[0].items() if name.endswith("float32")) < 1e-5
