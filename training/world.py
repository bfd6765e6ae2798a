"""A small world whose future is known: one shape or two on a textured background, seen for a few frames.

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

Two shapes do not meet: each follows its own rule, and the first passes in front of the second. Their hues are at
least 120 degrees apart. A picture of under 64 pixels has room for one shape and for coarse texture alone.

Everything is a function of a seed and of nothing else. Lengths are fractions of the picture's width.
Shapes: n scenes, m shapes in each (some absent), f frames, s the side of the square picture; x is to the right, y
down.
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

ABSENT = -1
"""Kind of a shape that is not there."""

BUCKETS = (16, 224)
RATES = {False: (5, 10), True: (8, 16)}
"""Smallest and largest motion bucket, and frames per second without and with room for detail, of a drawn scene."""

ROOM = 64
"""Pixels of the side from which there is room for a second shape and for fine texture."""
TWO = 0.4
"""Share of the scenes with two shapes, where there is room."""

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

    kind: Tensor  # [n, m] index into KINDS, or ABSENT
    hue: Tensor  # [n, m] index into HUES
    start: Tensor  # [n, m, 2] x, y of the shape's centre at frame 0
    radius: Tensor  # [n, m] at frame 0
    angle: Tensor  # [n, m] at frame 0, radians
    ground: Tensor  # [n, 3] mean colour of the background
    slope: Tensor  # [n, 3, 2] its gradient
    waves: Tensor  # [n, w, 4] gratings: wave number x, y (cycles per width), phase, amplitude
    motion_bucket: Tensor  # [n]
    fps: Tensor  # [n]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: Tensor | slice) -> Scenes:
        """The chosen scenes, still a batch."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    @property
    def present(self) -> Tensor:
        """Mask ``[n, m]`` of the shapes that are there."""
        return self.kind != ABSENT

    def asked(self, *, motion_bucket: float | None = None, fps: float | None = None) -> Scenes:
        """The same first frames with another speed or time step."""
        changes = {"motion_bucket": motion_bucket, "fps": fps}
        return dataclasses.replace(
            self, **{k: torch.full_like(self.fps, v) for k, v in changes.items() if v is not None}
        )


@dataclass(frozen=True)
class Track:
    """The shapes' places, radii and angles at every frame."""

    position: Tensor  # [n, m, f, 2]
    radius: Tensor  # [n, m, f]
    angle: Tensor  # [n, m, f]


COARSE = ((0.8, 2.2, 0.015, 0.045),) * 2
FINE = ((5.0, 9.0, 0.02, 0.05),) * 2
"""Smallest and largest cycles per width and amplitude of each grating."""
CANDIDATES = 6
"""Places drawn for a second shape; it stands at the one that is farthest from the first."""


def draw(n: int, seed: int, side: int) -> Scenes:
    """Draw n random scenes for pictures of ``side`` pixels. Another n gives others, not more of the same."""
    g = Generator().manual_seed(seed)
    room = side >= ROOM

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, (n, *shape), generator=g)

    m, candidates = (2, CANDIDATES) if room else (1, 1)
    kind = whole(0, len(KINDS) - 1, m)
    hue = whole(0, len(HUES) - 1, 1)
    radius = uniform(0.14, 0.18, m)
    if room:
        hue = torch.cat([hue, (hue + whole(2, 4, 1)) % len(HUES)], dim=1)
        two = torch.rand(n, generator=g) < TWO
        kind[~two, 1] = ABSENT
        radius[two] *= 0.8
    places = _places(
        kind.unsqueeze(2),
        hue.unsqueeze(2),
        radius.unsqueeze(2),
        uniform(-0.2, 0.2, m, candidates, 2),
        uniform(0, 2 * math.pi, m, candidates),
        uniform(0.2, 0.3, m, candidates),
    )
    away = (places - places[:, :1, :1]).norm(dim=3)  # [n, m, candidates]; 0 for the first shape's first
    away[:, 0] = -away[:, 0]
    start = places.gather(2, away.argmax(2).view(n, m, 1, 1).expand(-1, -1, -1, 2)).squeeze(2)
    grey = uniform(0.35, 0.6, 1)
    gratings = torch.tensor(COARSE + FINE if room else COARSE)
    w = len(gratings)
    direction = uniform(0, 2 * math.pi, w)
    cycles = torch.lerp(gratings[:, 0], gratings[:, 1], uniform(0, 1, w))
    return Scenes(
        kind=kind,
        hue=hue,
        start=start,
        radius=radius,
        angle=uniform(0, math.pi, m) * (kind == KINDS.index("bar")),
        ground=grey + uniform(-0.06, 0.06, 3),
        slope=uniform(-0.12, 0.12, 1, 2) + uniform(-0.04, 0.04, 3, 2),
        waves=torch.stack(
            [
                cycles * direction.cos(),
                cycles * direction.sin(),
                uniform(0, 2 * math.pi, w),
                torch.lerp(gratings[:, 2], gratings[:, 3], uniform(0, 1, w)),
            ],
            dim=2,
        ),
        motion_bucket=whole(*BUCKETS).float(),
        fps=whole(*RATES[room]).float(),
    )


