"""``vcut audit``: a table or JSON; exit code 0 if the identity holds, 1 if not, 2 if there is nothing to audit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vcut import cli, loading
from vcut.config import Level, UNetConfig
from vcut.unet import UNet
from weights_tools.cli import main as weights
from weights_tools.remap import to_layout
from weights_tools.structure import Layout

Command = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(["audit", *words]) == 0
        return capsys.readouterr().out

    return run


def test_the_tiny_model_by_default(command: Command) -> None:
    lines = command().splitlines()
    assert sum(".cross" in line for line in lines) == 8
    assert "the identity holds" in lines[-1]
    assert "124,416 of" in lines[-1]


@pytest.mark.parametrize(("preset", "rows"), [("baseline", 8), ("lossless", 8), ("vcut", 4)])
def test_json_in_any_preset(command: Command, preset: str, rows: int) -> None:
    data = json.loads(command("tiny", "--preset", preset, "--json"))
    assert len(data["layers"]) == rows
    assert data["holds"] is True
    assert (data["worst_deviation"] is None) == (preset != "baseline")


def test_the_seed_decides_what_is_drawn(command: Command) -> None:
    assert command("--seed", "1") == command("--seed", "1")
    assert command("--seed", "1") != command("--seed", "2")


def test_a_picture_gives_the_embedding(command: Command, tmp_path: Path) -> None:
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)).save(
            tmp_path / name
        )
    first, second = (command("--image", str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert "the identity holds" in first
    assert first != second != command()


def test_a_bad_picture_is_found_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert cli.main(["audit", "--image", "missing.png"]) == 2
    assert capsys.readouterr().err == "vcut: error: missing.png: no such file\n"


def test_without_a_picture_the_unet_alone_is_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the whole model was loaded"))
    assert "the identity holds" in command()


def test_a_file_with_a_picture_takes_the_options_of_reading(command: Command) -> None:
    picture = str(Path(__file__).parents[2] / "examples" / "disc.png")
    assert "the identity holds" in command(str(loading.BOXED), "--image", picture, "--ignore-unknown")


def test_a_folder_of_a_unet_alone_will_do(command: Command, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert weights(["convert", str(loading.BOXED), str(whole), "--to", "diffusers"]) == 0
    report = json.loads(command(str(whole / "unet"), "--json"))
    assert report["layers"] == json.loads(command("tiny", "--json"))["layers"]


@pytest.mark.parametrize(("layout", "prefix"), [("vcut", "unet."), ("sgm", "model.diffusion_model.")])
def test_a_file_of_a_unet_alone_will_do(
    command: Command, tmp_path: Path, layout: Layout, prefix: str
) -> None:
    config = UNetConfig(levels=(Level(64, 1), Level(128, 2)), layers=1, context_dim=32, time_id_dim=32)
    state = to_layout(UNet(config).state_dict(), "unet", layout)
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "unet.safetensors")
    report = json.loads(command(str(tmp_path / "unet.safetensors"), "--json"))
    assert report["holds"]
    assert len(report["layers"]) == 14


def test_a_fault_is_exit_code_1_after_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is still printed; the line on stderr names the model and the first layer at fault."""
    unet = loading.load_unet("tiny", device="cpu")
    layer = unet.get_submodule("down.1.layers.0.transformer.temporal.0.cross")
    layer.register_forward_hook(lambda _m, _a, out: out + 0.01 * torch.ones_like(out))
    monkeypatch.setattr(loading, "load_unet", lambda *_, **__: unet)
    assert cli.main(["audit"]) == 1
    out, err = capsys.readouterr()
    assert "THE IDENTITY DOES NOT HOLD" in out
    assert re.fullmatch(
        r"vcut: fault: tiny: 1 of 8 .*down\.1\.layers\.0\.transformer\.temporal\.0\.cross\n", err
    )


def test_what_cannot_be_audited_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert cli.main(["audit", str(tmp_path / "broken.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("vcut: error: ")
