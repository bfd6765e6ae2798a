"""Distances of generated clips from the true future, from the static clip, and from each other.

Shapes are looked for in true and in generated clips with the same eye, :func:`training.world.see`: so a shape that
is half hidden in both is no error. Errors leave out frame 0, which is given, and shapes that the true clip hides. One
that the true clip shows and the generated one does not counts as one width off.

Shapes: n clips, m shapes in each, f frames, s the side; pictures [n, f, 3, s, s] in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from training import world
from training.recognise import recognised
from vcut.clip import CLIPVisionEncoder

LOST = 1.0
"""Error of a shape that cannot be found, in widths."""


@dataclass(frozen=True)
class Quality:
    """Quality of a set of clips. Positions are in % of the width, over the clips of kinds that move."""

    position: float  # mean error of frames 1 .. f-1
    position_last: float  # mean error of the last frame
    lost: int  # shapes that the true clip shows and the generated one does not, over all frames
    turn: float  # mean error of the bars' angle at the last frame, degrees, at most 90
    growth: float  # mean |ln| of the crosses' radius over the true one at the last frame
    kind: float  # shapes whose kind is recognised at the last frame, in %
    psnr: float  # dB to the true future
    consistency: float  # equation 7 of the paper on the model's own CLIP tower
    flicker: float  # 1 - mean absolute difference of successive frames, in %


def quality(frames: Tensor, scenes: world.Scenes, clip: CLIPVisionEncoder, classifier: nn.Module) -> Quality:
    """Compare ``frames`` with the true future of ``scenes``; ``classifier`` is :mod:`training.recognise`'s."""
    truth = world.render(scenes, frames.shape[1], frames.shape[-1])
    sight, true = world.see(frames, scenes), world.see(truth, scenes)
    errors = position_errors(sight.position, true.position)[is_kind(scenes, *world.MOVING)]
    return Quality(
        position=100 * errors.nanmean().item(),
        position_last=100 * errors[:, -1].nanmean().item(),
        lost=int((sight.position.isnan() & ~true.position.isnan())[..., 1:, 0].sum()),
        turn=angle_error(sight, true, is_kind(scenes, "bar")),
        growth=radius_error(sight, true, is_kind(scenes, "cross")),
        kind=100 * recognised(classifier, sight, true, scenes),
        psnr=psnr(frames[:, 1:], truth[:, 1:]).mean().item(),
        consistency=100 * consistency(frames, clip),
        flicker=100 * (1 - frames.diff(dim=1).abs().mean().item()),
    )


def is_kind(scenes: world.Scenes, *names: str) -> Tensor:
    """Mask ``[n, m]`` of the shapes that are of one of these kinds."""
    return torch.isin(scenes.kind, torch.tensor([world.KINDS.index(name) for name in names]))


def position_errors(found: Tensor, true: Tensor) -> Tensor:
    """Distances ``[n, m, f - 1]`` of found from true positions, in widths; NaN where there is no true one."""
    errors = (found - true)[..., 1:, :].norm(dim=-1).nan_to_num(LOST)
    return errors.masked_fill(true[..., 1:, 0].isnan(), math.nan)


def angle_error(found: world.Sight, true: world.Sight, chosen: Tensor) -> float:
    """Mean error of the long axis at the last frame, in degrees; a random guess has 45."""
    off = (found.angle - true.angle)[chosen, -1].remainder(math.pi)
    return math.degrees(torch.minimum(off, math.pi - off).nanmean().item())


def radius_error(found: world.Sight, true: world.Sight, chosen: Tensor) -> float:
    """Mean |ln| of the radius over the true one at the last frame, from the areas in sight."""
    area, wanted = found.area[chosen, -1], true.area[chosen, -1]
    return (0.5 * (area.clamp_min(1e-4) / wanted).log().abs())[wanted > 0].mean().item()


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


def static_control(scenes: world.Scenes, frames: int, side: int) -> Tensor:
    """Clips that repeat their first frame."""
    return world.render(scenes, 1, side).expand(-1, frames, -1, -1, -1)


def random_direction_errors(scenes: world.Scenes, frames: int, seed: int = 0) -> Tensor:
    """Errors ``[n, m, f - 1]`` of shapes that go as far as the true ones, but anywhere."""
    path = world.track(scenes, frames).position
    away = path - path[..., :1, :]
    turn = 2 * math.pi * torch.rand(*away.shape[:2], 1, generator=Generator().manual_seed(seed))
    cos, sin = turn.cos(), turn.sin()
    x, y = away.unbind(3)
    turned = path[..., :1, :] + torch.stack([x * cos - y * sin, x * sin + y * cos], dim=3)
    return position_errors(turned, path)


def path_length(position: Tensor) -> Tensor:
    """Mean speed ``[...]`` of shapes at ``position [..., f, 2]``, in widths per frame; hidden frames are left out."""
    return position.diff(dim=-2).norm(dim=-1).nanmean(-1)
