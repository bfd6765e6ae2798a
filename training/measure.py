"""Distances of generated clips from the true future, from the static clip, and from each other.

Shapes: n clips, f frames, s the side; pictures [n, f, 3, s, s] in 0..1. Errors leave out frame 0, which is given. A
shape that cannot be found counts as one width off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from training import world
from vcut.clip import CLIPVisionEncoder

LOST = 1.0
"""Error of a shape that cannot be found, in widths."""


@dataclass(frozen=True)
class Quality:
    """Quality of a set of clips. Positions are in % of the width, over the clips of kinds that move."""

    position: float  # mean error of frames 1 .. f-1
    position_last: float  # mean error of the last frame
    lost: int  # frames without a visible shape, among all n (f - 1)
    turn: float  # mean error of the bars' angle at the last frame, degrees, at most 90
    growth: float  # mean |ln| of the crosses' radius over the true one at the last frame
    psnr: float  # dB to the true future
    consistency: float  # equation 7 of the paper on the model's own CLIP tower
    flicker: float  # 1 - mean absolute difference of successive frames, in %


def quality(frames: Tensor, scenes: world.Scenes, clip: CLIPVisionEncoder) -> Quality:
    """Compare ``frames`` with the true future of ``scenes``."""
    count = frames.shape[1]
    path = world.track(scenes, count)
    sight = world.see(frames, scenes)
    errors = position_errors(sight.position, path.position)
    moving = is_kind(scenes, *world.MOVING)
    truth = world.render(scenes, count, frames.shape[-1])
    return Quality(
        position=100 * errors[moving].mean().item(),
        position_last=100 * errors[moving, -1].mean().item(),
        lost=int(sight.position[:, 1:].isnan().any(-1).sum()),
        turn=angle_error(sight, path, is_kind(scenes, "bar")),
        growth=radius_error(frames, truth, scenes),
        psnr=psnr(frames[:, 1:], truth[:, 1:]).mean().item(),
        consistency=100 * consistency(frames, clip),
        flicker=100 * (1 - frames.diff(dim=1).abs().mean().item()),
    )


def is_kind(scenes: world.Scenes, *names: str) -> Tensor:
    """Mask ``[n]`` of the scenes that show one of these kinds."""
    return torch.isin(scenes.kind, torch.tensor([world.KINDS.index(name) for name in names]))


def position_errors(found: Tensor, true: Tensor) -> Tensor:
    """Distances ``[n, f - 1]`` of found from true positions, in widths."""
    return (found - true)[:, 1:].norm(dim=2).nan_to_num(LOST)


def angle_error(sight: world.Sight, path: world.Track, chosen: Tensor) -> float:
    """Mean error of the long axis at the last frame, in degrees; a random guess has 45."""
    off = (sight.angle - path.angle)[chosen, -1].remainder(math.pi)
    return math.degrees(torch.minimum(off, math.pi - off).mean().item())


def radius_error(frames: Tensor, truth: Tensor, scenes: world.Scenes) -> float:
    """Mean |ln| of the crosses' radius over the true one at the last frame, from the areas in sight."""
    chosen = is_kind(scenes, "cross").nonzero().squeeze(1)
    area, true = (world.see(clips[chosen, -1:], scenes[chosen]).area for clips in (frames, truth))
    return (0.5 * (area.clamp_min(1e-4) / true).log().abs()).mean().item()


def psnr(found: Tensor, true: Tensor) -> Tensor:
    """PSNR of every clip, ``[n]`` in dB."""
    return -10 * (found - true).square().mean((1, 2, 3, 4)).clamp_min(1e-10).log10()


def consistency(frames: Tensor, clip: CLIPVisionEncoder) -> float:
    """Equation 7 of the paper: ``1/(f-1) sum_t 1/2 (<c_1, c_t> + <c_(t-1), c_t>)``, c a frame's unit embedding."""
    n, f = frames.shape[:2]
    c = torch.nn.functional.normalize(clip.embed(frames.flatten(0, 1) * 2 - 1)[:, 0], dim=1).view(n, f, -1)
    first = (c[:, :1] * c[:, 1:]).sum(2)
    previous = (c[:, :-1] * c[:, 1:]).sum(2)
    return (0.5 * (first + previous)).mean().item()


def static_control(scenes: world.Scenes, frames: int, side: int = 32) -> Tensor:
    """Clips that repeat their first frame."""
    return world.render(scenes, 1, side).expand(-1, frames, -1, -1, -1)


def random_direction_errors(scenes: world.Scenes, frames: int, seed: int = 0) -> Tensor:
    """Errors ``[n, f - 1]`` of a shape that goes as far as the true one, but anywhere."""
    path = world.track(scenes, frames).position
    away = path - path[:, :1]
    turn = 2 * math.pi * torch.rand(len(scenes), 1, generator=Generator().manual_seed(seed))
    cos, sin = turn.cos(), turn.sin()
    x, y = away.unbind(2)
    turned = path[:, :1] + torch.stack([x * cos - y * sin, x * sin + y * cos], dim=2)
    return position_errors(turned, path)


def path_length(position: Tensor) -> Tensor:
    """Mean speed ``[n]`` of shapes at ``position [n, f, 2]``, in widths per frame."""
    return position.diff(dim=1).norm(dim=2).mean(1)
