"""A classifier that names the kind of a shape from its outline: is a generated shape still what it was?

It learns on true frames and sees a shape as :func:`training.world.see` found it: its coverage, moved to the middle.
It is small enough to be trained anew, from one seed, whenever clips are judged.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from training import world
from training.config import TRAIN_SEED

WINDOW, PIXELS = 0.8, 32
"""Width of the outline's window in widths of the picture, and its pixels."""
HIDDEN = 0.5
"""Share of a shape that must be in sight for it to be asked about."""
STEPS, BATCH, CLIPS = 500, 64, 256


def outlines(sight: world.Sight) -> Tensor:
    """The shapes' coverages around their centroids, ``[n, m, f, p, p]``; zero where no shape was found."""
    n, m, f = sight.area.shape
    y, x = (WINDOW * (t - 0.5) for t in world.grid(PIXELS))
    place = rearrange(sight.position.nan_to_num(0.5), "n m f c -> (n m f) 1 1 c")
    at = 2 * (place + torch.stack([x, y], dim=2)) - 1  # grid_sample's corners are -1 and 1
    cover = rearrange(sight.cover, "n m f h w -> (n m f) 1 h w")
    return F.grid_sample(cover, at, align_corners=False).view(n, m, f, PIXELS, PIXELS)


def in_sight(scenes: world.Scenes, sight: world.Sight) -> Tensor:
    """Mask ``[n, m, f]`` of the shapes of which the true clip, seen as ``sight``, shows enough to name them."""
    side = sight.cover.shape[-1]
    whole = world.coverage(scenes, world.track(scenes, sight.area.shape[2]), side).sum((3, 4)) / side**2
    return (sight.area > HIDDEN * whole) & scenes.present.unsqueeze(2)


@torch.inference_mode(False)
@torch.enable_grad()
def classifier(frames: int, side: int) -> nn.Module:
    """Train the classifier, outlines ``[b, p, p]`` to logits, on clips of ``frames`` frames of ``side`` pixels."""
    scenes = world.draw(CLIPS, TRAIN_SEED, side)
    sight = world.see(world.render(scenes, frames, side), scenes)
    visible = in_sight(scenes, sight)
    shown, kind = outlines(sight)[visible], scenes.kind.unsqueeze(2).expand_as(visible)[visible]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Unflatten(1, (1, PIXELS)),
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * (PIXELS // 4) ** 2, len(world.KINDS)),
        )
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    g = Generator().manual_seed(0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        chosen = torch.randint(len(kind), (BATCH,), generator=g)
        loss = F.cross_entropy(network(shown[chosen]), kind[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def recognised(network: nn.Module, sight: world.Sight, true: world.Sight, scenes: world.Scenes) -> Tensor:
    """Share ``[n]`` of the shapes in ``sight`` at the last frame that are named right, of those in the truth."""
    asked = in_sight(scenes, true)[..., -1]
    named = network(outlines(sight)[..., -1, :, :].flatten(0, 1)).argmax(1).view_as(asked)
    return (named == scenes.kind).float().masked_fill(~asked, math.nan).nanmean(1)
