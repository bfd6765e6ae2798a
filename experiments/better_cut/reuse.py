"""Deep features used again at the next steps, as in DeepCache (Ma et al. 2023): the outermost level alone is renewed.

Features are a value that one pass gives and another takes. A run's own view of the UNet carries it from pass to pass.

Shapes: b clips, f frames.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vcut.unet import Context, UNet


def reusing(unet: UNet, every: int) -> UNet:
    """A view of ``unet`` for one run, which computes the levels below the outermost in every ``every``-th pass.

    It computes them as well when the number of clips changes, as it does at the cut: features of a guided pass are
    not those of a single one. It shares all weights, and each run needs a new one.
    """
    deep: Tensor | None = None
    uses = 0

    def forward(x: Tensor, c_noise: Tensor, context: Context, time_ids: Tensor) -> Tensor:
        nonlocal deep, uses
        if deep is None or len(deep) != len(x) or uses == every:
            deep, uses = None, 0
        output, deep = forward_from(unet, x, c_noise, context, time_ids, deep)
        uses += 1
        return output

    view = copy.copy(unet)
    vars(view)["forward"] = forward
    return view


def forward_from(
    unet: UNet, x: Tensor, c_noise: Tensor, context: Context, time_ids: Tensor, deep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One pass of the UNet, and what its outermost level received from the others; or a pass with ``deep`` for that.

    Arguments are those of :meth:`vcut.unet.UNet.forward`.
    """
    emb = unet._embed(c_noise.expand(len(x)), time_ids)
    x = unet.conv_in(rearrange(x.to(unet.dtype), "b f c h w -> b f h w c").contiguous())
    skips = [x]
    outermost, *lower = unet.down
    *raising, last = unet.up
    for layer, cached in zip(outermost.layers, context.down[0], strict=True):
        x = layer.resnet(x, emb)
        if layer.transformer is not None:
            x = layer.transformer(x, cached)
        skips.append(x)
    if deep is None:
        if outermost.downsample is not None:
            x = outermost.downsample(x)
        inner = [x]
        for down, level in zip(lower, context.down[1:], strict=True):
            x = down(x, emb, level, inner)
        x = unet.mid(x, emb, context.mid)
        for up, level in zip(raising, context.up[:-1], strict=True):
            x = up(x, emb, level, inner)
        deep = x
    x = last(deep, emb, context.up[-1], skips)
    x = unet.conv_out(F.silu(unet.norm_out(x), inplace=True))
    return rearrange(x, "b f h w c -> b f c h w"), deep
