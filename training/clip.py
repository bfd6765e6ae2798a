"""Train the image encoder to name what it sees. Its embedding is then frozen and becomes the context token.

Linear heads on the embedding predict the shape's kind, colour, place and radius. After training the heads are thrown
away, and the projection is scaled so that the embedding has unit variance.

    python -m training.clip runs/clip
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from training import world
from training.common import Recipe, averaged, averaged_steps, finish, process_group, train
from training.config import CONFIG, HELD_OUT_SEED, TRAIN_SEED, settings
from vcut.clip import CLIPVisionEncoder
from vcut.config import CLIPConfig

RECIPE = Recipe(steps=6000, batch=24, lr=1e-3, lr_end=2e-5, weight_decay=0.01, ema=0.99)

Attributes = tuple[Tensor, Tensor, Tensor]
"""Kind [b], hue [b], and [b, 3] of x, y and radius in widths."""


class Objective(nn.Module):
    """Loss of the encoder with its heads: cross-entropy of kind and hue, squared error of place and radius."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionEncoder(config)
        self.kind = nn.Linear(config.embed_dim, len(world.KINDS))
        self.hue = nn.Linear(config.embed_dim, len(world.HUES))
        self.place = nn.Linear(config.embed_dim, 3)

    def forward(self, batch: tuple[Tensor, Attributes]) -> Tensor:
        """Loss of a batch: pictures [b, 3, H, W] in -1..1 and their attributes."""
        pictures, (kind, hue, place) = batch
        embedding = self.clip.embed(pictures)[:, 0]
        wrong_kind = F.cross_entropy(self.kind(embedding), kind)
        wrong_hue = F.cross_entropy(self.hue(embedding), hue)
        return wrong_kind + wrong_hue + 10 * F.mse_loss(self.place(embedding), place)


def batches(scenes: world.Scenes, pixels: Tensor) -> Callable[[Generator, int], tuple[Tensor, Attributes]]:
    """Draw frames of the clips ``pixels [n, f, s, s, 3]`` in bytes, with their attributes."""
    path = world.track(scenes, pixels.shape[1])

    def draw(g: Generator, size: int) -> tuple[Tensor, Attributes]:
        i = torch.randint(len(scenes), (size,), generator=g)
        k = torch.randint(pixels.shape[1], (size,), generator=g)
        pictures = rearrange(pixels[i, k].float() / 127.5 - 1, "b h w c -> b c h w")
        place = torch.cat([path.position[i, k], path.radius[i, k].unsqueeze(1)], dim=1)
        return pictures, (scenes.kind[i], scenes.hue[i], place)

    return draw


@torch.no_grad()
def accuracy(objective: Objective, clips: int = 128) -> dict[str, float]:
    """Accuracy of the heads on held-out frames: shares of right kinds and hues, and the place's error."""
    scenes, pixels = world.clips(clips, HELD_OUT_SEED, CONFIG.frames, CONFIG.width)
    pictures, (kind, hue, place) = batches(scenes, pixels)(Generator().manual_seed(0), 4 * clips)
    embedding = objective.clip.embed(pictures)[:, 0]
    found = objective.place(embedding)
    return {
        "kind": (objective.kind(embedding).argmax(1) == kind).float().mean().item(),
        "hue": (objective.hue(embedding).argmax(1) == hue).float().mean().item(),
        "place": (found - place)[:, :2].norm(dim=1).mean().item(),
    }


@torch.no_grad()
def standardise(clip: CLIPVisionEncoder, pictures: Tensor) -> None:
    """Scale the projection in place so that embeddings of ``pictures`` have unit mean square."""
    clip.proj.weight /= clip.embed(pictures)[:, 0].square().mean().sqrt()


def train_clip(folder: Path, clips: int = 2048, recipe: Recipe = RECIPE) -> Objective:
    """Train the encoder, and return its moving average with the heads."""
    objective = Objective(CONFIG.clip)
    if averaged_steps(folder) < recipe.steps:
        scenes, pixels = world.clips(clips, TRAIN_SEED, CONFIG.frames, CONFIG.width)
        train(objective, batches(scenes, pixels), recipe, folder)
    objective.load_state_dict(averaged(folder))
    return objective


def main() -> None:
    """Train, and print how well the encoder names held-out frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    arguments = parser.parse_args()
    settings()
    torch.manual_seed(RECIPE.seed)
    with process_group():
        recipe = dataclasses.replace(RECIPE, steps=arguments.steps)
        objective = train_clip(arguments.folder, recipe=recipe)
    named = accuracy(objective)
    pictures = world.render(world.draw(256, TRAIN_SEED), 1, CONFIG.width)[:, 0] * 2 - 1
    standardise(objective.clip, pictures)
    finish(objective.clip, arguments.folder)
    print({name: round(value, 4) for name, value in named.items()})


if __name__ == "__main__":
    main()
