"""Checkpoints of whole pipelines, written for the tests of loading."""

from __future__ import annotations

import json
from pathlib import Path

from vcut.pipeline import Pipeline
from weights_tools.tensor_file import save


def write(pipe: Pipeline, path: Path) -> None:
    """One file in the vcut layout, with its configuration."""
    state = {
        f"{part}.{name}": tensor
        for part in ("unet", "vae", "clip")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    save(path, state, {"format": "vcut", "config": json.dumps(pipe.config.to_dict())})
