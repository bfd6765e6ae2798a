"""The names and shapes that weights_tools works with are the state dicts of vcut's modules."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vcut.clip import CLIPVisionEncoder
from vcut.config import SVD_XT, TINY, Mode, SVDConfig
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools.infer import infer
from weights_tools.layouts import Shape, entries
from weights_tools.structure import Part


def assert_same_tensors(module: torch.nn.Module, part: Part) -> None:
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    structure = infer(shapes, part, "vcut")
    assert shapes == {entry.name.vcut: entry.shape for entry in entries(structure)}


@pytest.mark.parametrize("config", [TINY, SVD_XT], ids=lambda config: config.name)
@pytest.mark.parametrize("tca", [True, "linear_cached", False])
@pytest.mark.parametrize("sca", [True, "linear_cached", False])
def test_unet(config: SVDConfig, tca: Mode, sca: Mode) -> None:
    with torch.device("meta"):
        assert_same_tensors(UNet(dataclasses.replace(config.unet, tca=tca, sca=sca)), "unet")


@pytest.mark.parametrize("config", [TINY, SVD_XT], ids=lambda config: config.name)
@pytest.mark.parametrize("temporal", [True, False])
def test_vae(config: SVDConfig, temporal: bool) -> None:
    with torch.device("meta"):
        assert_same_tensors(VAE(dataclasses.replace(config.vae, temporal=temporal)), "vae")


@pytest.mark.parametrize("config", [TINY, SVD_XT], ids=lambda config: config.name)
def test_clip(config: SVDConfig) -> None:
    with torch.device("meta"):
        assert_same_tensors(CLIPVisionEncoder(config.clip), "clip")
