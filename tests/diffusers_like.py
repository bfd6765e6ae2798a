"""A UNet of diffusers' shape in a few lines, and the kinds of change that projects built on SVD make to it.

It has what the integration looks at: transformers with spatial and temporal blocks, ``attn2`` and ``norm2`` in them,
and arguments of diffusers' names. The rest is as small as it gets. Transformers and blocks say that they are
diffusers'; a subclass of them is a project's own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, CONTEXT = 8, 12


class Attention(nn.Module):
    def __init__(self, context: int | None = None) -> None:
        super().__init__()
        self.to_q = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.to_k, self.to_v = (nn.Linear(context or CHANNELS, CHANNELS, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(CHANNELS, CHANNELS), nn.Dropout(0.0)])

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        gate: float | None = None,
    ) -> Tensor:
        e = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            t.unflatten(-1, (2, -1)).transpose(1, 2)
            for t in (self.to_q(hidden_states), self.to_k(e), self.to_v(e))
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return self.to_out[1](self.to_out[0](out.transpose(1, 2).flatten(2))) * (
            1.0 if gate is None else gate
        )


class Block(nn.Module):
    """Takes rows ``[n, q, c]``; over time it rearranges frames of pixels to pixels of frames and back."""

    __module__ = "diffusers.like"

    def __init__(self, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(CHANNELS) for _ in range(3))
        self.attn1, self.attn2 = Attention(), Attention(CONTEXT)
        self.ff = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, num_frames: int, **further: Any) -> Tensor:
        if self.temporal:
            pixels = x.shape[1]
            x = x.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)  # [b*q, f, c]
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), encoder_hidden_states=encoder_hidden_states, **further) + x
        x = self.ff(self.norm3(x)) + x
        return x.unflatten(0, (-1, pixels)).transpose(1, 2).flatten(0, 1) if self.temporal else x


class Transformer(nn.Module):
    """Makes a spatial block's rows, one a frame, and a temporal block's, one a pixel, in one order or the other.

    ``(b p)``, clip by clip, is right; diffusers before 0.28 had ``(p b)``, which mixes the clips of a batch.
    """

    __module__ = "diffusers.like"

    def __init__(self, order: Literal["(b p)", "(p b)"]) -> None:
        super().__init__()
        self.order = order
        self.transformer_blocks = nn.ModuleList([Block(False)])
        self.temporal_transformer_blocks = nn.ModuleList([Block(True)])

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, num_frames: int, **further: Any) -> Tensor:
        context = encoder_hidden_states
        pixels, first = x.shape[1], context.unflatten(0, (-1, num_frames))[:, 0]  # [b, m, d]
        over = (
            first[:, None].expand(-1, pixels, -1, -1)
            if self.order == "(b p)"
            else first.expand(pixels, *first.shape)
        )
        for space, time in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            x = space(x, context, num_frames, **further)
            x = time(x, over.flatten(0, 1), num_frames)
        return x


class UNet(nn.Module):
    """Per-frame contexts are ``[b*f, m, d]``, or ``[b, f, d]`` as some projects have them."""

    def __init__(
        self, order: Literal["(b p)", "(p b)"] = "(b p)", in_channels: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, CHANNELS, 1)
        self.transformers = nn.ModuleList([Transformer(order) for _ in range(2)])
        self.conv_out = nn.Conv2d(CHANNELS, 4, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.calls: list[int] = []  # batch sizes that were computed

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        pose_latents: Tensor | None = None,
        return_dict: bool = True,
        **further: Any,
    ) -> Any:
        b, f, _, h, w = sample.shape
        self.calls.append(b)
        context = encoder_hidden_states
        if len(context) == b:
            per_frame = context.shape[1] == f and f > 1
            context = context.flatten(0, 1)[:, None] if per_frame else context.repeat_interleave(f, 0)
        noise = torch.as_tensor(timestep, dtype=sample.dtype).expand(b) + added_time_ids.sum(1)
        x = self.conv_in(sample.flatten(0, 1)) + noise.repeat_interleave(f)[:, None, None, None]
        for i, transformer in enumerate(self.transformers):
            rows = x.flatten(2).transpose(1, 2)
            x = transformer(rows, encoder_hidden_states=context, num_frames=f, **further)
            x = x.transpose(1, 2).unflatten(2, (h, w))
            if down_block_additional_residuals is not None:
                x = x + down_block_additional_residuals[i]
        for residual in (mid_block_additional_residual, pose_latents):
            x = x if residual is None else x + residual
        out = self.conv_out(x).unflatten(0, (b, f))
        return SimpleNamespace(sample=out) if return_dict else (out,)


class Pipe:
    """A pipeline: guidance as one batch, Euler-like steps, a scheduler whose list is made for each run."""

    def __init__(self, unet: nn.Module | None = None) -> None:
        self.unet = UNet() if unet is None else unet
        self.scheduler = SimpleNamespace(timesteps=torch.arange(1000.0).flip(0))

    @torch.no_grad()
    def __call__(
        self, embedding: Tensor, *, steps: int = 5, scale: float = 2.0, seed: int = 0, **further: Any
    ) -> Tensor:
        """Latents of clips with ``embedding [b, 1, d]``, or ``[b * f, 1, d]`` with a context for each frame."""
        self.scheduler.timesteps = torch.linspace(1.6, -1.5, steps)
        guided = scale > 1
        x = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
        image = torch.ones_like(x)
        ids = torch.tensor([[0.6, 0.1, 0.02]]).expand(2, 3)
        if guided:
            embedding = torch.cat([torch.zeros_like(embedding), embedding])
            image, ids = torch.cat([torch.zeros_like(image), image]), torch.cat([ids, ids])
        for t in self.scheduler.timesteps:
            given = torch.cat([torch.cat([x, x]) if guided else x, image], dim=2)
            out = self.unet(given, t, embedding, added_time_ids=ids, return_dict=False, **further)[0]
            if guided:
                uncond, cond = out.chunk(2)
                out = uncond + scale * (cond - uncond)
            x = x - 0.1 * out
        return x


def embedding(rows: int = 2, tokens: int = 1) -> Tensor:
    return torch.randn(rows, tokens, CONTEXT, generator=torch.Generator().manual_seed(9))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())
