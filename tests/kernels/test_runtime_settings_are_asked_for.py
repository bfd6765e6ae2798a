"""Process-wide settings: one call makes them, importing makes none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vcut.kernels import runtime

FAULTS = """
import resource, sys, torch, vcut, vcut.cli, vcut.pipeline, vcut.loading
assert torch.get_float32_matmul_precision() == "highest"
if sys.argv[1] == "keep":
    assert vcut.runtime.keep_large_blocks()
torch.ones(1 << 24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_blocks_are_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        found = subprocess.run(
            [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True
        )
        return int(found.stdout)

    # none would be left, but a machine that is short of memory takes idle pages back
    assert faults("keep") < 0.5 * faults("import only")


def test_elsewhere_it_says_that_it_did_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.keep_large_blocks() is False


def test_what_every_cpu_computes_is_not_emulated() -> None:
    assert not runtime.is_emulated(torch.float32)
    assert not runtime.is_emulated(torch.float64)


@pytest.mark.parametrize(
    ("outer", "inner", "threads"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("400000 100000", "150000 100000", 2),
        ("50000 100000", "400000 100000", 1),
        (None, "300000 100000", 3),
        (None, None, 8),
    ],
)
def test_a_quota_of_cores_bounds_the_threads(
    outer: str | None, inner: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "groups" / "outer" / "inner"
    group.mkdir(parents=True)
    for folder, limit in ((group.parent, outer), (group, inner)):
        if limit is not None:
            (folder / "cpu.max").write_text(f"{limit}\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")  # no group: it is outside
    own = tmp_path / "own"
    own.write_text("3:cpu:/elsewhere\n0::/outer/inner\n")
    found = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: found[-1])
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert runtime.keep_within_quota(str(own), str(tmp_path / "groups")) == 8, "the user said so"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert runtime.keep_within_quota(str(own), str(tmp_path / "groups")) == threads == found[-1]
    assert runtime.keep_within_quota(str(tmp_path / "none")) == found[-1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="taskset")
def test_a_process_that_is_given_one_core_starts_one_thread() -> None:
    given = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    program = f"{given}; import torch; print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout == "1\n"
