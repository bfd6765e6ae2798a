"""Files of this folder import diffusers, which takes seconds: they are not read where no test of theirs would run."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "not parity" in config.getoption("markexpr") else None
