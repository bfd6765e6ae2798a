"""``vcut.save`` and ``vcut.load`` are each other's inverse, for whole models and for a UNet alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro
from torch import nn

import vcut
from vcut.config import PRESETS
from vcut.errors import ConfigError, OutputExistsError
from vcut.layers import pack
from vcut.unet import fold


def same(found: nn.Module, expected: nn.Module) -> None:
    state, wanted = found.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("preset", ["baseline", "lossless", "vcut"])
def test_a_whole_model(preset: str, tmp_path: Path) -> None:
    model = micro(preset, dtype=torch.bfloat16)
    vcut.save(model, tmp_path / "a.safetensors")
    loaded = vcut.load(tmp_path / "a.safetensors", preset=PRESETS[preset], dtype=torch.bfloat16, device="cpu")
    assert loaded.config == model.config
    for part in ("unet", "vae", "clip"):
        same(getattr(loaded, part), getattr(model, part))


def test_a_unet_alone(tmp_path: Path) -> None:
    unet = micro("lossless").unet
    vcut.save(unet, tmp_path / "unet.safetensors")
    loaded = vcut.load_unet(tmp_path / "unet.safetensors", device="cpu")
    assert loaded.config == unet.config
    same(loaded, unet)


def test_the_configuration_is_that_of_the_unet_that_is_there(tmp_path: Path) -> None:
    model = micro("baseline")
    model = dataclasses.replace(model, unet=fold(model.unet, tca=False, sca="linear_cached"))
    vcut.save(model, tmp_path / "a.safetensors")
    same(vcut.load(tmp_path / "a.safetensors", device="cpu").unet, model.unet)


def test_a_model_may_replace_the_file_that_it_came_from(tmp_path: Path) -> None:
    vcut.save(micro(), path := tmp_path / "a.safetensors")
    model = vcut.load(path, device="cpu")
    with pytest.raises(OutputExistsError):
        vcut.save(model, path)
    model.unet.conv_out.bias.data.add_(1)
    vcut.save(model, path, overwrite=True)
    same(vcut.load(path, device="cpu").unet, model.unet)


def test_what_cannot_be_saved_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = micro()
    cases: list[tuple[Any, str, str]] = [
        (model, "a.ckpt", "must end in .safetensors"),
        (model.vae, "a.safetensors", "model must be a Pipeline or UNet, got VAE"),
        (None, "a.safetensors", "got NoneType"),
        (micro().unet.to("meta"), "a.safetensors", "meta device: there are none to save"),
    ]
    partly = micro()
    partly.vae.to("meta")
    cases.append((partly, "a.safetensors", "meta device: there are none to save"))
    packed = micro()
    if pack(packed.vae):
        cases.append((packed, "a.safetensors", "load the model without pack=True to save it"))
    with pytest.raises(ConfigError, match="path must be a str or PathLike, got int"):
        vcut.save(model, 3)  # type: ignore[arg-type]
    for given, name, says in cases:
        with pytest.raises(ConfigError, match=says):
            vcut.save(given, tmp_path / name)
    assert not list(tmp_path.iterdir())
