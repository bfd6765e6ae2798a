"""Twice the motion bucket is twice the time between frames, twice the frames per second half of it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import world

SCENES = world.draw(200, seed=5, side=64)


def position(bucket: float, fps: float, frames: int = 9) -> torch.Tensor:
    return world.track(SCENES.asked(motion_bucket=bucket, fps=fps), frames).position


@settings(max_examples=25, deadline=None)
@given(bucket=st.integers(8, 112), fps=st.integers(4, 12))
def test_every_second_frame_is_the_clip_at_double_speed(bucket: int, fps: int) -> None:
    slow = position(bucket, fps)
    torch.testing.assert_close(slow[:, :, ::2], position(2 * bucket, fps, frames=5), atol=1e-5, rtol=0)
    torch.testing.assert_close(slow, position(2 * bucket, 2 * fps), atol=1e-5, rtol=0)


def test_a_drifting_disc_goes_as_far_as_asked() -> None:
    disc = SCENES.kind == world.KINDS.index("disc")
    for bucket, fps in ((20, 10), (40, 10), (20, 5)):  # slow: no edge is met
        path = world.track(SCENES.asked(motion_bucket=bucket, fps=fps), 4).position[disc]
        steps = path.diff(dim=1).norm(dim=2)
        torch.testing.assert_close(
            steps, torch.full_like(steps, world.DRIFT * bucket / 127 / fps), atol=1e-5, rtol=0
        )
