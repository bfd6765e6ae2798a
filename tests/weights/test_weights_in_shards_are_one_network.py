"""A network of a diffusers folder may be in several files, with an index that names them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_samples import random_model

from weights_tools.checkpoint import FOLDERS, open_checkpoint
from weights_tools.errors import CheckpointError
from weights_tools.remap import to_layout
from weights_tools.structure import PARTS

MODEL = random_model()
STEM = "diffusion_pytorch_model"


def sharded(folder: Path, variant: str = "") -> Path:
    """A folder with all networks, the UNet in two shards; and the UNet's folder."""
    for part in PARTS:
        place, stem = FOLDERS[part]
        (folder / place).mkdir(parents=True, exist_ok=True)
        state = to_layout(MODEL[part], part, "diffusers")
        if part != "unet":
            save_file(state, folder / place / f"{stem}{variant}.safetensors")
            continue
        names = sorted(state)
        shards = {
            f"{stem}{variant}-00001-of-00002.safetensors": names[: len(names) // 2],
            f"{stem}{variant}-00002-of-00002.safetensors": names[len(names) // 2 :],
        }
        for file, some in shards.items():
            save_file({name: state[name] for name in some}, folder / place / file)
        weight_map = {name: file for file, some in shards.items() for name in some}
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / place / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))
    return folder / "unet"


@pytest.mark.parametrize(("dot", "variant"), [("", None), (".fp16", "fp16"), (".fp16", None)])
def test_shards_are_read_like_one_file(tmp_path: Path, dot: str, variant: str | None) -> None:
    unet = sharded(tmp_path, dot)
    for place in (tmp_path, unet):
        found = open_checkpoint(place, variant)
        assert found.faults == ()
        state = found.read("unet")
        assert all(torch.equal(state[name], tensor) for name, tensor in MODEL["unet"].items())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    unet = sharded(tmp_path)
    (unet / f"{STEM}-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors: no such file"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    unet = sharded(tmp_path)
    shutil.copy(unet / f"{STEM}-00001-of-00002.safetensors", unet / f"{STEM}-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="is there twice"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "{}",
        "[]",
        "nonsense",
        "[" * 100_000,
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": []}}',
        '{"weight_map": {"a": "../../secret.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "shard.bin"}}',
        '{"weight_map": {"a": "..safetensors/../../x.safetensors"}}',
    ],
)
def test_an_index_that_lies_is_refused_and_never_leads_out_of_its_folder(tmp_path: Path, index: str) -> None:
    unet = sharded(tmp_path)
    (unet / f"{STEM}.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(tmp_path)
