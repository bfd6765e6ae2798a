"""A small world whose future is known: one shape on a textured background, seen for a few frames.

The first frame and the micro-conditioning decide everything that follows. The kind of the shape says how it moves,
and its colour says which way. ``motion_bucket`` says how fast it moves, and ``fps`` how far apart in time the frames
are. One unit of the world's time, u, is a second at motion bucket 127, so frame k of a clip is at

    u = motion_bucket / 127 * k / fps

    kind      moves                                                    colour decides
    disc      drifts at constant speed, reflected by the edges         direction, 60 degrees per hue
    square    falls: accelerates from rest, stops at the edge          direction
    triangle  bounces: hops along the ground                           left or right
    ring      orbits the middle of the picture                         sense
    bar       spins in place                                           sense
    cross     grows or shrinks in place                                which

Everything is a function of a seed and of nothing else. Lengths are fractions of the picture's width.
Shapes: n scenes, f frames, s the side of the square picture; x is to the right, y down.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Generator, Tensor

KINDS = ("disc", "square", "triangle", "ring", "bar", "cross")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
PALETTE = (
    (0.90, 0.12, 0.12),
    (0.92, 0.84, 0.10),
    (0.10, 0.70, 0.16),
    (0.10, 0.84, 0.88),
    (0.14, 0.26, 0.94),
    (0.86, 0.14, 0.78),
)
SENSE = (1.0, 1.0, -1.0, -1.0, -1.0, 1.0)
"""Sense of each hue: warm colours turn clockwise, hop to the right and grow; cold ones do the opposite."""

MOVING = ("disc", "square", "triangle", "ring")
"""Kinds whose position changes."""

BUCKETS = (16, 224)
RATES = (5, 10)
"""Smallest and largest motion bucket and frames per second of a drawn scene."""

DRIFT = 0.32  # widths per unit of time
FALL = 0.64  # widths per unit of time squared
HOP_LENGTH, HOP_HEIGHT = 0.24, 0.26  # widths; one hop lasts one unit of time
ORBIT = 1.5  # radians per unit of time
SPIN = 2.0
GROWTH = 0.8  # of the radius, per unit of time
LARGEST = 0.32  # radius at which growth ends


@dataclass(frozen=True)
class Scenes:
    """Scenes of n clips: everything that decides their futures, the first frames and the micro-conditioning."""

    kind: Tensor  # [n] index into KINDS
    hue: Tensor  # [n] index into HUES
    start: Tensor  # [n, 2] x, y of the shape's centre at frame 0
    radius: Tensor  # [n] at frame 0
    angle: Tensor  # [n] at frame 0, radians
    ground: Tensor  # [n, 3] mean colour of the background
    slope: Tensor  # [n, 3, 2] its gradient
    waves: Tensor  # [n, WAVES, 4] gratings: wave number x, y (cycles per width), phase, amplitude
    motion_bucket: Tensor  # [n]
    fps: Tensor  # [n]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: Tensor | slice) -> Scenes:
        """The chosen scenes, still a batch."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def asked(self, *, motion_bucket: float | None = None, fps: float | None = None) -> Scenes:
        """The same first frames with another speed or time step."""
        changes = {"motion_bucket": motion_bucket, "fps": fps}
        return dataclasses.replace(
            self, **{k: torch.full_like(self.radius, v) for k, v in changes.items() if v is not None}
        )


@dataclass(frozen=True)
class Track:
    """The shape's place, radius and angle at every frame."""

    position: Tensor  # [n, f, 2]
    radius: Tensor  # [n, f]
    angle: Tensor  # [n, f]


WAVES = 2