def _places(kind: Tensor, hue: Tensor, radius: Tensor, jitter: Tensor, around: Tensor, arm: Tensor) -> Tensor:
    """Starts ``[..., 2]`` from which shapes of this kind have room to move."""
    # Discs and squares start a little upstream. The jitter hides which way that is.
    start = 0.5 + jitter - 0.1 * heading(hue) * (kind < 2).unsqueeze(-1)
    orbiting = 0.5 + arm.unsqueeze(-1) * torch.stack([around.cos(), around.sin()], dim=-1)
    hopping = torch.stack([0.5 + jitter[..., 0], 0.72 + 0.5 * jitter[..., 1]], dim=-1)
    start = torch.where((kind == KINDS.index("ring")).unsqueeze(-1), orbiting, start)
    start = torch.where((kind == KINDS.index("triangle")).unsqueeze(-1), hopping, start)
    margin = radius.unsqueeze(-1)
    return torch.minimum(torch.maximum(start, margin), 1 - margin)


def heading(hue: Tensor) -> Tensor:
    """The direction ``[..., 2]`` that a colour stands for: red to the right, then 60 degrees clockwise each."""
    angle = hue * (math.pi / 3)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def times(scenes: Scenes, frames: int) -> Tensor:
    """The world's time u of every frame, ``[n, f]``."""
    return (scenes.motion_bucket / 127 / scenes.fps).unsqueeze(1) * torch.arange(frames)


def track(scenes: Scenes, frames: int) -> Track:
    """The true future of the scenes: the shapes' places, radii and angles at every frame."""
    u = times(scenes, frames).unsqueeze(1)  # [n, 1, f]
    start = scenes.start.unsqueeze(2)  # [n, m, 1, 2]
    radius, angle = scenes.radius.unsqueeze(2), scenes.angle.unsqueeze(2)  # [n, m, 1]
    sense = torch.tensor(SENSE)[scenes.hue].unsqueeze(2)
    direction = heading(scenes.hue).unsqueeze(2)
    margin = radius.unsqueeze(3)

    def stack(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y], dim=3)

    def turned(by: Tensor) -> Tensor:
        arm = start - 0.5
        cos, sin = by.cos(), by.sin()
        return 0.5 + stack(arm[..., 0] * cos - arm[..., 1] * sin, arm[..., 0] * sin + arm[..., 1] * cos)

    along = u.unsqueeze(3)
    drift = reflect(start + DRIFT * direction * along, margin)
    fall = start + 0.5 * FALL * direction * along**2
    fall = torch.minimum(torch.maximum(fall, margin), 1 - margin)
    hop = stack(
        reflect(start[..., 0] + HOP_LENGTH * sense * u, radius),
        start[..., 1] - HOP_HEIGHT * (math.pi * u).sin().abs(),
    )
    position = start.expand_as(drift)
    for name, moved in zip(MOVING, (drift, fall, hop, turned(sense * ORBIT * u)), strict=True):
        position = torch.where((scenes.kind == KINDS.index(name)).view(*start.shape[:3], 1), moved, position)

    size = torch.where(sense > 0, 1 + GROWTH * u, 1 / (1 + GROWTH * u))
    grown = torch.minimum(radius * size, torch.tensor(LARGEST))
    is_bar = (scenes.kind == KINDS.index("bar")).unsqueeze(2)
    is_cross = (scenes.kind == KINDS.index("cross")).unsqueeze(2)
    return Track(
        position=position,
        radius=torch.where(is_cross, grown, radius),
        angle=torch.where(is_bar, angle + sense * SPIN * u, angle),
    )


def reflect(x: Tensor, margin: Tensor) -> Tensor:
    """Fold a straight path into ``margin .. 1 - margin``, as edges that bounce do."""
    room = 1 - 2 * margin
    return margin + room - ((x - margin).remainder(2 * room) - room).abs()


def background(scenes: Scenes, side: int) -> Tensor:
    """The picture without its shape, ``[n, 3, s, s]`` in 0..1: a gradient and gratings."""
    y, x = grid(side)
    centred = torch.stack([x, y]) - 0.5
    slope = torch.einsum("ncd,dij->ncij", scenes.slope, centred)
    kx, ky, phase, amplitude = (rearrange(t, "n w -> n w 1 1") for t in scenes.waves.unbind(2))
    texture = (amplitude * (2 * math.pi * (kx * x + ky * y) + phase).sin()).sum(1, keepdim=True)
    return (scenes.ground.view(-1, 3, 1, 1) + slope + texture).clamp(0, 1)


def colour(scenes: Scenes) -> Tensor:
    """Colours of the shapes, ``[n, m, 3]`` in 0..1."""
    return torch.tensor(PALETTE)[scenes.hue]


