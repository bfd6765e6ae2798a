"""A model is found once, its headers read once, each network's structure inferred once, each tensor read once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO, micro
from model_files import write

import vcut
import weights_tools.checkpoint
import weights_tools.remap
from vcut import hub, loading
from vcut.errors import ConfigError
from weights_tools.cli import main as weights
from weights_tools.tensor_file import Reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mine.safetensors`` and ``diffusers/``, of sizes that no published checkpoint has."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write(micro("baseline"), folder / "mine.safetensors")
    assert (
        weights(["convert", str(folder / "mine.safetensors"), str(folder / "diffusers"), "--to", "diffusers"])
        == 0
    )
    return folder


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read from, and what else loading did."""
    counts: Counter[str] = Counter()

    def counted(place: Any, name: str) -> None:
        original = getattr(place, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(place, name, call)

    counted(hub, "find")
    counted(weights_tools.checkpoint, "read_header")
    counted(weights_tools.remap, "infer")
    read = Reader.__getitem__

    def getitem(self: Reader, key: str) -> torch.Tensor:
        counts[f"tensor {key}"] += 1
        return read(self, key)

    monkeypatch.setattr(Reader, "__getitem__", getitem)
    return counts


def tensors(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name.startswith("tensor ")}


def test_a_file_is_loaded_with_one_header_and_three_structures(folder: Path, counts: Counter[str]) -> None:
    vcut.load(folder / "mine.safetensors", preset="baseline")
    assert (counts["find"], counts["read_header"], counts["infer"]) == (1, 1, 3)
    assert set(tensors(counts).values()) == {1}


def test_a_folder_is_loaded_with_one_header_for_each_file(folder: Path, counts: Counter[str]) -> None:
    vcut.load(folder / "diffusers", preset="lossless")
    assert (counts["find"], counts["read_header"], counts["infer"]) == (1, 3, 3)
    assert set(tensors(counts).values()) == {1}


def test_what_was_found_is_loaded_without_finding_it_again(folder: Path, counts: Counter[str]) -> None:
    found = loading.find(folder / "mine.safetensors")
    assert (found.config.frames, found.note) == (MICRO.frames, None)
    assert not tensors(counts)
    before = dict(counts)
    pipe = vcut.load(found, preset="vcut")
    assert {name: counts[name] for name in before} == before
    assert pipe.config.name == found.config.name
    assert pipe.unet.config.tca is False


def test_tensors_that_the_form_does_not_need_are_never_read(folder: Path, counts: Counter[str]) -> None:
    vcut.load(folder / "mine.safetensors", preset="vcut")
    read = {name for name in tensors(counts) if name.startswith("tensor unet.")}
    assert not any(".temporal." in name and ".cross." in name for name in read)
    assert not any(
        name.endswith((".cross.to_q.weight", ".cross.to_k.weight", ".cross.norm.bias")) for name in read
    )
    assert any(name.endswith(".cross.to_v.weight") for name in read)


def test_a_checkpoint_gives_names_before_it_reads_anything(folder: Path, counts: Counter[str]) -> None:
    checkpoint = weights_tools.checkpoint.open_checkpoint(folder / "mine.safetensors")
    lazy = checkpoint.tensors("unet", tca=False, sca="linear_cached")
    assert len(lazy) == len(micro("vcut").unet.state_dict())
    sketch = checkpoint.tensors("unet", tca=False, sca="linear_cached", data=False)
    assert all(sketch[name].is_meta for name in sketch)
    assert not tensors(counts)


def test_what_find_has_settled_is_not_asked_for_again(folder: Path) -> None:
    found = loading.find(folder / "mine.safetensors")
    for settled in ({"config": MICRO}, {"variant": "fp16"}, {"token": "hf_x"}, {"local_only": True}):
        with pytest.raises(ConfigError, match="were settled by find"):
            vcut.load(found, **settled)  # type: ignore[arg-type]