def draw(n: int, seed: int) -> Scenes:
    """Draw n random scenes. The same n and seed give the same scenes; another n gives others."""
    g = Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    kind = torch.randint(len(KINDS), (n,), generator=g)
    hue = torch.randint(len(HUES), (n,), generator=g)
    radius = uniform(0.14, 0.18)
    jitter = uniform(-0.2, 0.2, 2)
    # Discs and squares start a little upstream, so that they have room. The jitter hides which way that is.
    start = 0.5 + jitter - 0.1 * heading(hue) * (kind < 2).unsqueeze(1)
    around = uniform(0, 2 * math.pi)
    orbiting = 0.5 + uniform(0.2, 0.3, 1) * torch.stack([around.cos(), around.sin()], dim=1)
    hopping = torch.stack([0.5 + jitter[:, 0], 0.72 + 0.5 * jitter[:, 1]], dim=1)
    start = torch.where((kind == KINDS.index("ring")).unsqueeze(1), orbiting, start)
    start = torch.where((kind == KINDS.index("triangle")).unsqueeze(1), hopping, start)
    margin = radius.unsqueeze(1)
    grey = uniform(0.35, 0.6, 1)
    direction = uniform(0, 2 * math.pi, WAVES)
    cycles = uniform(0.8, 2.2, WAVES)
    return Scenes(
        kind=kind,
        hue=hue,
        start=torch.minimum(torch.maximum(start, margin), 1 - margin),
        radius=radius,
        angle=uniform(0, math.pi) * (kind == KINDS.index("bar")),
        ground=grey + uniform(-0.06, 0.06, 3),
        slope=uniform(-0.12, 0.12, 1, 2) + uniform(-0.04, 0.04, 3, 2),
        waves=torch.stack(
            [
                cycles * direction.cos(),
                cycles * direction.sin(),
                uniform(0, 2 * math.pi, WAVES),
                uniform(0.015, 0.045, WAVES),
            ],
            dim=2,
        ),
        motion_bucket=torch.randint(BUCKETS[0], BUCKETS[1] + 1, (n,), generator=g).float(),
        fps=torch.randint(RATES[0], RATES[1] + 1, (n,), generator=g).float(),
    )


def heading(hue: Tensor) -> Tensor:
    """The direction ``[n, 2]`` that a colour stands for: red to the right, then 60 degrees clockwise each."""
    angle = hue * (math.pi / 3)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def times(scenes: Scenes, frames: int) -> Tensor:
    """The world's time u of every frame, ``[n, f]``."""
    return (scenes.motion_bucket / 127 / scenes.fps).unsqueeze(1) * torch.arange(frames)


def track(scenes: Scenes, frames: int) -> Track:
    """The true future of the scenes: the shape's place, radius and angle at every frame."""
    u = times(scenes, frames)
    start = scenes.start.unsqueeze(1)  # [n, 1, 2]
    radius = scenes.radius.unsqueeze(1).expand_as(u)
    angle = scenes.angle.unsqueeze(1).expand_as(u)
    sense = torch.tensor(SENSE)[scenes.hue].unsqueeze(1)  # [n, 1]
    direction = heading(scenes.hue).unsqueeze(1)
    margin = scenes.radius.view(-1, 1, 1)

    def stack(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y], dim=2)

    def turned(by: Tensor) -> Tensor:
        arm = start - 0.5
        cos, sin = by.cos(), by.sin()
        return 0.5 + stack(arm[..., 0] * cos - arm[..., 1] * sin, arm[..., 0] * sin + arm[..., 1] * cos)

    along = u.unsqueeze(2)
    drift = reflect(start + DRIFT * direction * along, margin)
    fall = start + 0.5 * FALL * direction * along**2
    fall = torch.minimum(torch.maximum(fall, margin), 1 - margin)
    hop = stack(
        reflect(start[..., 0] + HOP_LENGTH * sense * u, margin[..., 0]),
        start[..., 1] - HOP_HEIGHT * (math.pi * u).sin().abs(),
    )
    still = start.expand(-1, frames, -1)
    choices = torch.stack([drift, fall, hop, turned(sense * ORBIT * u), still, still])  # [k, n, f, 2]

    size = torch.where(sense > 0, 1 + GROWTH * u, 1 / (1 + GROWTH * u))
    grown = torch.minimum(radius * size, torch.tensor(LARGEST))
    is_bar = (scenes.kind == KINDS.index("bar")).unsqueeze(1)
    is_cross = (scenes.kind == KINDS.index("cross")).unsqueeze(1)
    return Track(
        position=choices[scenes.kind, torch.arange(len(scenes))],
        radius=torch.where(is_cross, grown, radius),
        angle=torch.where(is_bar, angle + sense * SPIN * u, angle),
    )


def reflect(x: Tensor, margin: Tensor) -> Tensor:
    """Fold a straight path into ``margin .. 1 - margin``, as edges that bounce do."""
    room = 1 - 2 * margin
    return margin + room - ((x - margin).remainder(2 * room) - room).abs()


def background(scenes: Scenes, side: int = 32) -> Tensor:
    """The picture without its shape, ``[n, 3, s, s]`` in 0..1: a gradient and two gratings."""
    y, x = grid(side)
    centred = torch.stack([x, y]) - 0.5
    slope = torch.einsum("ncd,dij->ncij", scenes.slope, centred)
    kx, ky, phase, amplitude = (rearrange(t, "n w -> n w 1 1") for t in scenes.waves.unbind(2))
    texture = (amplitude * (2 * math.pi * (kx * x + ky * y) + phase).sin()).sum(1, keepdim=True)
    return (scenes.ground.view(-1, 3, 1, 1) + slope + texture).clamp(0, 1)


