"""Conditions of a clip, and the network bound to them.

Shapes: n clips, k branches, f frames, d context width, h w latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vcut.sampling import Branch, Mix, Network, Plan
from vcut.unet import Context, UNet

WEIGHTS: dict[Mix, float] = {"cond": 1.0, "mean": 0.5, "uncond": 0.0}
"""Factor on a conditional value: all of it, half (the paper's equation 4) or nothing (classifier-free guidance)."""


@dataclass(frozen=True)
class Conditioning:
    """The three ways in which an image and its settings reach the UNet."""

    # [n, 1, d]: CLIP's, for the cross-attentions
    embedding: Tensor
    # [n, 4, h, w]: the VAE's, unscaled, concatenated to every frame's noisy latents
    latents: Tensor
    # [n, 3]: fps - 1, motion bucket, noise augmentation strength
    time_ids: Tensor


class Inputs(NamedTuple):
    """Inputs of one call of the UNet besides the noisy latents: k branches of n clips as one batch."""

    context: Context
    # [k n, 4, h, w]
    latents: Tensor
    # [k n, 3]
    time_ids: Tensor


def bind(
    unet: UNet, conditioning: Conditioning, plan: Plan, frames: int, *, sequential: bool = False
) -> Network:
    """The network F(x, c_noise, branches) of one run.

    Its contexts are made here, before the first step: one for the guided steps and one for the others. The branches
    of a step go through the UNet as one batch, or one after the other.

    Args:
        unet: the UNet that the contexts are made for.
        conditioning: of n clips.
        plan: the steps that will be run. Branches of no step of it work too; their context is made at each call.
        frames: number of frames of a clip.
        sequential: run the branches one after the other: less memory at a time, equal output.
    """
    calls = {call for step in plan for call in _calls(step.branches, sequential)}
    inputs = {call: _inputs(unet, conditioning, call, frames) for call in calls}

    def network(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        outputs = []
        for call in _calls(branches, sequential):
            given = inputs[call] if call in inputs else _inputs(unet, conditioning, call, frames)
            outputs.append(_evaluate(unet, given, x, c_noise))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return network


def _calls(branches: tuple[Branch, ...], sequential: bool) -> list[tuple[Branch, ...]]:
    """The calls of the UNet that one step makes."""
    return [(branch,) for branch in branches] if sequential else [branches]


def _inputs(unet: UNet, conditioning: Conditioning, branches: tuple[Branch, ...], frames: int) -> Inputs:
    embedding = torch.cat([WEIGHTS[branch.context] * conditioning.embedding for branch in branches])
    return Inputs(
        unet.cache_context(embedding, frames),
        torch.cat([WEIGHTS[branch.latents] * conditioning.latents for branch in branches]),
        conditioning.time_ids.repeat(len(branches), 1),
    )


def _evaluate(unet: UNet, inputs: Inputs, x: Tensor, c_noise: float) -> Tensor:
    """One call of the UNet on ``x [n, f, c, h, w]``: ``[k, n, f, c, h, w]``."""
    k = len(inputs.latents) // len(x)
    noisy = x.repeat(k, 1, 1, 1, 1)  # [k n, f, c, h, w]
    image = inputs.latents[:, None].expand(-1, x.shape[1], -1, -1, -1)
    latents = torch.cat([noisy.to(unet.dtype), image.to(unet.dtype)], dim=2)
    # a fill, not a copy from the host
    noise_level = torch.full((1,), c_noise, dtype=torch.float32, device=x.device)
    output = unet(latents, noise_level, inputs.context, inputs.time_ids)
    return output.unflatten(0, (k, -1))
