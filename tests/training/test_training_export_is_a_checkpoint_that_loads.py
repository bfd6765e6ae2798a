"""The exported file is in the vcut layout, says its own configuration, and every preset can be made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import vcut
from training import config, evaluate, export, measure, world
from vcut.clip import CLIPVisionEncoder
from vcut.unet import UNet
from vcut.vae import VAE


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    told = dataclasses.replace(config.CONFIG, vae=dataclasses.replace(config.CONFIG.vae, scale=0.5))
    export.export(path, told, UNet(told.unet), VAE(told.vae), CLIPVisionEncoder(told.clip))
    return path


def test_it_is_small_enough_for_the_package(exported: Path) -> None:
    assert exported.stat().st_size <= 12e6


def test_it_says_its_configuration(exported: Path) -> None:
    loaded = vcut.load(exported, preset="baseline", device="cpu").config
    assert loaded.vae.scale == 0.5
    assert loaded.unet.levels == config.CONFIG.unet.levels
    assert (loaded.frames, loaded.height, loaded.width) == (8, 32, 32)


@pytest.mark.slow
def test_every_row_of_the_evaluation_runs_from_it_and_lossless_is_baseline(exported: Path) -> None:
    scenes = world.draw(2, seed=4).asked(motion_bucket=127, fps=7)
    made = {}
    for row in evaluate.rows(cuts=(2,), contexts=("mean",)):
        model = vcut.load(exported, preset="baseline", tca=row.tca, sca=row.sca, device="cpu")
        image = evaluate.first_frames(scenes, model.config.width)
        made[row.name] = model.generate(image, seed=[0, 1], steps=2, cut=row.settings.cut)
    assert made["baseline"].shape == (2, 8, 3, 32, 32)
    away = {name: (frames - made["baseline"]).abs().max().item() for name, frames in made.items()}
    assert away["lossless"] < 1e-3  # rounding, as two steps of random weights magnify it
    assert away["tca=False, no cut"] > 20 * max(away["lossless"], 1e-3)


def test_a_weight_too_large_for_the_file_is_refused(tmp_path: Path) -> None:
    told = config.CONFIG
    unet = UNet(told.unet)
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(FloatingPointError, match=r"unet\.conv_in\.weight"):
        export.export(tmp_path / "x.safetensors", told, unet, VAE(told.vae), CLIPVisionEncoder(told.clip))
    assert not list(tmp_path.iterdir())


def test_the_truth_has_no_error_and_controls_have_theirs() -> None:
    clip = CLIPVisionEncoder(config.CONFIG.clip)
    scenes = world.draw(40, seed=6).asked(motion_bucket=127, fps=7)
    with torch.no_grad():
        truth = measure.quality(world.render(scenes, 8), scenes, clip)
        static = measure.quality(measure.static_control(scenes, 8), scenes, clip)
    assert truth.position_last < 0.5
    assert truth.lost == 0
    assert truth.turn < 3
    assert truth.growth < 0.01
    assert static.position_last > 15
    assert static.growth > 0.3
    errors = measure.random_direction_errors(scenes, 8)[measure.is_kind(scenes, *world.MOVING)]
    assert 100 * errors[:, -1].mean() > 15
