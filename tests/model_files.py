"""Checkpoints of whole pipelines, written for the tests of loading."""

from __future__ import annotations

from pathlib import Path

import vcut
from vcut.pipeline import Pipeline


def write(pipe: Pipeline, path: Path) -> None:
    """One file in the vcut layout, with its configuration."""
    vcut.save(pipe, path)
