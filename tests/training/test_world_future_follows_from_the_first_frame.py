"""The synthetic world is a function of its seed, and what is rendered is what is said to be there."""

from __future__ import annotations

import math

import pytest
import torch

from training import world

FRAMES, SIDE = 8, 64


def of_kind(kind: str, n: int = 12, **asked: float) -> world.Scenes:
    scenes = world.draw(12 * n, seed=7)
    return scenes[scenes.kind == world.KINDS.index(kind)][:n].asked(**asked)


def test_a_seed_is_a_world() -> None:
    one, same, other = (world.render(world.draw(5, seed), 3, SIDE) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one - other).abs().mean() > 0.01


def test_clips_in_parts_are_the_clips() -> None:
    scenes, pixels = world.clips(5, seed=3, frames=2, side=SIDE, part=2)
    whole = (world.render(scenes, 2, SIDE) * 255).round().byte()
    assert torch.equal(pixels.permute(0, 1, 4, 2, 3), whole)


@pytest.mark.parametrize("kind", world.KINDS)
def test_the_shape_is_seen_where_it_is(kind: str) -> None:
    scenes = of_kind(kind)
    true = world.track(scenes, FRAMES).position
    seen = world.see(world.render(scenes, FRAMES, SIDE), scenes).position
    assert (seen - true).norm(dim=2).max() * SIDE < 0.35  # pixels


def test_nothing_is_seen_on_an_empty_background() -> None:
    scenes = world.draw(6, seed=0)
    empty = world.background(scenes, SIDE).unsqueeze(1)
    assert world.see(empty, scenes).position.isnan().all()


@pytest.mark.parametrize("kind", world.MOVING)
def test_shapes_that_move_stay_in_the_picture(kind: str) -> None:
    scenes = of_kind(kind, n=60, motion_bucket=world.BUCKETS[1], fps=world.RATES[0])
    position = world.track(scenes, FRAMES).position
    assert position.min() >= 0
    assert position.max() <= 1


def test_the_bar_turns_as_its_track_says() -> None:
    scenes = of_kind("bar")
    off = world.see(world.render(scenes, FRAMES, SIDE), scenes).angle - world.track(scenes, FRAMES).angle
    assert torch.minimum(off.remainder(math.pi), (-off).remainder(math.pi)).max() < math.radians(3)


def test_warm_crosses_grow_and_cold_ones_shrink() -> None:
    scenes = of_kind("cross", n=40)
    area = world.see(world.render(scenes, FRAMES, SIDE), scenes).area
    warm = torch.tensor(world.SENSE)[scenes.hue] > 0
    assert 0 < warm.sum() < len(warm)
    assert (area[warm, -1] > area[warm, 0]).all()
    assert (area[~warm, -1] < area[~warm, 0]).all()


def test_colour_decides_where_a_disc_goes() -> None:
    scenes = of_kind("disc", n=40, motion_bucket=20, fps=10)  # slow: no edge is met
    away = world.track(scenes, FRAMES).position[:, -1] - scenes.start
    away = away / away.norm(dim=1, keepdim=True)
    torch.testing.assert_close(away, world.heading(scenes.hue), atol=1e-3, rtol=0)
