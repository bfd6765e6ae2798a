"""Process-wide settings: one call makes them, importing makes none."""

from __future__ import annotations

import subprocess
import sys

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

    assert faults("keep") < 0.2 * faults("import only")


def test_elsewhere_it_says_that_it_did_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.keep_large_blocks() is False


def test_what_every_cpu_computes_is_not_emulated() -> None:
    assert not runtime.is_emulated(torch.float32)
    assert not runtime.is_emulated(torch.float64)
