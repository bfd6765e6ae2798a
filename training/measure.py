"""Distances of generated clips from the true future, from the static clip, and from each other.

Shapes are looked for in true and in generated clips with the same eye, :func:`training.world.see`: so a shape that
is half hidden in both is no error. Errors leave out frame 0, which is given, and shapes that the true clip hides. One
that the true clip shows and the generated one does not counts as one width off.

Shapes: n clips, m shapes in each, f frames, s the side; pictures [n, f, 3, s, s] in 0..1.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from training import world
from training.recognise import recognised
from vcut.clip import CLIPVisionEncoder
from vcut.scores import consistency, fidelity

LOST = 1.0
"""Error of a shape that cannot be found, in widths."""


@dataclass(frozen=True)
class Quality:
    """Quality of each clip, ``[n]`` a field; NaN where a measure does not apply. Positions are in % of the width."""

    position: Tensor  # mean error of frames 1 .. f-1, of kinds that move
    position_last: Tensor  # error at the last frame, of kinds that move
    lost: Tensor  # shapes that the true clip shows and the generated one does not, over all frames
    turn: Tensor  # error of the bars' angle at the last frame, degrees, at most 90
    growth: Tensor  # |ln| of the crosses' radius over the true one at the last frame
    kind: Tensor  # shapes whose kind is recognised at the last frame, in %
    psnr: Tensor  # dB to the true future
    consistency: Tensor  # equation 7 of the paper on the model's own CLIP tower
    to_picture: Tensor  # equation 8, likewise
    flicker: Tensor  # 1 - mean absolute difference of successive frames, in %

    def means(self) -> dict[str, float]:
        """Mean of each measure over the clips that it applies to; of ``lost`` the sum."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: values.nansum().item() if name == "lost" else values.nanmean().item()
            for name, values in fields.items()
        }


def quality(frames: Tensor, scenes: world.Scenes, clip: CLIPVisionEncoder, classifier: nn.Module) -> Quality:
    """Compare ``frames`` with the true future of ``scenes``; ``classifier`` is :mod:`training.recognise`'s."""
    truth = world.render(scenes, frames.shape[1], frames.shape[-1])
    sight, true = world.see(frames, scenes), world.see(truth, scenes)
    errors = 100 * position_errors(sight.position, true.position)
    errors = errors.masked_fill(~is_kind(scenes, *world.MOVING).unsqueeze(2), math.nan)
    features = clip.embed(torch.cat([truth[:, :1], frames], dim=1).flatten(0, 1) * 2 - 1)[:, 0]
    features = features.view(len(frames), frames.shape[1] + 1, -1)
    own = [consistency.consistency(each[1:], clip=False) for each in features]
    picture = [consistency.reference_consistency(each[1:], each[0], clip=False) for each in features]
    return Quality(
        position=errors.flatten(1).nanmean(1),
        position_last=errors[..., -1].nanmean(1),
        lost=(sight.position.isnan() & ~true.position.isnan())[..., 1:, 0].sum((1, 2)),
        turn=angle_errors(sight, true, is_kind(scenes, "bar")).nanmean(1),
        growth=radius_errors(sight, true, is_kind(scenes, "cross")).nanmean(1),
        kind=100 * recognised(classifier, sight, true, scenes),
        psnr=psnr(frames[:, 1:], truth[:, 1:]),
        consistency=100 * torch.tensor(own),
        to_picture=100 * torch.tensor(picture),
        flicker=100 * torch.tensor([consistency.flicker(each) for each in frames]),
    )


def is_kind(scenes: world.Scenes, *names: str) -> Tensor:
    """Mask ``[n, m]`` of the shapes that are of one of these kinds."""
    return torch.isin(scenes.kind, torch.tensor([world.KINDS.index(name) for name in names]))


def position_errors(found: Tensor, true: Tensor) -> Tensor:
    """Distances ``[n, m, f - 1]`` of found from true positions, in widths; NaN where there is no true one."""
    errors = (found - true)[..., 1:, :].norm(dim=-1).nan_to_num(LOST)
    return errors.masked_fill(true[..., 1:, 0].isnan(), math.nan)


def angle_errors(found: world.Sight, true: world.Sight, chosen: Tensor) -> Tensor:
    """Errors ``[n, m]`` of the long axis at the last frame, in degrees; a random guess has 45. NaN if not chosen."""
    off = (found.angle - true.angle)[..., -1].remainder(math.pi)
    return torch.minimum(off, math.pi - off).rad2deg().masked_fill(~chosen, math.nan)


def radius_errors(found: world.Sight, true: world.Sight, chosen: Tensor) -> Tensor:
    """|ln| ``[n, m]`` of the radius over the true one at the last frame, from the areas in sight; or NaN."""
    area, wanted = found.area[..., -1], true.area[..., -1]
    errors = 0.5 * (area.clamp_min(1e-4) / wanted).log().abs()
    return errors.masked_fill(~chosen | (wanted == 0), math.nan)


def psnr(found: Tensor, true: Tensor) -> Tensor:
    """PSNR of every clip, ``[n]`` in dB."""
    return torch.tensor([fidelity.psnr(a, b) for a, b in zip(found, true, strict=True)])


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
