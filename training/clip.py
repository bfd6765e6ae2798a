"""Train the image encoder to name what it sees. Its embedding is then frozen and becomes the context token.

Linear heads on the embedding say which kinds of shapes and which colours the picture shows; not which shape has which
colour, which took far longer to learn. Another head says of every patch which kind of shape covers it: kinds are
learned from that. After training the heads are thrown away, and the projection is scaled so that the embedding has
unit variance.

    python -m training.clip runs/clip
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from training import world
from training.common import Recipe, averaged, averaged_steps, finish, process_group, train
from training.config import HELD_OUT_SEED, TRAIN_SEED, settings
from vcut.clip import CLIPVisionEncoder, preprocess
from vcut.config import TINY, CLIPConfig

RECIPE = Recipe(steps=10_000, batch=16, lr=1e-3, lr_end=2e-5, weight_decay=0.01, ema=0.99)

NONE = len(world.KINDS)
"""Kind of a patch that no shape covers."""
COVERED = 0.2
"""Share of a patch that a shape covers at least."""
PATCHES = TINY.clip.image_size // TINY.clip.patch_size


@dataclass(frozen=True)
class Shown:
    """Contents of b pictures."""

    kinds: Tensor  # [b, kinds] 1 where there is a shape of this kind
    hues: Tensor  # [b, hues] likewise
    patches: Tensor  # [b, n] kind of the shape that covers each patch, or NONE


class Objective(nn.Module):
    """Loss of the encoder with its heads: cross-entropies of kinds, colours and the patches' kinds."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionEncoder(config)
        self.kinds = nn.Linear(config.embed_dim, len(world.KINDS))
        self.hues = nn.Linear(config.embed_dim, len(world.HUES))
        self.patches = nn.Linear(config.width, NONE + 1)

    def forward(self, batch: tuple[Tensor, Shown]) -> Tensor:
        """Loss of a batch: pictures [b, 3, H, W] in -1..1 and what they show."""
        pictures, shown = batch
        states = self.clip.token_states(preprocess(pictures, self.clip.config.image_size))
        kinds, hues = self.named(states)
        wrong = F.binary_cross_entropy_with_logits(kinds, shown.kinds)
        wrong = wrong + F.binary_cross_entropy_with_logits(hues, shown.hues)
        return wrong + F.cross_entropy(self.patches(states[:, 1:]).flatten(0, 1), shown.patches.flatten())

    def named(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of kinds and hues, ``[b, kinds]`` and ``[b, hues]``, as the embedding of ``states`` has them."""
        embedding = self.clip.proj(self.clip.norm_post(states[:, 0]))
        return self.kinds(embedding), self.hues(embedding)


def batches(
    scenes: world.Scenes, pixels: Tensor, patches: int
) -> Callable[[Generator, int], tuple[Tensor, Shown]]:
    """Draw frames of the clips ``pixels [n, f, s, s, 3]`` in bytes, and what they show; ``patches`` along a side."""
    path = world.track(scenes, pixels.shape[1])
    there = scenes.present.unsqueeze(2)
    kinds = (F.one_hot(scenes.kind.clamp_min(0), len(world.KINDS)) * there).amax(1).float()
    hues = (F.one_hot(scenes.hue, len(world.HUES)) * there).amax(1).float()

    def covering(i: Tensor, at: world.Track) -> Tensor:
        cover = world.coverage(scenes[i], at, pixels.shape[2])[:, :, 0]
        most, which = F.adaptive_avg_pool2d(cover, patches).flatten(2).max(dim=1)  # [b, n]
        return scenes.kind[i].gather(1, which).masked_fill(most < COVERED, NONE)

    def draw(g: Generator, size: int) -> tuple[Tensor, Shown]:
        i = torch.randint(len(scenes), (size,), generator=g)
        k = torch.randint(pixels.shape[1], (size,), generator=g)
        pictures = rearrange(pixels[i, k].float() / 127.5 - 1, "b h w c -> b c h w")
        at = world.Track(*(rearrange(t[i, :, k], "b m ... -> b m 1 ...") for t in vars(path).values()))
        return pictures, Shown(kinds[i], hues[i], covering(i, at))

    return draw


@torch.no_grad()
def accuracy(objective: Objective, clips: int = 128) -> dict[str, float]:
    """Shares of held-out frames of which the embedding names all kinds, and all colours, and no other."""
    scenes, pixels = world.clips(clips, HELD_OUT_SEED, TINY.frames, TINY.width)
    pictures, shown = batches(scenes, pixels, PATCHES)(Generator().manual_seed(0), 4 * clips)
    states = objective.clip.token_states(preprocess(pictures, TINY.clip.image_size))
    kinds, hues = objective.named(states)
    return {
        "kind": ((kinds > 0) == shown.kinds.bool()).all(1).float().mean().item(),
        "hue": ((hues > 0) == shown.hues.bool()).all(1).float().mean().item(),
    }


@torch.no_grad()
def standardise(clip: CLIPVisionEncoder, pictures: Tensor) -> None:
    """Scale the projection in place so that embeddings of ``pictures`` have unit mean square."""
    clip.proj.weight /= clip.embed(pictures)[:, 0].square().mean().sqrt()


def train_clip(folder: Path, clips: int = 4096, recipe: Recipe = RECIPE) -> Objective:
    """Train the encoder, and return its moving average with the heads."""
    objective = Objective(TINY.clip)
    if averaged_steps(folder) < recipe.steps:
        scenes, pixels = world.clips(clips, TRAIN_SEED, TINY.frames, TINY.width)
        train(objective, batches(scenes, pixels, PATCHES), recipe, folder)
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
    pictures = world.render(world.draw(256, TRAIN_SEED, TINY.width), 1, TINY.width)[:, 0] * 2 - 1
    standardise(objective.clip, pictures)
    finish(objective.clip, arguments.folder)
    print({name: round(value, 4) for name, value in named.items()})


if __name__ == "__main__":
    main()
