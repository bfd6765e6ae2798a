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
from vcut.config import PRESETS, TINY
from vcut.loading import BOXED
from vcut.pipeline import Pipeline
from vcut.unet import fold

pytestmark = pytest.mark.slow  # a minute together: the model runs in every preset

CLIPS, STEPS = 3, 12
DOUBLE = {"dtype": torch.float64, "vae_dtype": torch.float64}


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return vcut.load("tiny", preset="baseline", device="cpu")


def scenes(*kinds: str, motion_bucket: int = 127) -> world.Scenes:
    """Some of these kinds, held out, with one shape each; all ask for the same speed at the model's rate."""
    drawn = world.draw(256, HELD_OUT_SEED, TINY.width)
    wanted = measure.is_kind(drawn, *kinds)[:, 0] & (drawn.present.sum(1) == 1)
    return drawn[wanted][:CLIPS].asked(motion_bucket=motion_bucket, fps=TINY.fps)


def clips(
    model: Pipeline, asked: world.Scenes, preset: str = "baseline", steps: int = STEPS, **options: object
) -> Tensor:
    form = PRESETS[preset]
    pipe = dataclasses.replace(model, unet=fold(model.unet, tca=form.tca, sca=form.sca), preset=form)
    settings = {"steps": steps, "motion_bucket": int(asked.motion_bucket[0]), **options}
    return pipe.generate(first_frames(asked, TINY.width), seed=0, **settings)  # type: ignore[arg-type]


def last_error(frames: Tensor, asked: world.Scenes) -> float:
    """Mean distance of the shape from where it should be at the last frame, in widths."""
    seen = world.see(frames, asked).position[:, 0]
    true = world.track(asked, frames.shape[1]).position[:, 0]
    return measure.position_errors(seen, true)[..., -1].mean().item()


@pytest.fixture(scope="module", params=["baseline", "vcut"])
def moving(model: Pipeline, request: pytest.FixtureRequest) -> Tensor:
    """Clips of shapes that change place."""
    return clips(model, scenes(*world.MOVING), request.param)


def test_it_fits_into_the_package() -> None:
    assert BOXED.stat().st_size <= 16e6


def test_shapes_go_where_they_should(moving: Tensor) -> None:
    asked = scenes(*world.MOVING)
    static = last_error(measure.static_control(asked, TINY.frames, TINY.width), asked)
    assert last_error(moving, asked) < 0.1
    assert static > 0.2


def test_every_frame_is_finite_and_the_first_is_the_picture(moving: Tensor) -> None:
    assert torch.isfinite(moving).all()
    assert measure.psnr(moving[:, :1], world.render(scenes(*world.MOVING), 1, TINY.width)).mean() > 25


def test_the_motion_bucket_is_the_speed(model: Pipeline) -> None:
    slow, fast = (scenes("disc", motion_bucket=bucket)[:1] for bucket in (50, 150))
    gone = [
        measure.path_length(world.see(clips(model, asked), asked).position)[:, 0].mean().item()
        for asked in (slow, fast)
    ]
    assert 2 < gone[1] / gone[0] < 4


def test_lossless_equals_baseline_to_rounding_and_the_embedding_matters(model: Pipeline) -> None:
    asked = scenes(*world.KINDS)[:1]
    baseline = clips(model, asked)
    assert (clips(model, asked, "lossless") - baseline).abs().max() < 1e-3
    assert (clips(model, asked, embedding=()) - baseline).abs().max() > 0.05


def test_that_rounding_is_all_shows_in_float64() -> None:
    asked = scenes(*world.KINDS)[:1]
    exact = vcut.load("tiny", preset="baseline", device="cpu", **DOUBLE)
    baseline, lossless = (clips(exact, asked, preset, steps=3) for preset in ("baseline", "lossless"))
    torch.testing.assert_close(lossless, baseline, rtol=0, atol=1e-6)
