"""The synthetic world is a function of its seed, and what is rendered is what is said to be there."""

from __future__ import annotations

import math

import pytest
import torch

from training import world

FRAMES, SIDE = 8, 64


def alone(kind: str, n: int = 12, **asked: float) -> world.Scenes:
    """Scenes whose one shape is of this kind."""
    scenes = world.draw(24 * n, seed=7, side=SIDE)
    return scenes[(scenes.kind == torch.tensor([world.KINDS.index(kind), world.ABSENT])).all(1)][:n].asked(
        **asked
    )


def in_pairs(n: int = 60) -> world.Scenes:
    """Scenes of two shapes."""
    scenes = world.draw(4 * n, seed=8, side=SIDE)
    return scenes[scenes.present.all(1)][:n]


def test_a_seed_is_a_world() -> None:
    one, same, other = (world.render(world.draw(5, seed, SIDE), 3, SIDE) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one - other).abs().mean() > 0.01


def test_clips_in_parts_are_the_clips() -> None:
    scenes, pixels = world.clips(5, seed=3, frames=2, side=SIDE, part=2)
    whole = (world.render(scenes, 2, SIDE) * 255).round().byte()
    assert torch.equal(pixels.permute(0, 1, 4, 2, 3), whole)


def test_a_small_picture_has_one_shape_and_a_large_one_two_as_often_as_said() -> None:
    assert world.draw(100, seed=0, side=32).present.shape == (100, 1)
    assert world.draw(100, seed=0, side=32).present.all()
    present = world.draw(4000, seed=0, side=SIDE).present
    assert present[:, 0].all()
    assert present[:, 1].float().mean().item() == pytest.approx(world.TWO, abs=0.03)


@pytest.mark.parametrize("kind", world.KINDS)
def test_the_shape_is_seen_where_it_is(kind: str) -> None:
    scenes = alone(kind)
    true = world.track(scenes, FRAMES).position
    sight = world.see(world.render(scenes, FRAMES, SIDE), scenes)
    assert (sight.position - true)[:, 0].norm(dim=2).max() * SIDE < 0.35  # pixels
    assert sight.position[:, 1].isnan().all()  # the absent one


def test_each_of_two_shapes_is_seen_where_it_is() -> None:
    """The one behind while they are apart, to half a pixel; the one in front always."""
    scenes = in_pairs()
    path = world.track(scenes, FRAMES)
    off = (world.see(world.render(scenes, FRAMES, SIDE), scenes).position - path.position).norm(dim=3) * SIDE
    apart = (path.position[:, 0] - path.position[:, 1]).norm(dim=2) > 1.5 * path.radius.sum(1)
    assert apart.float().mean() > 0.3
    assert off[:, 0].max() < 0.5
    assert off[:, 1][apart].max() < 0.5


def test_two_shapes_start_apart_and_differ_in_colour() -> None:
    scenes = in_pairs()
    assert ((scenes.hue[:, 0] - scenes.hue[:, 1]) % 6).min() >= 2
    assert ((scenes.hue[:, 1] - scenes.hue[:, 0]) % 6).min() >= 2
    assert ((scenes.start[:, 0] - scenes.start[:, 1]).norm(dim=1) > scenes.radius.sum(1)).float().mean() > 0.9


def test_the_first_shape_is_in_front() -> None:
    scenes = in_pairs()
    cover = world.coverage(scenes, world.track(scenes, 1), SIDE)[:, :, 0]
    picture = world.render(scenes, 1, SIDE)[:, 0].movedim(1, 3)
    covered = cover[:, 0] == 1
    wanted = world.colour(scenes)[:, 0].view(-1, 1, 1, 3).expand_as(picture)
    torch.testing.assert_close(picture[covered], wanted[covered])


def test_nothing_is_seen_on_an_empty_background() -> None:
    scenes = world.draw(6, seed=0, side=SIDE)
    empty = world.background(scenes, SIDE).unsqueeze(1)
    assert world.see(empty, scenes).position.isnan().all()


@pytest.mark.parametrize("kind", world.MOVING)
def test_shapes_that_move_stay_in_the_picture(kind: str) -> None:
    scenes = alone(kind, n=60, motion_bucket=world.BUCKETS[1], fps=5)
    position = world.track(scenes, FRAMES).position
    assert position.min() >= 0
    assert position.max() <= 1


def test_the_bar_turns_as_its_track_says() -> None:
    scenes = alone("bar")
    seen, said = (
        world.see(world.render(scenes, FRAMES, SIDE), scenes).angle,
        world.track(scenes, FRAMES).angle,
    )
    off = (seen - said)[:, 0]
    assert torch.minimum(off.remainder(math.pi), (-off).remainder(math.pi)).max() < math.radians(3)


def test_warm_crosses_grow_and_cold_ones_shrink() -> None:
    scenes = alone("cross", n=40)
    area = world.see(world.render(scenes, FRAMES, SIDE), scenes).area[:, 0]
    warm = torch.tensor(world.SENSE)[scenes.hue[:, 0]] > 0
    assert 0 < warm.sum() < len(warm)
    assert (area[warm, -1] > area[warm, 0]).all()
    assert (area[~warm, -1] < area[~warm, 0]).all()


def test_colour_decides_where_a_disc_goes() -> None:
    scenes = alone("disc", n=40, motion_bucket=20, fps=10)  # slow: no edge is met
    away = (world.track(scenes, FRAMES).position[:, :, -1] - scenes.start)[:, 0]
    away = away / away.norm(dim=1, keepdim=True)
    torch.testing.assert_close(away, world.heading(scenes.hue[:, 0]), atol=1e-3, rtol=0)
