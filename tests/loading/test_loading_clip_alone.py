"""``load_clip`` gives the CLIP of any layout, of a whole model or by itself, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from micro import MICRO, micro
from model_files import write

from vcut.errors import CheckpointError
from vcut.loading import load_clip
from weights_tools.cli import main as weights


@pytest.mark.parametrize("layout", ["vcut", "sgm", "diffusers"])
def test_every_layout_gives_the_models_clip(tmp_path: Path, layout: str) -> None:
    write(micro("baseline"), tmp_path / "vcut.safetensors")
    path = tmp_path / "vcut.safetensors"
    if layout != "vcut":
        path = tmp_path / ("folder" if layout == "diffusers" else "sgm.safetensors")
        assert weights(["convert", str(tmp_path / "vcut.safetensors"), str(path), "--to", layout]) == 0
    if layout == "diffusers":
        # the weights of the others are not even looked at
        for other in ("unet", "vae"):
            (path / other / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights at all")
    found = load_clip(path, dtype=torch.float32, device="cpu")
    assert found.config == MICRO.clip
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # to rounding: where weights begin in memory decides in which order some CPUs add
    torch.testing.assert_close(found.embed(picture), micro("baseline").clip.embed(picture), rtol=0, atol=1e-5)


def test_a_file_without_clip_says_so(tmp_path: Path) -> None:
    write(micro("baseline"), tmp_path / "vcut.safetensors")
    assert (
        weights(["convert", str(tmp_path / "vcut.safetensors"), str(tmp_path / "d"), "--to", "diffusers"])
        == 0
    )
    with pytest.raises(CheckpointError):
        load_clip(tmp_path / "d" / "unet", device="cpu")
