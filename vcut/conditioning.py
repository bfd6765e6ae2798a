"""What a clip is conditioned on, and the network bound to it.

Shapes: n clips, f frames, d context width, h w latent size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from vcut.sampling import Branch, Mix, Network
from vcut.unet import Context, UNet

WEIGHTS: dict[Mix, float] = {"cond": 1.0, "mean": 0.5, "uncond": 0.0}
"""What is left of a conditional value: all, half (the paper's equation 4) or nothing (classifier-free guidance)."""


@dataclass(frozen=True)
class Conditioning:
    """The three ways in which an image and its settings reach the UNet."""

    embedding: Tensor  # [n, 1, d]: CLIP, to the cross-attentions
    latents: Tensor  # [n, 4, h, w]: VAE, unscaled, concatenated to every frame's noisy latents
    time_ids: Tensor  # [n, 3]: fps - 1, motion bucket, noise augmentation strength


def bind(unet: UNet, conditioning: Conditioning, *, sequential: bool = False) -> Network:
    """The network F(x, c_noise, branches) of one run.

    The contexts of each set of branches, and the frames' positions, are cached at its first step, once per run. The
    branches go through the UNet as one batch, or one after the other (``sequential``: less memory at a time, the
    same result).
    """

    @functools.cache
    def conditions(branches: tuple[Branch, ...], frames: int) -> tuple[Context, Tensor, Tensor]:
        embedding = torch.cat([WEIGHTS[branch.context] * conditioning.embedding for branch in branches])
        latents = torch.cat([WEIGHTS[branch.latents] * conditioning.latents for branch in branches])
        time_ids = conditioning.time_ids.repeat(len(branches), 1)
        return unet.cache_context(embedding, frames), latents, time_ids

    def evaluate(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        context, latents, time_ids = conditions(branches, x.shape[1])
        noisy = repeat(x, "n f c h w -> (k n) f c h w", k=len(branches))
        image = repeat(latents, "kn c h w -> kn f c h w", f=x.shape[1])
        inputs = torch.cat([noisy.to(unet.dtype), image.to(unet.dtype)], dim=2)
        noise_level = torch.full((1,), c_noise, device=x.device)  # a fill, not a copy from the host
        output = unet(inputs, noise_level, context, time_ids)
        return rearrange(output, "(k n) f c h w -> k n f c h w", k=len(branches))

    def network(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        if sequential:
            return torch.cat([evaluate(x, c_noise, (branch,)) for branch in branches])
        return evaluate(x, c_noise, branches)

    return network