def grid(side: int) -> tuple[Tensor, Tensor]:
    """Y and x of the pixel centres, ``[s, s]`` each."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return y, x


def coverage(scenes: Scenes, path: Track, side: int) -> Tensor:
    """Share of every pixel that each shape covers, ``[n, m, f, s, s]``, from its distance, one pixel soft."""
    y, x = grid(side)
    out = torch.zeros(*path.position.shape[:3], side, side)
    for k, name in enumerate(KINDS):
        chosen = scenes.kind == k
        px, py = (rearrange(t, "a f -> a f 1 1") for t in path.position[chosen].unbind(2))
        r = rearrange(path.radius[chosen], "a f -> a f 1 1")
        dx, dy = (x - px) / r, (y - py) / r
        if name == "bar":
            turn = rearrange(path.angle[chosen], "a f -> a f 1 1")
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


def render(scenes: Scenes, frames: int, side: int) -> Tensor:
    """The true clips, ``[n, f, 3, s, s]`` in 0..1."""
    cover = rearrange(coverage(scenes, track(scenes, frames), side), "n m f h w -> m n f 1 h w")
    colours = rearrange(colour(scenes), "n m c -> m n 1 c 1 1")
    clips = background(scenes, side).unsqueeze(1).expand(-1, frames, -1, -1, -1)
    for covered, shade in zip(cover.flip(0), colours.flip(0), strict=True):  # the first shape in front
        clips = torch.lerp(clips, shade, covered)
    return clips


@dataclass(frozen=True)
class Sight:
    """The shapes as found in frames, to be compared with :class:`Track` or with what is found in the true frames."""

    cover: Tensor  # [n, m, f, s, s] in 0..1
    position: Tensor  # [n, m, f, 2]; not a number where nothing of the shape's colour is left
    area: Tensor  # [n, m, f] in squared widths
    angle: Tensor  # [n, m, f] of the long axis, modulo pi


def see(frames: Tensor, scenes: Scenes, threshold: float = 0.35) -> Sight:
    """Find the shapes in ``frames [n, f, 3, s, s]``, true or generated.

    Coverage is how far a pixel has moved from the known background towards the shape's colour, from 0 to 1; two
    shapes' coverages are those that explain the pixel with least squares. Coverage below ``threshold`` counts as 0,
    so that faint errors far away do not pull at the centroid.
    """
    side = frames.shape[-1]
    behind = background(scenes, side)
    towards = rearrange(colour(scenes), "n m c -> n m c 1 1") - behind.unsqueeze(1)
    towards = towards * rearrange(scenes.present, "n m -> n m 1 1 1")
    products = torch.einsum("nachw,nbchw->nhwab", towards, towards)
    # an absent shape explains nothing: its row and column are zero but for this one
    products = products + torch.diag_embed(1.0 * rearrange(~scenes.present, "n m -> n 1 1 m"))
    along = torch.einsum("nachw,nfchw->nfahw", towards, frames - behind.unsqueeze(1))
    cover = torch.einsum("nhwab,nfbhw->nafhw", _inverse(products), along)
    cover = torch.where(cover < threshold, 0, cover.clamp(0, 1))
    y, x = grid(side)
    mass = cover.sum((3, 4))
    mean_x, mean_y = ((cover * t).sum((3, 4)) / mass for t in (x, y))
    dx, dy = (t - rearrange(mean, "n m f -> n m f 1 1") for t, mean in ((x, mean_x), (y, mean_y)))
    xx, yy, xy = ((cover * t).sum((3, 4)) for t in (dx * dx, dy * dy, dx * dy))
    return Sight(
        cover=cover,
        position=torch.stack([mean_x, mean_y], dim=3),
        area=mass / side**2,
        angle=0.5 * torch.atan2(2 * xy, xx - yy),
    )


def _inverse(a: Tensor) -> Tensor:
    """Inverses of symmetric matrices ``[..., 1, 1]`` or ``[..., 2, 2]``; LAPACK takes them one by one."""
    if a.shape[-1] == 1:
        return 1 / a
    (p, q), (_, r) = (row.unbind(-1) for row in a.unbind(-2))
    adjugate = torch.stack([torch.stack([r, -q], dim=-1), torch.stack([-q, p], dim=-1)], dim=-2)
    return adjugate / (p * r - q * q)[..., None, None]


def clips(n: int, seed: int, frames: int, side: int, part: int = 64) -> tuple[Scenes, Tensor]:
    """Draw n scenes and their true clips as bytes ``[n, f, s, s, 3]``, rendered ``part`` at a time."""
    scenes = draw(n, seed, side)
    pixels = torch.empty(n, frames, side, side, 3, dtype=torch.uint8)
    for i in range(0, n, part):
        found = render(scenes[i : i + part], frames, side)
        pixels[i : i + part] = rearrange((found * 255).round().byte(), "n f c h w -> n f h w c")
    return scenes, pixels
