"""Train the UNet as Stable Video Diffusion was: EDM's loss, noise on the conditioning, conditions left out.

The preconditioning is the sampler's own, :func:`vcut.sampling.coefficients`. Guidance needs an unconditional branch,
so some batches lack the embedding, some the image latents, and most of these both. Latents and embeddings are
computed once, before the first step.

    python -m training.unet runs/vae runs/clip runs/unet
    torchrun --nproc-per-node 8 -m training.unet runs/vae runs/clip runs/unet --bf16 --batch 256
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Generator, Tensor, nn

from training import world
from training.common import Recipe, finished, generator, load, process_group, save, train
from training.config import SHALLOW, TRAIN_SEED, settings
from vcut.clip import CLIPVisionEncoder
from vcut.config import TINY
from vcut.sampling import SIGMA_MAX, SIGMA_MIN, coefficients
from vcut.unet import UNet
from vcut.unet.attention import CrossAttention, KeyValue
from vcut.vae import VAE

RECIPE = Recipe(steps=20_000, batch=4, lr=1e-3, lr_end=2e-5, warmup=300, weight_decay=0.01, ema=0.999)

LOG_SIGMA_MEAN, LOG_SIGMA_STD = 1.8, 1.7
# The share of noise levels that are drawn evenly in ln(sigma) over the sampler's whole range.
WHOLE_RANGE = 0.1
LOG_AUG_MEAN, LOG_AUG_STD = -3.5, 0.6
DROP_EMBEDDING, DROP_IMAGE, DROP_BOTH = 0.05, 0.05, 0.1


@dataclass(frozen=True)
class Data:
    """Training data of n clips, computed once, with v noised views of each first frame."""

    scale: float  # 1 / standard deviation of the VAE's latents
    latents: Tensor  # [n, f, z, h, w], times scale
    images: Tensor  # [n, v, z, h, w], of the noised first frames, unscaled
    noise_aug: Tensor  # [n, v]
    embeddings: Tensor  # [n, d]
    fps: Tensor  # [n]
    motion_bucket: Tensor  # [n]


@dataclass(frozen=True)
class Batch:
    """A batch of b clips, each at a noise level of its own."""

    latents: Tensor  # [b, f, z, h, w], scaled
    noise: Tensor  # like latents
    sigma: Tensor  # [b]
    image: Tensor  # [b, z, h, w], zero where left out
    embedding: Tensor  # [b, 1, d], zero where left out
    time_ids: Tensor  # [b, 3]


class Objective(nn.Module):
    """EDM's loss ``(1 + sigma^2) / sigma^2 (D - latents)^2``: the squared error of the network's raw output."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, batch: Batch) -> Tensor:
        return self.losses(batch).mean()

    def losses(self, batch: Batch) -> Tensor:
        """Losses of every clip and frame, ``[b, f]``."""
        c = coefficients(rearrange(batch.sigma, "b -> b 1 1 1 1"))
        x = batch.latents + rearrange(batch.sigma, "b -> b 1 1 1 1") * batch.noise
        image = repeat(batch.image, "b z h w -> b f z h w", f=x.shape[1])
        output = self.unet(
            torch.cat([c.c_in * x, image], dim=2), c.c_noise.flatten(), batch.embedding, batch.time_ids
        )
        denoised = c.c_skip * x + c.c_out * output.float()
        return ((denoised - batch.latents) / c.c_out).square().mean((2, 3, 4))


class ValueOnly(CrossAttention):
    """A cross-attention to one context token, around the layers of ``cross``: ``W_o (W_v e) + b_o`` and no logits.

    Its weights keep their names. Those of W_q, W_k and the norm before them are frozen.
    """

    def __init__(self, cross: CrossAttention) -> None:
        nn.Module.__init__(self)  # no layers of its own
        self.heads = cross.heads
        self.norm, self.to_q, self.to_k = cross.norm, cross.to_q, cross.to_k
        self.to_v, self.to_out = cross.to_v, cross.to_out
        for dead in (self.norm, self.to_q, self.to_k):
            dead.requires_grad_(False)

    def forward(self, x: Tensor, cached: KeyValue) -> Tensor:
        return self.to_out(cached.value)


def without_dead_weights(unet: UNet) -> UNet:
    """The same UNet and parameters, its cross-attentions computing W_o (W_v e) + b_o and no logits.

    With one context token that is what softmax attention gives, and what reaches W_q, W_k and their norm is a
    gradient of exactly zero (Taghipour et al., section III): so they are not trained, and cost nothing.
    """
    for transformer in unet.transformers():
        for block in (*transformer.spatial, *transformer.temporal):
            if isinstance(block.cross, CrossAttention):
                block.cross = ValueOnly(block.cross)
    return unet


def silenced(unet: UNet) -> UNet:
    """The same UNet with zeros in the last layer of every residual branch and of all, in which training begins.

    Stability's code (sgm) begins so too: every block is the identity at first, and the network says 0.
    """
    for name, parameter in unet.named_parameters():
        if re.search(r"conv_2\.|transformer\.proj_out\.|^conv_out\.", name):
            nn.init.zeros_(parameter)
    return unet