def colour(scenes: Scenes) -> Tensor:
    """Colours of the shapes, ``[n, 3]`` in 0..1."""
    return torch.tensor(PALETTE)[scenes.hue]


def grid(side: int) -> tuple[Tensor, Tensor]:
    """Y and x of the pixel centres, ``[s, s]`` each."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return y, x


def coverage(scenes: Scenes, path: Track, side: int = 32) -> Tensor:
    """Share of every pixel that the shape covers, ``[n, f, s, s]`` in 0..1, from its distance, one pixel soft."""
    y, x = grid(side)
    out = torch.zeros(*path.radius.shape, side, side)
    for k, name in enumerate(KINDS):
        chosen = (scenes.kind == k).nonzero().squeeze(1)
        if not len(chosen):
            continue
        px, py = (rearrange(t, "n f -> n f 1 1") for t in path.position[chosen].unbind(2))
        r = rearrange(path.radius[chosen], "n f -> n f 1 1")
        dx, dy = (x - px) / r, (y - py) / r
        if name == "bar":
            turn = rearrange(path.angle[chosen], "n f -> n f 1 1")
            cos, sin = turn.cos(), turn.sin()
            dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
        out[chosen] = (0.5 - distance(name, dx, dy) * r * side).clamp(0, 1)
    return out


def distance(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the edge of a shape of radius about 1 around its centroid, negative inside."""
    if kind == "disc":
        return (x.square() + y.square()).sqrt() - 1
    if kind == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88
    if kind == "triangle":
        return torch.maximum(y, 0.5 * math.sqrt(3) * x.abs() - 0.5 * y) - 0.62
    if kind == "ring":
        return ((x.square() + y.square()).sqrt() - 0.74).abs() - 0.3
    if kind == "bar":
        return torch.maximum(x.abs() - 1.25, y.abs() - 0.42)
    upright = torch.maximum(x.abs() - 0.38, y.abs() - 1.05)
    return torch.minimum(upright, torch.maximum(x.abs() - 1.05, y.abs() - 0.38))


def render(scenes: Scenes, frames: int = 8, side: int = 32) -> Tensor:
    """The true clips, ``[n, f, 3, s, s]`` in 0..1."""
    cover = coverage(scenes, track(scenes, frames), side).unsqueeze(2)
    behind = background(scenes, side).unsqueeze(1)
    return torch.lerp(behind, colour(scenes).view(-1, 1, 3, 1, 1), cover)


@dataclass(frozen=True)
class Sight:
    """The shape as found in frames, to be compared with :class:`Track`."""

    position: Tensor  # [n, f, 2]; not a number where nothing of the shape's colour is left
    area: Tensor  # [n, f] in squared widths
    angle: Tensor  # [n, f] of the long axis, modulo pi


def see(frames: Tensor, scenes: Scenes, threshold: float = 0.35) -> Sight:
    """Find the shape in ``frames [n, f, 3, s, s]``, true or generated.

    Coverage is how far a pixel has moved from the known background towards the shape's colour, from 0 to 1. Coverage
    below ``threshold`` counts as 0, so that faint errors far away do not pull at the centroid.
    """
    side = frames.shape[-1]
    behind = background(scenes, side).unsqueeze(1)
    towards = colour(scenes).view(-1, 1, 3, 1, 1) - behind
    cover = ((frames - behind) * towards).sum(2) / towards.square().sum(2)
    cover = torch.where(cover < threshold, 0, cover.clamp(0, 1))  # [n, f, s, s]
    y, x = grid(side)
    mass = cover.sum((2, 3))
    mean_x, mean_y = ((cover * t).sum((2, 3)) / mass for t in (x, y))
    dx, dy = (t - rearrange(m, "n f -> n f 1 1") for t, m in ((x, mean_x), (y, mean_y)))
    xx, yy, xy = ((cover * t).sum((2, 3)) for t in (dx * dx, dy * dy, dx * dy))
    return Sight(
        position=torch.stack([mean_x, mean_y], dim=2),
        area=mass / side**2,
        angle=0.5 * torch.atan2(2 * xy, xx - yy),
    )


def clips(n: int, seed: int, frames: int = 8, side: int = 32, part: int = 64) -> tuple[Scenes, Tensor]:
    """Draw n scenes and their true clips as bytes ``[n, f, s, s, 3]``, rendered ``part`` at a time."""
    scenes = draw(n, seed)
    pixels = torch.empty(n, frames, side, side, 3, dtype=torch.uint8)
    for i in range(0, n, part):
        found = render(scenes[i : i + part], frames, side)
        pixels[i : i + part] = rearrange((found * 255).round().byte(), "n f c h w -> n f h w c")
    return scenes, pixels
