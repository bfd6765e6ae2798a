"""The exported file is in the vcut layout, says its own configuration, and every preset can be made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import vcut
from training import evaluate, export, measure, recognise, world
from vcut.clip import CLIPVisionEncoder
from vcut.config import TINY
from vcut.unet import UNet
from vcut.vae import VAE


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    told = dataclasses.replace(TINY, vae=dataclasses.replace(TINY.vae, scale=0.5))
    export.export(path, told, UNet(told.unet), VAE(told.vae), CLIPVisionEncoder(told.clip))
    return path


def test_it_is_small_enough_for_the_package(exported: Path) -> None:
    assert exported.stat().st_size <= 16e6


def test_it_says_its_configuration(exported: Path) -> None:
    loaded = vcut.load(exported, preset="baseline", device="cpu").config
    assert loaded.vae.scale == 0.5
    assert loaded.unet.levels == TINY.unet.levels
    assert (loaded.frames, loaded.height, loaded.width) == (14, 64, 64)


@pytest.mark.slow
def test_the_forms_of_the_evaluation_run_from_it_and_lossless_is_baseline(exported: Path) -> None:
    scenes = world.draw(2, seed=4, side=64).asked(motion_bucket=127, fps=12)
    made = {}
    for row in evaluate.rows()[:4]:  # the others name steps up to 25
        model = vcut.load(exported, preset="baseline", tca=row.tca, sca=row.sca, device="cpu")
        image = evaluate.first_frames(scenes, model.config.width)
        made[row.name] = model.generate(image, settings=row.settings.replace(seed=[0, 1], steps=2))
    assert made["baseline"].shape == (2, 14, 3, 64, 64)
    away = {name: (frames - made["baseline"]).abs().max().item() for name, frames in made.items()}
    assert away["lossless"] < 1e-3  # rounding, as two steps of random weights magnify it
    assert away["tca=False, no cut"] > 20 * max(away["lossless"], 1e-3)


def test_a_weight_too_large_for_the_file_is_refused(tmp_path: Path) -> None:
    told = TINY
    unet = UNet(told.unet)
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(FloatingPointError, match=r"unet\.conv_in\.weight"):
        export.export(tmp_path / "x.safetensors", told, unet, VAE(told.vae), CLIPVisionEncoder(told.clip))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("side", "frames", "fps"), [(32, 8, 7), (64, 14, 12)])
def test_the_truth_has_no_error_and_controls_have_theirs(side: int, frames: int, fps: int) -> None:
    """Among them a classifier of shapes that is right about true ones, and about a shape of another kind wrong."""
    clip = CLIPVisionEncoder(TINY.clip)
    classifier = recognise.classifier(frames, side)
    scenes = world.draw(40, seed=6, side=side).asked(motion_bucket=127, fps=fps)
    clips = world.render(scenes, frames, side)
    with torch.no_grad():
        truth = measure.quality(clips, scenes, clip, classifier).means()
        still = measure.static_control(scenes, frames, side)
        static = measure.quality(still, scenes, clip, classifier).means()
        others = dataclasses.replace(scenes, kind=torch.where(scenes.present, (scenes.kind + 1) % 6, -1))
        other = measure.quality(clips, others, clip, classifier).means()
    assert [truth[name] for name in ("position_last", "lost", "turn", "growth")] == [0, 0, 0, 0]
    assert truth["kind"] > 97  # in one scene a shape is half hidden
    assert static["position_last"] > 15
    assert static["growth"] > 0.3
    assert other["kind"] < 50
    errors = measure.random_direction_errors(scenes, frames)[measure.is_kind(scenes, *world.MOVING)]
    assert 100 * errors[:, -1].mean() > 15