def sigmas(g: Generator, n: int) -> Tensor:
    """Noise levels ``[n]`` to train at: log-normal, and a share of them evenly over the sampler's whole range."""
    normal = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(n, generator=g)
    low, high = math.log(SIGMA_MIN), math.log(SIGMA_MAX)
    even = low + (high - low) * torch.rand(n, generator=g)
    return torch.where(torch.rand(n, generator=g) < WHOLE_RANGE, even, normal).clamp(low, high).exp()


def batches(data: Data) -> Callable[[Generator, int], Batch]:
    """A function that draws clips, noise levels and noise, and leaves out some conditions."""

    def draw(g: Generator, size: int) -> Batch:
        i = torch.randint(len(data.latents), (size,), generator=g)
        view = torch.randint(data.images.shape[1], (size,), generator=g)
        latents = data.latents[i]
        chance = torch.rand(size, generator=g)
        both = chance < DROP_BOTH
        no_embedding = both | ((chance >= DROP_BOTH) & (chance < DROP_BOTH + DROP_EMBEDDING))
        no_image = both | (chance >= 1 - DROP_IMAGE)
        return Batch(
            latents=latents,
            noise=torch.randn(latents.shape, generator=g),
            sigma=sigmas(g, size),
            image=data.images[i, view].masked_fill(no_image.view(-1, 1, 1, 1), 0),
            embedding=data.embeddings[i].masked_fill(no_embedding.view(-1, 1), 0).unsqueeze(1),
            time_ids=torch.stack([data.fps[i] - 1, data.motion_bucket[i], data.noise_aug[i, view]], dim=1),
        )

    return draw


@torch.no_grad()
def prepare(vae: VAE, clip: CLIPVisionEncoder, n: int, seed: int, views: int = 2, part: int = 32) -> Data:
    """Render n clips and encode them, ``part`` at a time."""
    scenes = world.draw(n, seed, TINY.width)
    g = generator(seed, 1)
    latents, images, embeddings = [], [], []
    noise_aug = (LOG_AUG_MEAN + LOG_AUG_STD * torch.randn(n, views, generator=g)).exp()
    for i in range(0, n, part):
        some = scenes[i : i + part]
        frames = world.render(some, TINY.frames, TINY.width) * 2 - 1
        flat = rearrange(frames, "n f c h w -> (n f) c h w")
        latents.append(rearrange(vae.encode(flat), "(n f) z h w -> n f z h w", n=len(some)))
        first = repeat(frames[:, 0], "n c h w -> n v c h w", v=views)
        level = noise_aug[i : i + part].view(len(some), views, 1, 1, 1)
        noised = first + level * torch.randn(first.shape, generator=g)
        encoded = vae.encode(rearrange(noised, "n v c h w -> (n v) c h w"))
        images.append(rearrange(encoded, "(n v) z h w -> n v z h w", v=views))
        embeddings.append(clip.embed(frames[:, 0])[:, 0])
    encoded = torch.cat(latents)
    scale = 1 / encoded.std().item()
    return Data(
        scale=scale,
        latents=encoded * scale,
        images=torch.cat(images),
        noise_aug=noise_aug,
        embeddings=torch.cat(embeddings),
        fps=scenes.fps,
        motion_bucket=scenes.motion_bucket,
    )


def encoded(vae: Path, clip: Path, n: int, seed: int) -> Data:
    """N clips of a seed, encoded by the networks that the other stages left in their folders."""
    networks = (
        finished(VAE(SHALLOW), vae / "images"),
        finished(CLIPVisionEncoder(TINY.clip), clip),
    )
    return prepare(*networks, n, seed)


def cached(path: Path, make: Callable[[], Data]) -> Data:
    """Data read from ``path``, or made and written there the first time."""
    if not path.exists():
        save(vars(make()), path)
    return Data(**load(path))


def main() -> None:
    """Train the UNet on latents and embeddings of the trained VAE and CLIP encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("vae", type=Path, help="folder of training.vae")
    parser.add_argument("clip", type=Path, help="folder of training.clip")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--batch", type=int, default=RECIPE.batch)
    parser.add_argument("--lr", type=float, default=RECIPE.lr)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the UNet: minutes, then faster steps")
    arguments = parser.parse_args()
    settings()
    recipe = dataclasses.replace(
        RECIPE, steps=arguments.steps, batch=arguments.batch, lr=arguments.lr, bf16=arguments.bf16
    )
    torch.manual_seed(recipe.seed)
    data = cached(
        arguments.folder / "data.pt",
        lambda: encoded(arguments.vae, arguments.clip, arguments.clips, TRAIN_SEED),
    )
    print(f"{len(data.latents)} clips, VAE scale {data.scale:.5f}")
    objective = Objective(without_dead_weights(silenced(UNet(TINY.unet))))
    if arguments.compile:
        objective.unet.compile()
    with process_group():
        train(objective, batches(data), recipe, arguments.folder)


if __name__ == "__main__":
    main()
