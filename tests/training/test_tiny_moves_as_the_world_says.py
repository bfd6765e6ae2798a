"""The model in the box, on pictures that it was not trained on: shapes move as the world they come from says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import vcut
from training import measure, world
from training.config import HELD_OUT_SEED
from training.evaluate import first_frames
from vcut.config import PRESETS
from vcut.loading import BOXED
from vcut.pipeline import Pipeline
from vcut.unet import fold

pytestmark = pytest.mark.slow  # 20 s together: the model runs in every preset

CLIPS = 4
DOUBLE = {"dtype": torch.float64, "vae_dtype": torch.float64}


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return vcut.load("tiny", preset="baseline", device="cpu")


def scenes(*kinds: str, motion_bucket: int = 127) -> world.Scenes:
    """Of these kinds, held out; all ask for the same speed at 7 frames per second."""
    drawn = world.draw(256, HELD_OUT_SEED, 32)
    return drawn[measure.is_kind(drawn, *kinds)[:, 0]][:CLIPS].asked(motion_bucket=motion_bucket, fps=7)


def clips(model: Pipeline, asked: world.Scenes, preset: str = "baseline", **options: object) -> Tensor:
    form = PRESETS[preset]
    pipe = dataclasses.replace(model, unet=fold(model.unet, tca=form.tca, sca=form.sca), preset=form)
    speed = int(asked.motion_bucket[0])
    return pipe.generate(first_frames(asked, 32), seed=0, fps=7, motion_bucket=speed, **options)  # type: ignore[arg-type]


def last_error(frames: Tensor, asked: world.Scenes) -> float:
    """Mean distance of the shape from where it should be at the last frame, in widths."""
    seen = world.see(frames, asked).position
    return measure.position_errors(seen, world.track(asked, frames.shape[1]).position)[..., -1].mean().item()


@pytest.fixture(scope="module")
def baseline(model: Pipeline) -> Tensor:
    """Of a scene of every kind and more."""
    return clips(model, scenes(*world.KINDS))


def test_it_fits_into_the_package() -> None:
    assert BOXED.stat().st_size <= 12e6


@pytest.mark.parametrize("preset", ["baseline", "vcut"])
def test_shapes_go_where_they_should(model: Pipeline, preset: str) -> None:
    asked = scenes(*world.MOVING)
    frames = clips(model, asked, preset)
    static = last_error(measure.static_control(asked, 8, 32), asked)
    anywhere = measure.random_direction_errors(asked, 8)[..., -1].mean().item()
    assert last_error(frames, asked) < 0.1
    assert static > 0.2
    assert anywhere > 0.2


@pytest.mark.slow
def test_the_motion_bucket_is_the_speed(model: Pipeline) -> None:
    slow, fast = (scenes("disc", motion_bucket=bucket) for bucket in (50, 150))
    gone = [
        measure.path_length(world.see(clips(model, asked), asked).position).mean().item()
        for asked in (slow, fast)
    ]
    assert 2 < gone[1] / gone[0] < 4


def test_lossless_equals_baseline_to_rounding(model: Pipeline, baseline: Tensor) -> None:
    difference = clips(model, scenes(*world.KINDS), "lossless") - baseline
    assert difference.abs().max() < 1e-3


@pytest.mark.slow
def test_that_rounding_is_all_shows_in_float64() -> None:
    asked = scenes(*world.KINDS)[:1]
    baseline, lossless = (
        clips(vcut.load("tiny", preset="baseline", device="cpu", **DOUBLE), asked, preset)
        for preset in ("baseline", "lossless")
    )
    torch.testing.assert_close(lossless, baseline, rtol=0, atol=1e-6)


def test_the_embedding_matters(model: Pipeline, baseline: Tensor) -> None:
    """Without it the clips differ, by far more than rounding."""
    difference = clips(model, scenes(*world.KINDS), embedding=()) - baseline
    assert difference.abs().max() > 0.05


def test_every_frame_is_finite_and_the_first_is_the_picture(model: Pipeline) -> None:
    asked = scenes(*world.KINDS)
    frames = clips(model, asked, "vcut")
    assert torch.isfinite(frames).all()
    assert measure.psnr(frames[:, :1], world.render(asked, 1, 32)).mean() > 25
