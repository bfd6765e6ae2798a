"""Everything runs on a device that is not the CPU: nothing lies on the wrong one, and the loop waits as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_cases() -> None:
    """In a process of their own: a device that is registered stays for good."""
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, str(Path(__file__).with_name("cases.py"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
