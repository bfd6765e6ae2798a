"""One model written in the vcut, sgm and diffusers layouts loads to the same clips; faults are named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import MICRO, micro
from model_files import write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vcut
import vcut.loading
from vcut.config import SVD, SVD_XT, SVD_XT_1_1, TINY, SVDConfig
from vcut.errors import CheckpointError, ConfigError
from vcut.pipeline import Pipeline
from weights_tools.cli import main as weights

PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
CONFIG = dataclasses.replace(MICRO, name="mine", fps=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mine.safetensors`` (vcut), ``sgm.safetensors`` and ``diffusers/``, the same weights in each."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write(dataclasses.replace(micro("baseline"), config=CONFIG), folder / "mine.safetensors")
    for layout, name in (("sgm", "sgm.safetensors"), ("diffusers", "diffusers")):
        assert weights(["convert", str(folder / "mine.safetensors"), str(folder / name), "--to", layout]) == 0
    return folder


def clip(pipe: Pipeline) -> torch.Tensor:
    return pipe.generate(PICTURE, steps=3, height=32, width=32, fps=7, seed=4)


def same(pipe: Pipeline, expected: Pipeline) -> None:
    """Weights to the bit; clips nearly, as kernels round differently where memory is aligned differently."""
    for part in ("unet", "vae", "clip"):
        state, wanted = getattr(pipe, part).state_dict(), getattr(expected, part).state_dict()
        assert state.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(state[name], tensor), name
    torch.testing.assert_close(clip(pipe), clip(expected), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["baseline", "lossless", "vcut"])
@pytest.mark.parametrize("form", ["mine.safetensors", "diffusers", "sgm.safetensors"])
def test_every_layout_and_preset(folder: Path, form: str, preset: str) -> None:
    """Each says all that its shapes do not: heads, size, scale."""
    same(vcut.load(folder / form, preset=preset), micro(preset))


def test_a_vcut_file_carries_its_configuration(folder: Path) -> None:
    config = vcut.load(folder / "mine.safetensors", preset="baseline").config
    assert config == CONFIG
    assert SVDConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_folded_file_cannot_be_unfolded(folder: Path) -> None:
    folded = folder / "folded.safetensors"
    write(vcut.load(folder / "mine.safetensors", preset="lossless"), folded)
    same(vcut.load(folded, preset="vcut"), micro())
    with pytest.raises(ConfigError, match=r"tca='linear_cached' cannot become tca=True.*--preset lossless"):
        vcut.load(folded, preset="baseline")
    cut = folder / "cut.safetensors"
    write(micro("vcut"), cut)
    with pytest.raises(ConfigError, match=r"tca=False cannot become tca='linear_cached'.*take preset vcut"):
        vcut.load(cut, preset="lossless")


@pytest.mark.parametrize("name", ["w.SAFETENSORS", "0" * 64, "weights", "w.safetensors.part"])
def test_a_file_of_weights_may_have_any_name(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((folder / "mine.safetensors").read_bytes())
    assert vcut.loading.find(str(tmp_path / name)).config == CONFIG


@pytest.mark.parametrize("load", [vcut.load, vcut.load_unet, vcut.loading.load_clip])
def test_tensors_of_unknown_names_are_passed_over_when_asked(
    folder: Path, tmp_path: Path, load: Callable[..., object]
) -> None:
    path = tmp_path / "stray.safetensors"
    with safe_open(folder / "mine.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file({**load_file(folder / "mine.safetensors"), "stray": torch.zeros(2)}, path, metadata)
    with pytest.raises(CheckpointError, match="stray: expected no tensor of this name"):
        load(path)
    assert load(path, ignore_unknown=True)


@pytest.mark.parametrize("name", ["mine.safetensors", "sgm.safetensors", "diffusers", "tiny"])
def test_what_is_on_the_disk_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("something was looked for in the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    assert vcut.load(name if name == "tiny" else folder / name, device="cpu").unet is not None


def test_modes_may_be_chosen_one_by_one(folder: Path) -> None:
    pipe = vcut.load(folder / "mine.safetensors", preset="vcut", tca=True, sca=False)
    assert (pipe.unet.config.tca, pipe.unet.config.sca) == (True, False)
    assert pipe.preset.cut_step(25) == 17


def test_a_float64_or_half_model_is_cast_on_the_way(folder: Path) -> None:
    pipe = vcut.load(folder / "mine.safetensors", dtype=torch.bfloat16)
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in pipe.clip.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in pipe.vae.parameters()} == {torch.float32}


def test_a_configuration_that_does_not_fit_is_refused(folder: Path) -> None:
    other = dataclasses.replace(CONFIG, unet=dataclasses.replace(CONFIG.unet, layers=2))
    with pytest.raises(CheckpointError, match=r"mine\.safetensors is not of the configuration 'mine'"):
        vcut.load(folder / "mine.safetensors", config=other)


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="no preset 'quick': choose one of baseline, lossless, vcut, fast"):
        vcut.load("tiny", preset="quick")
    with pytest.raises(CheckpointError, match="svd-xt-1-1"):
        vcut.load("svd-xl")


def test_the_published_configurations() -> None:
    assert (SVD.frames, SVD_XT.frames, SVD_XT_1_1.frames) == (14, 25, 25)
    assert {c.stride for c in (SVD, SVD_XT, SVD_XT_1_1)} == {64}
    assert SVD.unet == SVD_XT.unet == SVD_XT_1_1.unet


def test_tiny_says_what_it_is() -> None:
    assert "the small model in the box" in (vcut.load("tiny").note or "")
    assert vcut.load("tiny", preset="baseline").config == TINY


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    vcut.load("tiny")
    assert torch.equal(torch.rand(3), expected)
